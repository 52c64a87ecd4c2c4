"""Endpoint groups, and which of them and of single endpoints are associated with which projects.

What a project is associated with is all that its tokens' catalogs hold. It hides and forbids nothing: services
answer whoever knows where they are. Source: Identity API reference, "OS-EP-FILTER". Next room:
`endpoint_filters.py`, which catalogs ask.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import BadRequest, NotFound
from ...fields import HEX_ID, NAME, field, mapping, nullable, one_of, text
from ...http import Context
from ...models import Endpoint, EndpointGroup, Project, ProjectEndpoint, ProjectEndpointGroup
from ...paging import read_page
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from . import endpoints, projects
from .catalog import INTERFACES, find_object, read_objects
from .endpoint_filters import choose_endpoints, fits
from .lists import build_link, build_list, filter_texts
from .projects import find_project

_FILTERS = mapping({"service_id": HEX_ID, "region_id": nullable(text(255, 1)), "interface": one_of(*INTERFACES)})
FIELDS = {
    "name": field(NAME, required=True),
    "filters": field({**_FILTERS, "minProperties": 1}, required=True),
    "description": field(nullable(text(4096))),
}
CHANGES = {
    "name": field(NAME),
    "filters": field({**_FILTERS, "minProperties": 1}),
    "description": field(nullable(text(4096))),
}


def find_endpoint_group(session, endpoint_group_id: str) -> EndpointGroup:
    """The endpoint group of this id; NotFound."""
    row = session.get(EndpointGroup, endpoint_group_id)
    if row is None:
        raise NotFound(f"Could not find Endpoint Group: {endpoint_group_id}.")
    return row


def index(ctx: Context) -> Reply:
    return _list(ctx, select(EndpointGroup))


def _list(ctx: Context, statement) -> Reply:
    page = read_page(
        ctx.session,
        filter_texts(ctx, statement, {"name": EndpointGroup.name}),
        ctx.query,
        columns={"name": EndpointGroup.name, "id": EndpointGroup.id},
        identity=EndpointGroup.id,
        default=[("name", "asc")],
        maximum=ctx.settings.api.max_limit,
    )
    return build_list(ctx, "endpoint_groups", page, view)


def show(ctx: Context, endpoint_group_id: str) -> EndpointGroup:
    return find_endpoint_group(ctx.session, endpoint_group_id)


def create(ctx: Context) -> EndpointGroup:
    """Of the endpoints that fit all its filters, whenever it is asked."""
    row = EndpointGroup(**ctx.body)
    ctx.session.add(row)
    ctx.session.flush()
    return row


def update(ctx: Context, endpoint_group_id: str) -> EndpointGroup:
    """Filters are set as a whole; catalogs follow at their next reading."""
    row = find_endpoint_group(ctx.session, endpoint_group_id)
    if not ctx.body:
        raise BadRequest("Invalid input in endpoint_group: nothing to change")
    for name, value in ctx.body.items():
        setattr(row, name, value)
    ctx.session.flush()
    return row


def delete(ctx: Context, endpoint_group_id: str) -> None:
    """With its associations."""
    ctx.session.delete(find_endpoint_group(ctx.session, endpoint_group_id))


def index_endpoints(ctx: Context, endpoint_group_id: str) -> Reply:
    row = find_endpoint_group(ctx.session, endpoint_group_id)
    found = [one for one in read_objects(ctx, Endpoint).values() if fits(one, row.filters)]
    return build_list(ctx, "endpoints", found, endpoints.view)


def _list_projects(ctx: Context, ids) -> Reply:
    rows = ctx.session.scalars(select(Project).where(Project.id.in_(ids)).order_by(Project.name, Project.id))
    return build_list(ctx, "projects", list(rows), projects.view)


def index_projects(ctx: Context, endpoint_group_id: str) -> Reply:
    find_endpoint_group(ctx.session, endpoint_group_id)
    return _list_projects(ctx, select(ProjectEndpointGroup.project_id).filter_by(endpoint_group_id=endpoint_group_id))


def index_of_project(ctx: Context, project_id: str) -> Reply:
    find_project(ctx.session, project_id)
    ids = select(ProjectEndpointGroup.endpoint_group_id).filter_by(project_id=project_id)
    return _list(ctx, select(EndpointGroup).where(EndpointGroup.id.in_(ids)))


def _find_association(ctx: Context, endpoint_group_id: str, project_id: str) -> ProjectEndpointGroup | None:
    find_endpoint_group(ctx.session, endpoint_group_id), find_project(ctx.session, project_id)
    return ctx.session.get(ProjectEndpointGroup, (project_id, endpoint_group_id))


def show_association(ctx: Context, endpoint_group_id: str, project_id: str) -> ProjectEndpointGroup:
    row = _find_association(ctx, endpoint_group_id, project_id)
    if row is None:
        raise NotFound("Endpoint Group Project Association not found.")
    return row


def create_association(ctx: Context, endpoint_group_id: str, project_id: str) -> Reply:
    """Asked for twice it is made once."""
    if _find_association(ctx, endpoint_group_id, project_id) is None:
        ctx.session.add(ProjectEndpointGroup(project_id=project_id, endpoint_group_id=endpoint_group_id))
    return Reply(None, 204)


def delete_association(ctx: Context, endpoint_group_id: str, project_id: str) -> None:
    ctx.session.delete(show_association(ctx, endpoint_group_id, project_id))


def view_association(ctx: Context, row: ProjectEndpointGroup) -> dict:
    link = build_link(ctx, "OS-EP-FILTER", "endpoint_groups", row.endpoint_group_id, "projects", row.project_id)
    return {"endpoint_group_id": row.endpoint_group_id, "project_id": row.project_id, "links": {"self": link}}


def index_endpoints_of_project(ctx: Context, project_id: str) -> Reply:
    """Those associated with it, alone or by a group; an empty list is a project that sees all."""
    find_project(ctx.session, project_id)
    found = choose_endpoints(ctx.session, project_id, read_objects(ctx, Endpoint))
    return build_list(ctx, "endpoints", list(found.values()), endpoints.view)


def index_projects_of_endpoint(ctx: Context, endpoint_id: str) -> Reply:
    """Those that are associated with the endpoint itself."""
    find_object(ctx, Endpoint, endpoint_id)
    return _list_projects(ctx, select(ProjectEndpoint.project_id).filter_by(endpoint_id=endpoint_id))


def _find_endpoint(ctx: Context, project_id: str, endpoint_id: str) -> ProjectEndpoint | None:
    find_object(ctx, Endpoint, endpoint_id), find_project(ctx.session, project_id)
    return ctx.session.get(ProjectEndpoint, (project_id, endpoint_id))


def _find_existing(ctx: Context, project_id: str, endpoint_id: str) -> ProjectEndpoint:
    row = _find_endpoint(ctx, project_id, endpoint_id)
    if row is None:
        raise NotFound(f"Endpoint {endpoint_id} not found in project {project_id}.")
    return row


def show_endpoint(ctx: Context, project_id: str, endpoint_id: str) -> Reply:
    """204 where they are associated, 404 where not."""
    _find_existing(ctx, project_id, endpoint_id)
    return Reply(None, 204)


def create_endpoint(ctx: Context, project_id: str, endpoint_id: str) -> Reply:
    """Asked for twice it is made once."""
    if _find_endpoint(ctx, project_id, endpoint_id) is None:
        ctx.session.add(ProjectEndpoint(project_id=project_id, endpoint_id=endpoint_id))
    return Reply(None, 204)


def delete_endpoint(ctx: Context, project_id: str, endpoint_id: str) -> None:
    ctx.session.delete(_find_existing(ctx, project_id, endpoint_id))


def view(ctx: Context, row: EndpointGroup) -> dict:
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "filters": dict(row.filters),
        "links": {"self": build_link(ctx, "OS-EP-FILTER", "endpoint_groups", row.id)},
    }


READ = rule("identity:endpoint_groups:read", ADMIN)
WRITE = rule("identity:endpoint_groups:write", ADMIN)
ASSOCIATE = rule("identity:endpoint_groups:associate", ADMIN)
ALL = "/OS-EP-FILTER/endpoint_groups"
ONE = ALL + "/{endpoint_group_id}"
GROUP_OF = ONE + "/projects/{project_id}"
ENDPOINTS = "/OS-EP-FILTER/projects/{project_id}/endpoints"
ENDPOINT_OF = ENDPOINTS + "/{endpoint_id}"
KEY = "endpoint_group"
ROUTES = [
    Route("GET", ALL, READ, None, index),
    Route("POST", ALL, WRITE, FIELDS, create, view, 201, key=KEY),
    Route("GET", ONE, READ, None, show, view, key=KEY),
    Route("PATCH", ONE, WRITE, CHANGES, update, view, key=KEY),
    Route("DELETE", ONE, WRITE, None, delete),
    Route("GET", ONE + "/endpoints", READ, None, index_endpoints),
    Route("GET", ONE + "/projects", READ, None, index_projects),
    Route("GET", GROUP_OF, READ, None, show_association, view_association, key="project_endpoint_group"),
    Route("PUT", GROUP_OF, ASSOCIATE, None, create_association),
    Route("DELETE", GROUP_OF, ASSOCIATE, None, delete_association),
    Route("GET", "/OS-EP-FILTER/projects/{project_id}/endpoint_groups", READ, None, index_of_project),
    Route("GET", ENDPOINTS, READ, None, index_endpoints_of_project),
    Route("GET", "/OS-EP-FILTER/endpoints/{endpoint_id}/projects", READ, None, index_projects_of_endpoint),
    Route("GET", ENDPOINT_OF, READ, None, show_endpoint),
    Route("PUT", ENDPOINT_OF, ASSOCIATE, None, create_endpoint),
    Route("DELETE", ENDPOINT_OF, ASSOCIATE, None, delete_endpoint),
]
