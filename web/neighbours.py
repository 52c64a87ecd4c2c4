"""Another service's route, asked from within a handler: its permission, schema, handler and view, in one process.

The Compute API has older words for what the network, image and volume services have; this is how its handlers ask them,
so that there is one handler for each thing. What is refused is raised as ever, and told in the caller's own format. A
route with a transaction works in the caller's; one without opens its own, so that its caller must have none.
"""

from __future__ import annotations

from dataclasses import replace

from . import fields as web_fields
from .http import Context
from .paging import Page
from .routes import Reply
from .versions import MINIMUM


def ask(ctx: Context, service: str, method: str, path: str, body: dict | None = None, query=(), **options):
    """What the route answers: a view, a list of them, or None.

    ``path`` is the route's as its table has it; ``query`` are pairs; ``options`` are the path's parameters, and
    ``stream`` and ``headers`` for a route that reads its body itself.
    """
    one = next(each for each in ctx.services if each.name == service)
    version = MINIMUM.get(service)
    route = next(
        each
        for each in one.routes
        if (each.method, each.path, each.action, each.root) == (method, path, None, False) and each.exists(version)
    )
    target = {"project_id": ctx.token.project_id, "user_id": ctx.token.user_id}
    ctx.policy.check(route.permission, ctx.token.credentials(), target)
    inner = replace(
        ctx,
        service=one,
        version=version,
        query=type(ctx.query)(list(query)),
        headers=options.pop("headers", {}),
        stream=options.pop("stream", None),
        body={},
        outer={},
    )
    if body is not None:
        inner.body = web_fields.check(route.fields, body, version, route.key or "body", route.extra)
    result = route.handler(inner, **options)
    if route.transaction and not route.stream:
        inner.session.flush()
    if isinstance(result, Reply):
        return result.body
    if route.view is None:
        return None
    if isinstance(result, Page | list):
        rows = result.rows if isinstance(result, Page) else result
        return [_view(route, inner, row) for row in rows]
    return _view(route, inner, result)


def _view(route, inner: Context, row) -> dict:
    return web_fields.trim(route.view_fields or {}, route.view(inner, row), inner.version)
