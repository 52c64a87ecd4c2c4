"""Kumo's own API for its operators (/v1): hosts, runs, drift, verification. What no OpenStack API has a place for."""

from ...routes import Service
from . import faults, host_images, hosts, runs, versions

RESOURCES = [versions, hosts, host_images, runs, faults]

SERVICE = Service(
    name="admin",
    type="kumo-admin",
    title="Kumo Administration",
    prefix="/admin",
    version_path="/v1",
    port=6781,
    routes=[route for resource in RESOURCES for route in resource.ROUTES],
)
