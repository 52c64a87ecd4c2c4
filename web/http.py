"""The pipeline of one request: version → token → policy → schema → handler → view.

Owns `Context` and `Pipeline`; with `app.py` and the dashboard the only importer of Flask. Handlers
get a `Context` and the path's parameters, raise `web.errors.Problem`s, and return what their route's
view takes (or a `Reply`, which is sent as it is). A handler runs inside one transaction and may be run
again when two transactions collided, so it touches nothing but rows; a route with ``transaction=False``
opens its own. Next room: `resources/`.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import flask
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from . import dry_run, idempotency
from . import fields as web_fields
from .auth import REFUSED, Token, TokenKeys, read_token
from .delegations import is_allowed
from .dispatch import announce
from .errors import (
    BadRequest,
    NotAllowed,
    NotFound,
    TooLarge,
    Unauthorized,
    UnsupportedMedia,
    build_error,
)
from .models import Database, RequestLog, is_gone
from .paging import Page, build_next_link
from .policy import Policy
from .problems import as_problem
from .routes import Reply, Route, Service
from .versions import Version, build_version_headers, choose_version

LOG = logging.getLogger("kumo.api")
TRIES = 4
REQUEST_ID = re.compile(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Context:
    """What a handler knows of its request."""

    settings: SimpleNamespace
    database: Database
    keys: TokenKeys
    policy: Policy
    service: Service
    services: list[Service]
    request_id: str
    query: object  # werkzeug MultiDict
    headers: object
    address: str  # the caller's
    path: str
    token: Token | None = None
    session: object = None
    body: dict = field(default_factory=dict)
    outer: dict = field(default_factory=dict)
    dry_run: bool = False  # the transaction will be rolled back
    stream: object = None
    length: int | None = None
    version: Version | None = None  # for version documents and views that links need; handlers do not look

    @property
    def project_id(self) -> str:
        """The project the token is scoped to; Forbidden where it is to none."""
        if self.token is None or self.token.project_id is None:
            raise BadRequest("This request needs a token that is scoped to a project.")
        return self.token.project_id

    @property
    def is_admin(self) -> bool:
        return self.token is not None and self.token.is_admin

    def allows(self, permission: str, target: dict | None = None) -> bool:
        """Whether the caller has the permission on the target (by default its own project)."""
        credentials = self.token.credentials()
        return self.policy.allows(permission, credentials, target or {"project_id": self.token.project_id})

    def url(self, path: str = "", service: str | None = None, versioned: bool = True) -> str:
        """The public URL of a path of this (or the named) service."""
        one = self.service if service is None else next(s for s in self.services if s.name == service)
        return build_base_url(self.settings, one) + (one.version_path if versioned else "") + path

    @contextmanager
    def write(self):
        """A transaction of the handler's own (routes with ``transaction=False``); workers are told behind it."""
        with self.database.write.begin() as session:
            self.session = session
            yield session
        touched = session.info.get("touched_hosts")
        if touched:
            announce(self.settings, touched)


def build_base_url(settings, service: Service) -> str:
    """Where clients reach a service: under one address with a prefix, or at its own port."""
    if settings.api.separate_ports:
        scheme, rest = settings.api.public_url.split("://", 1)
        host = rest.split("/")[0].rsplit(":", 1)[0]
        return f"{scheme}://{host}:{service.port}"
    return settings.api.public_url + service.prefix


class Pipeline:
    """Answers requests of one service; one instance per service of an app."""

    def __init__(self, service: Service, services, settings, database: Database, keys: TokenKeys, policy: Policy):
        self.service, self.services = service, services
        self.settings, self.database, self.keys, self.policy = settings, database, keys, policy

    def answer(self, routes: list[Route], params: dict) -> flask.Response:
        """The response to Flask's current request, which one of ``routes`` is for. Never raises."""
        request = flask.request
        started = time.monotonic()
        given = request.headers.get("X-OpenStack-Request-ID", "")
        request_id = given if REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4()}"
        context = Context(
            settings=self.settings,
            database=self.database,
            keys=self.keys,
            policy=self.policy,
            service=self.service,
            services=self.services,
            request_id=request_id,
            query=request.args,
            headers=request.headers,
            address=request.remote_addr or "",
            path=request.path,
        )
        try:
            response = self._serve(request, routes, params, context)
        except Exception as error:
            response = self._refuse(request, context, error)
        for name, value in build_version_headers(self.service.name, context.version).items():
            response.headers[name] = value
        response.headers["X-Openstack-Request-Id"] = request_id
        if self.service.name in ("compute", "volume"):
            response.headers["X-Compute-Request-Id"] = request_id
        if self.settings.kumo.debug or response.status_code >= 500:
            LOG.info(
                "%s %s %s %s %.3fs", request_id, request.method, request.path, response.status_code,
                time.monotonic() - started,
            )  # fmt: skip
        return response

    def _serve(self, request, routes: list[Route], params: dict, context: Context) -> flask.Response:
        versioned = any(not route.root for route in routes)
        context.version = choose_version(self.service.name, request.headers) if versioned else None
        method = "GET" if request.method == "HEAD" else request.method
        known = [route for route in routes if route.method == request.method]
        known = known or [route for route in routes if route.method == method]
        if not known:
            raise NotAllowed(f"{request.method} is not allowed on {request.path}")
        known = [route for route in known if route.exists(context.version)]
        if not known:
            raise NotFound("The resource could not be found.")
        if any(route.permission is not None for route in known) or request.headers.get("X-Auth-Token"):
            self._authenticate(request, known, context)
        if context.token is not None and context.token.delegation is not None:
            path = request.path.removeprefix(self.service.prefix)
            if not is_allowed(context.token.delegation, self.service.type, request.method, path):
                raise Unauthorized(REFUSED)
        body = None
        if not known[0].stream and (known[0].fields is not None or known[0].action):
            body = self._read_body(request)
        route = _choose_action(known, body, routes) if known[0].action else known[0]
        given_project = params.pop("_project", None)
        if route.permission is not None:
            target = {"project_id": context.token.project_id, "user_id": context.token.user_id}
            if given_project is not None and given_project != context.token.project_id:
                raise BadRequest(
                    f"Malformed request URL: URL's project_id '{given_project}' doesn't match "
                    f"Context's project_id '{context.token.project_id}'"
                )
            self.policy.check(route.permission, context.token.credentials(), target)
        if route.stream:
            context.stream, context.length = request.stream, request.content_length
        bodies = self._check_body(route, body, context)
        once = None
        if method != "GET":
            context.dry_run = dry_run.is_wanted(request.headers)
            once = self._read_once(request, route, context, body)
        return self._run(request, route, params, context, bodies, once)

    def _read_once(self, request, route: Route, context: Context, body) -> tuple[str, str] | None:
        """(key, digest) of a request that is to be done once; BadRequest where that, or a trial, is not to be had."""
        key = idempotency.read_key(request.headers)
        alone = route.stream or not route.transaction or context.token is None
        if alone and (key or context.dry_run):
            header = idempotency.HEADER if key else dry_run.HEADER
            raise BadRequest(f"{request.method} {request.path} cannot be asked for with the header {header}")
        if key is None or context.dry_run:
            return None
        query, version, delegation = request.query_string, context.version, context.token.delegation
        # What somebody's own token was answered is not for a token that was handed on.
        path = f"{request.path}#{delegation.id}" if delegation else request.path
        return key, idempotency.build_digest(request.method, path, query, version, body)

    def _authenticate(self, request, routes, context: Context) -> None:
        text = request.headers.get("X-Auth-Token", "")
        needed = any(route.permission is not None for route in routes)
        try:
            with self.database.read() as session:
                context.token = read_token(session, self.keys, text)
        except Unauthorized as problem:
            if needed:
                url = build_base_url(self.settings, next(s for s in self.services if s.name == "identity")) \
                    if any(s.name == "identity" for s in self.services) else self.settings.api.public_url  # fmt: skip
                problem.headers["WWW-Authenticate"] = f"Keystone uri='{url}'"
                raise

    def _read_body(self, request) -> dict:
        if (request.content_length or 0) > self.settings.api.max_body_bytes:
            raise TooLarge(f"The body is larger than {self.settings.api.max_body_bytes} bytes.")
        kind = request.mimetype
        if kind and "json" not in kind and kind != "text/plain" and kind != "application/octet-stream":
            raise UnsupportedMedia(f"Unsupported Content-Type {kind}: the body must be application/json")
        raw = request.get_data(cache=False)
        if not raw.strip():
            raise BadRequest("Malformed request body: it is empty, a JSON object is needed")
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"Malformed request body: it is no JSON ({error})") from None
        if not isinstance(body, dict):
            raise BadRequest("Malformed request body: it is no JSON object")
        return body

    def _check_body(self, route: Route, body: dict | None, context: Context) -> list[dict] | dict:
        if route.fields is None or body is None:
            return {}
        name = route.action or route.key
        if route.bulk and route.bulk in body and set(body) == {route.bulk}:
            values = body[route.bulk]
            if not isinstance(values, list) or not values:
                raise BadRequest(f"Invalid input in {route.bulk}: it is no list of objects")
            return [
                web_fields.check(route.fields, value, context.version, f"{route.bulk}/{index}", route.extra)
                for index, value in enumerate(values)
            ]
        if not name:
            return web_fields.check(route.fields, body, context.version, "body", route.extra)
        if name not in body:
            raise BadRequest(f"Invalid input in body: {name!r} is a required property")
        rest = {key: value for key, value in body.items() if key != name}
        context.outer = web_fields.check(route.outer or {}, rest, context.version, "body") if rest else {}
        value = {} if body[name] is None and route.action else body[name]
        return web_fields.check(route.fields, value, context.version, name, route.extra)

    def _run(self, request, route: Route, params: dict, context: Context, bodies, once) -> flask.Response:
        if not route.transaction or route.stream:
            context.body = bodies
            result = route.handler(context, **params)
            return self._respond(request, route, context, result)
        maker = self.database.read if request.method in ("GET", "HEAD") else self.database.write
        for attempt in range(TRIES):
            try:
                with maker() as session, session.begin():
                    context.session = session
                    done = idempotency.find_answer(context, *once) if once else None
                    if done is not None:
                        return _build_response(request, done)
                    if isinstance(bodies, list):
                        result = []
                        for body in bodies:
                            context.body = body
                            result.append(route.handler(context, **params))
                    else:
                        context.body = bodies
                        result = route.handler(context, **params)
                    session.flush()
                    response = self._respond(request, route, context, result, isinstance(bodies, list))
                    if context.dry_run:
                        raise dry_run.build_tried(context, response)
                    if once:
                        idempotency.store_answer(context, *once, request.method, response)
                    if maker is self.database.write:
                        session.add(build_log(context, request.method, response.status_code))
                break
            except dry_run.Tried as tried:
                return _build_response(request, dry_run.build_reply(self.settings, tried))
            except (IntegrityError, OperationalError) as error:
                if attempt == TRIES - 1 or is_gone(error):
                    raise
                time.sleep(0.02 * (attempt + 1))
        if session.info.get("touched_hosts"):
            announce(self.settings, session.info["touched_hosts"])
        return response

    def _respond(self, request, route: Route, context: Context, result, bulk: bool = False) -> flask.Response:
        if isinstance(result, Reply):
            return _build_response(request, result)
        if route.view is None:
            return flask.Response(status=route.status if route.status != 200 else 204)
        key = route.key if route.reply_key is None else route.reply_key

        def view(row):
            return web_fields.trim(route.view_fields or {}, route.view(context, row), context.version)

        if isinstance(result, Page):
            body = {key: [view(row) for row in result.rows]}
            if result.next_marker:
                base = context.settings.api.public_url + request.path
                link = build_next_link(base, request.args, result.next_marker)
                body[f"{key}_links"] = [{"rel": "next", "href": link}]
        elif bulk:
            body = {route.bulk: [view(row) for row in result]}
        elif isinstance(result, list):
            body = {key: [view(row) for row in result]}
        else:
            body = {key: view(result)} if key else view(result)
        return _build_response(request, Reply(body, route.status))

    def _refuse(self, request, context: Context, error: Exception) -> flask.Response:
        problem = as_problem(error)
        if problem.status >= 500:
            LOG.error("%s %s %s failed", context.request_id, request.method, request.path, exc_info=error)
        if request.method not in ("GET", "HEAD") and problem.status not in (401, 503):
            try:
                with self.database.write.begin() as session:
                    session.add(build_log(context, request.method, problem.status, problem.message))
            except DBAPIError as lost:
                LOG.error("%s could not be recorded: %s", context.request_id, lost)
        status, kind, body = build_error(self.service.name, problem, request.headers.get("Accept", ""))
        response = flask.Response(body, status=status, content_type=kind)
        response.headers.extend(problem.headers)
        return response


def build_log(context: Context, method: str, status: int, error: str | None = None) -> RequestLog:
    """The row that `kumo logs request` begins with."""
    return RequestLog(
        request_id=context.request_id,
        service=context.service.name,
        method=method,
        path=context.path[:2000],
        status=status,
        user_id=context.token.user_id if context.token else None,
        project_id=context.token.project_id if context.token else None,
        error=error,
    )


def _choose_action(routes: Iterable[Route], body: dict, ever: Iterable[Route]) -> Route:
    """The action's route; NotFound for one that other versions have (``ever``), as the reference says it."""
    if len(body) != 1:
        raise BadRequest("There is no such action: the body needs exactly one key, the action's name")
    name = next(iter(body))
    for route in routes:
        if route.action == name:
            return route
    if any(route.action == name for route in ever):
        raise NotFound(f"There is no action {name} at this version of the API")
    raise BadRequest(f"There is no such action: {name}")


def _build_response(request, reply: Reply) -> flask.Response:
    body, kind = reply.body, reply.content_type
    if body is None:
        response = flask.Response(status=reply.status)
        response.headers.pop("Content-Type", None)
    elif isinstance(body, dict | list):
        response = flask.Response(json.dumps(body), status=reply.status, content_type=kind)
    else:
        response = flask.Response(body, status=reply.status, content_type=kind)
    response.headers.extend(reply.headers)
    return response
