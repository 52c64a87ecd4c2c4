"""The Identity API (/v3): its resources, in one table."""

from ...routes import Service
from . import assignments, catalog, domains, passwords, projects, roles, scopes, tokens, users, versions

RESOURCES = [versions, tokens, catalog, scopes, domains, projects, users, passwords, roles, assignments]

SERVICE = Service(
    name="identity",
    type="identity",
    title="Identity Service",
    prefix="/identity",
    version_path="/v3",
    port=5000,
    routes=[route for resource in RESOURCES for route in resource.ROUTES],
)
