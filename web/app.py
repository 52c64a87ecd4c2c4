"""The application: mounts the ROUTES tables of any subset of services.

`create_app` makes a WSGI application that gunicorn serves (`kumo serve`). Next room: `http.py`.
"""

from __future__ import annotations

import uuid

import flask
from werkzeug.routing import BaseConverter, Rule

from .auth import TokenKeys
from .errors import NotFound, build_error
from .http import Pipeline
from .models import Database
from .policy import Policy
from .problems import as_problem
from .resources import SERVICES
from .routes import Service
from .settings import SettingsError


class _HexConverter(BaseConverter):
    """A project id in a path."""

    regex = "[0-9a-f]{32}"


def find_services(names: list[str] | None) -> list[Service]:
    """The services of these names (None: all); SettingsError names one that is unknown."""
    known = {service.name: service for service in SERVICES}
    for name in names or []:
        if name not in known:
            raise SettingsError(f"unknown service {name!r}; known: {', '.join(known)}")
    return [known[name] for name in names] if names else list(SERVICES)


def create_app(settings, services: list[str] | None = None, database: Database | None = None) -> flask.Flask:
    """A WSGI application that serves ``services`` (names; None: all) under their prefixes.

    With `[api] separate_ports` and one service it is served without a prefix, as at its usual port.
    """
    chosen = find_services(services)
    database = database or Database(settings.database.url)
    keys = TokenKeys(settings.identity.key_dir)
    policy = Policy(settings.policy.file)
    app = flask.Flask("kumo", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.json.sort_keys = False
    bare = settings.api.separate_ports and len(chosen) == 1
    for service in chosen:
        _mount(
            app, service, Pipeline(service, SERVICES, settings, database, keys, policy), "" if bare else service.prefix
        )

    @app.errorhandler(Exception)
    def refuse(error):
        path = flask.request.path
        name = next((s.name for s in chosen if bare or path.startswith(s.prefix + "/") or path == s.prefix), "identity")
        problem = as_problem(error)
        if isinstance(problem, NotFound):
            problem = NotFound("The resource could not be found.")
        status, kind, body = build_error(name, problem, flask.request.headers.get("Accept", ""))
        response = flask.Response(body, status=status, content_type=kind)
        response.headers.extend(problem.headers)
        response.headers["X-Openstack-Request-Id"] = response.headers["X-Compute-Request-Id"] = f"req-{uuid.uuid4()}"
        return response

    return app


def _mount(app: flask.Flask, service: Service, pipeline: Pipeline, prefix: str) -> None:
    by_path: dict[str, list] = {}
    for route in service.routes:
        by_path.setdefault(("" if route.root else service.version_path) + route.path, []).append(route)
    for number, (path, routes) in enumerate(by_path.items()):
        rule = path.replace("{", "<").replace("}", ">")
        rules = [rule]
        if service.project_paths and not routes[0].root:
            base = service.version_path
            rules.append(f"{base}/<regex_hex:_project>{rule[len(base) :]}")
        endpoint = f"{service.name}{number}"

        def view(routes=routes, **params):
            return pipeline.answer(routes, params)

        app.view_functions[endpoint] = view
        methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
        for text in rules:
            app.url_map.converters.setdefault("regex_hex", _HexConverter)
            strict = None if service.slashes or routes[0].root else True
            app.url_map.add(Rule(prefix + (text or "/"), endpoint=endpoint, methods=methods, strict_slashes=strict))
