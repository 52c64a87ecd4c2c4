"""The Image API (/v2): its resources, in one table."""

from ...routes import Service
from . import (
    changes,
    files,
    host_files,
    host_uploads,
    images,
    imports,
    members,
    metadef_namespaces,
    metadef_objects,
    metadef_properties,
    metadef_resource_types,
    metadef_schemas,
    metadef_tags,
    schemas,
    stores,
    tags,
    tasks,
    versions,
)

RESOURCES = [
    versions, images, changes, files, imports, tasks, host_files, host_uploads, tags, members, schemas, stores,
    metadef_namespaces, metadef_objects, metadef_properties, metadef_tags, metadef_resource_types, metadef_schemas,
]  # fmt: skip

SERVICE = Service(
    name="image",
    type="image",
    title="Image Service",
    prefix="/image",
    version_path="/v2",
    port=9292,
    catalog_path="",
    slashes=False,
    routes=[route for resource in RESOURCES for route in resource.ROUTES],
)
