"""The Block Storage API (v3 with microversions): its resources, in one table."""

from ...routes import Service
from . import attachments, limits, services, snapshots, types, versions, volume_actions, volume_metadata, volumes

RESOURCES = [versions, volumes, volume_metadata, volume_actions, snapshots, types, attachments, services, limits]

SERVICE = Service(
    name="volume",
    type="volumev3",
    title="Volume Service",
    prefix="/volume",
    version_path="/v3",
    port=8776,
    routes=[route for resource in RESOURCES for route in resource.ROUTES],
    project_paths=True,
)
