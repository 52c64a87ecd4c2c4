"""Which endpoints a project sees: those associated with it, alone or by a group; all of them where none is.

Read at every token of a project, so both questions are one statement each, and most clouds' answers are empty.
Source: Identity API reference, "OS-EP-FILTER". Writes nothing. Next rooms: `catalog.py`, `endpoint_groups.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...models import EndpointGroup, ProjectEndpoint, ProjectEndpointGroup

FILTERS = ("service_id", "region_id", "interface")


def fits(endpoint: dict, filters: dict) -> bool:
    """Whether the endpoint is of the group with these filters."""
    return all(endpoint[name] == value for name, value in filters.items())


def choose_endpoints(session, project_id: str, endpoints: dict[str, dict]) -> dict[str, dict]:
    """Of these endpoints, by id, the ones that are associated with the project; none where nothing is."""
    chosen = set(session.scalars(select(ProjectEndpoint.endpoint_id).filter_by(project_id=project_id)))
    groups = session.scalars(
        select(EndpointGroup.filters)
        .join(ProjectEndpointGroup, ProjectEndpointGroup.endpoint_group_id == EndpointGroup.id)
        .where(ProjectEndpointGroup.project_id == project_id)
    ).all()
    return {
        key: one for key, one in endpoints.items() if key in chosen or any(fits(one, filters) for filters in groups)
    }
