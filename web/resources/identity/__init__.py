"""The Identity API (/v3): its resources, in one table."""

from ...routes import Service
from . import (
    access_rules,
    application_credentials,
    assignments,
    catalog,
    domain_contents,
    domains,
    groups,
    passwords,
    projects,
    role_assignments,
    role_inferences,
    roles,
    scopes,
    tokens,
    users,
    versions,
)

RESOURCES = [
    versions,
    tokens,
    catalog,
    scopes,
    domains,
    domain_contents,
    projects,
    users,
    passwords,
    application_credentials,
    access_rules,
    groups,
    roles,
    role_inferences,
    assignments,
    role_assignments,
]

SERVICE = Service(
    name="identity",
    type="identity",
    title="Identity Service",
    prefix="/identity",
    version_path="/v3",
    port=5000,
    routes=[route for resource in RESOURCES for route in resource.ROUTES],
)
