"""The Image API (/v2): its resources, in one table."""

from ...routes import Service
from . import changes, files, host_files, host_uploads, images, imports, members, schemas, tags, tasks, versions

RESOURCES = [versions, images, changes, files, imports, tasks, host_files, host_uploads, tags, members, schemas]

SERVICE = Service(
    name="image",
    type="image",
    title="Image Service",
    prefix="/image",
    version_path="/v2",
    port=9292,
    catalog_path="",
    routes=[route for resource in RESOURCES for route in resource.ROUTES],
)
