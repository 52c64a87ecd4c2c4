"""Generated from the route tables: every route names a permission, and refuses whoever lacks it (cases 27, 28)."""

from __future__ import annotations

import re
import uuid

import pytest

from web import policy
from web.auth import TokenKeys
from web.resources import SERVICES
from web.versions import MINIMUM, show_version

ROUTES = [(service, route) for service in SERVICES for route in service.routes]
GUARDED = [(service, route) for service, route in ROUTES if route.permission is not None]
MUTATING = [(service, route) for service, route in GUARDED if route.method not in ("GET", "HEAD")]
# What anybody may ask for without a token: how to get one, which versions there are, and, who knows the old one, for
# another password.
OPEN = {("identity", "POST", "/auth/tokens"), ("identity", "POST", "/users/{user_id}/password")}


def _name(value):
    service, route = value
    return f"{service.name} {route.method} {route.path} {route.action or ''} {route.since}".strip()


def _path(service, route) -> str:
    filled = re.sub(r"{[^}]*}", str(uuid.UUID(int=7)), route.path)
    return service.prefix + ("" if route.root else service.version_path) + filled


def _body(route) -> dict | None:
    if route.method in ("GET", "HEAD", "DELETE"):
        return None
    return {route.action: {}} if route.action else {route.key: {}} if route.key else {}


def _version(service, route) -> str | None:
    lowest = MINIMUM.get(service.name)
    if lowest is None:
        return None
    return show_version(lowest) if route.since == "0.0" else route.since


def test_every_route_has_a_permission_that_exists():
    known = policy.list_rules()
    for service, route in ROUTES:
        if route.permission is None:
            assert route.root or (service.name, route.method, route.path) in OPEN or route.path == "", _name(
                (service, route)
            )
        else:
            assert route.permission in known, _name((service, route))


@pytest.fixture(scope="module")
def answers():
    return {}


def _call_all(cloud, routes, **options) -> dict[str, int]:
    return {
        _name((service, route)): cloud.call(
            route.method, _path(service, route), _body(route), version=_version(service, route), **options
        ).status_code
        for service, route in routes
    }


def test_s28_without_a_token_every_guarded_route_is_401(cloud):
    assert {name: code for name, code in _call_all(cloud, GUARDED, user=None).items() if code != 401} == {}


def test_s28_with_rubbish_for_a_token_every_guarded_route_is_401(cloud):
    headers = {"X-Auth-Token": "gAAAAABrubbish"}
    codes = _call_all(cloud, GUARDED, user=None, headers=headers)
    assert {name: code for name, code in codes.items() if code != 401} == {}


def test_s28_with_an_expired_token_every_guarded_route_is_401(cloud, monkeypatch):
    cloud.settings.identity.token_lifetime_s = -5
    body = {
        "auth": {
            "identity": {
                "methods": ["password"],
                "password": {"user": {"name": "demo", "domain": {"id": "default"}, "password": "demo-secret"}},
            },
            "scope": {"project": {"name": "demo", "domain": {"id": "default"}}},
        }
    }
    answer = cloud.http.post("/identity/v3/auth/tokens", json=body)
    assert answer.status_code == 201
    headers = {"X-Auth-Token": answer.headers["X-Subject-Token"]}
    codes = _call_all(cloud, GUARDED, user=None, headers=headers)
    assert {name: code for name, code in codes.items() if code != 401} == {}


# A reader may change nothing but what is its own: its tokens, its password, its key pairs, its credentials and trusts.
READERS_OWN = re.compile(
    r"^(identity (POST|DELETE) /auth/tokens|identity POST /users/{[^}]*}/password|compute \w+ /os-keypairs"
    r"|identity POST /users/{[^}]*}/(application_credentials|credentials/OS-EC2)|identity POST /OS-TRUST/trusts"
    r"|identity POST /credentials)"
)


def test_s28_a_reader_changes_nothing(cloud):
    routes = [(service, route) for service, route in MUTATING if not READERS_OWN.match(_name((service, route)))]
    codes = _call_all(cloud, routes, user="reader")
    assert {name: code for name, code in codes.items() if code not in (403, 404)} == {}


def test_s27_another_projects_id_in_the_url_is_refused(cloud):
    other = uuid.uuid4().hex
    refused = {}
    for service, route in GUARDED:
        if service.project_paths and not route.root:
            path = _path(service, route).replace(service.version_path, f"{service.version_path}/{other}", 1)
            answer = cloud.call(route.method, path, _body(route), version=_version(service, route))
            refused[_name((service, route))] = answer.status_code
    assert refused
    assert {name: code for name, code in refused.items() if code != 400} == {}


def test_no_route_answers_a_traceback_to_strange_bodies(cloud):
    strange = [b"", b"[]", b"null", b"{", b'{"x": ' + b"[" * 5000, b"\xff\xfe", b'{"a": 1, "b": 2}', b'"text"']
    for service, route in MUTATING:
        if route.stream or route.fields is None:
            continue
        for body in strange:
            answer = cloud.call(
                route.method, _path(service, route), body, user="admin", version=_version(service, route)
            )
            assert 400 <= answer.status_code < 500, (_name((service, route)), body[:20], answer.text)


def test_every_answer_carries_its_request_id(cloud):
    for path in ("/compute/v2.1/os-keypairs", "/networking/v2.0/networks", "/image/v2/images", "/compute/v2.1/nothing"):
        answer = cloud.get(path)
        assert answer.headers["X-Openstack-Request-Id"].startswith("req-")
    assert cloud.get("/compute/v2.1/os-keypairs").headers["X-Compute-Request-Id"]


def test_a_body_beyond_the_limit_is_413(cloud):
    answer = cloud.post("/compute/v2.1/os-keypairs", "x" * (cloud.settings.api.max_body_bytes + 1))
    assert answer.status_code == 413


def test_keys_sign_and_the_highest_number_is_used(settings, cloud):
    assert TokenKeys(settings.identity.key_dir).open(cloud.login("demo"))[1] == "project"
