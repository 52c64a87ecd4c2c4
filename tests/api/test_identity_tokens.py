"""Tokens: every way in and out, what an answer holds, and that a refusal tells nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from web.models import Assignment, LoginFailure, Project, User

PASSWORDS = {"admin": "admin-secret", "demo": "demo-secret", "other": "other-secret"}

DEFAULT = {"id": "default"}


def password_of(user="demo", password=None, **extra):
    """The identity part of a login by name."""
    return {
        "methods": ["password"],
        "password": {"user": {"name": user, "domain": DEFAULT, "password": password or PASSWORDS[user]}},
        **extra,
    }


def log_in(cloud, identity, scope=None, headers=None, **options):
    body = {"auth": {"identity": identity, **({"scope": scope} if scope is not None else {})}}
    return cloud.http.post("/identity/v3/auth/tokens", json=body, headers=headers, **options)


def read_id(cloud, model, name):
    with cloud.database.read() as session:
        return session.scalar(select(model.id).where(model.name == name))


def check(cloud, token, subject=None):
    """The status of a validation of ``subject`` by ``token``."""
    return cloud.http.get(
        "/identity/v3/auth/tokens", headers={"X-Auth-Token": token, "X-Subject-Token": subject or token}
    ).status_code


SCOPES = [
    ("demo", None, None),
    ("demo", "unscoped", None),
    ("demo", {"unscoped": {}}, None),
    ("demo", {"project": {"name": "demo", "domain": DEFAULT}}, "project"),
    ("demo", {"project": {"name": "demo", "domain": {"name": "Default"}}}, "project"),
    ("admin", {"domain": DEFAULT}, "domain"),
    ("admin", {"domain": {"name": "Default"}}, "domain"),
    ("admin", {"system": {"all": True}}, "system"),
]


@pytest.mark.parametrize(("user", "scope", "kind"), SCOPES)
def test_scopes(cloud, user, scope, kind):
    """A password gives a token of each scope, with roles and catalog only where there is a scope."""
    answer = log_in(cloud, password_of(user), scope)
    assert answer.status_code == 201, answer.text
    token = answer.json["token"]
    assert [name for name in ("project", "domain", "system") if name in token] == ([kind] if kind else [])
    assert ("catalog" in token) == ("roles" in token) == bool(kind)
    assert token["methods"] == ["password"]
    assert token["user"]["name"] == user
    assert token["user"]["domain"] == {"id": "default", "name": "Default"}
    assert check(cloud, answer.headers["X-Subject-Token"]) == 200


def test_by_id(cloud):
    user = {"id": read_id(cloud, User, "demo"), "password": PASSWORDS["demo"]}
    scope = {"project": {"id": read_id(cloud, Project, "demo")}}
    answer = log_in(cloud, {"methods": ["password"], "password": {"user": user}}, scope)
    assert answer.status_code == 201
    assert {role["name"] for role in answer.json["token"]["roles"]} == {"member", "reader"}
    assert answer.json["token"]["is_domain"] is False


def test_default_project(cloud):
    """Without a scope the default project is it, as long as the user has a role there."""
    with cloud.database.write.begin() as session:
        demo = session.scalar(select(User).where(User.name == "demo"))
        demo.default_project_id = session.scalar(select(Project.id).where(Project.name == "demo"))
    assert log_in(cloud, password_of()).json["token"]["project"]["name"] == "demo"
    assert "project" not in log_in(cloud, password_of(), "unscoped").json["token"]
    with cloud.database.write.begin() as session:
        demo = session.scalar(select(User).where(User.name == "demo"))
        demo.default_project_id = session.scalar(select(Project.id).where(Project.name == "other"))
    assert "project" not in log_in(cloud, password_of()).json["token"]


REFUSED = [
    (password_of("demo", "wrong"), None),
    (password_of("nobody", "wrong"), None),
    ({"methods": ["password"], "password": {"user": {"id": "0" * 32, "password": "x"}}}, None),
    (
        {
            "methods": ["password"],
            "password": {"user": {"name": "demo", "domain": {"name": "none"}, "password": PASSWORDS["demo"]}},
        },
        None,
    ),
    (password_of(), {"project": {"name": "other", "domain": DEFAULT}}),
    (password_of(), {"project": {"name": "none", "domain": DEFAULT}}),
    (password_of(), {"project": {"id": "0" * 32}}),
    (password_of(), {"domain": DEFAULT}),
    (password_of(), {"domain": {"name": "none"}}),
    (password_of(), {"system": {"all": True}}),
    ({"methods": ["token"], "token": {"id": "nonsense"}}, None),
]


def test_refusals_are_the_same(cloud):
    """A 401 is the same text whatever was wrong: user, password, project, role."""
    bodies = {log_in(cloud, identity, scope).text for identity, scope in REFUSED}
    assert len(bodies) == 1
    assert {log_in(cloud, identity, scope).status_code for identity, scope in REFUSED[2:3]} == {401}


MALFORMED = [
    ({}, "auth"),
    ({"auth": {}}, "identity"),
    ({"auth": {"identity": {}}}, "methods"),
    ({"auth": {"identity": {"methods": []}}}, "methods"),
    ({"auth": {"identity": {"methods": ["oauth1"]}}}, "methods"),
    ({"auth": {"identity": {"methods": ["password"]}}}, "password"),
    ({"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "demo"}}}}}, "password"),
    (
        {"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "demo", "password": "x"}}}}},
        "domain",
    ),
    ({"auth": {"identity": password_of(), "scope": {"project": {"name": "demo"}}}}, "scope/project/domain"),
    ({"auth": {"identity": password_of(), "scope": {}}}, "scope"),
    ({"auth": {"identity": password_of(), "scope": {"galaxy": {}}}}, "scope"),
    ({"auth": {"identity": password_of(), "more": 1}}, "more"),
    ({"auth": []}, "auth"),
]


@pytest.mark.parametrize(("body", "named"), MALFORMED)
def test_malformed(cloud, body, named):
    """A body that does not fit is a 400 that names the field."""
    answer = cloud.http.post("/identity/v3/auth/tokens", json=body)
    assert answer.status_code == 400, answer.text
    assert named in answer.json["error"]["message"]


def test_s37_no_password_in_errors(cloud):
    """A password in the wrong place or of the wrong type is in no answer and no log."""
    canary = "canary-4711-secret"
    for user in ({"name": "demo", "domain": DEFAULT, "password": [canary]}, [canary], {"password": canary, "name": 7}):
        answer = log_in(cloud, {"methods": ["password"], "password": {"user": user}})
        assert answer.status_code == 400
        assert canary not in answer.text


def test_validate(cloud):
    """Own tokens for everyone, others' for admins; one that does not exist is a 404."""
    demo, other, admin = cloud.login("demo"), cloud.login("other"), cloud.login("admin")
    assert check(cloud, demo) == 200
    assert check(cloud, admin, demo) == 200
    assert check(cloud, other, demo) == 403
    assert check(cloud, admin, "nonsense") == 404
    assert cloud.get("/identity/v3/auth/tokens").status_code == 400
    head = cloud.http.head("/identity/v3/auth/tokens", headers={"X-Auth-Token": demo, "X-Subject-Token": demo})
    assert head.status_code == 200
    assert head.data == b""
    bare = cloud.http.get("/identity/v3/auth/tokens?nocatalog", headers={"X-Auth-Token": demo, "X-Subject-Token": demo})
    assert "catalog" not in bare.json["token"]


def test_revoke(cloud):
    """A revoked token is dead at once, and so are those made from it; the user's other tokens live on."""
    first = log_in(cloud, password_of(), {"project": {"name": "demo", "domain": DEFAULT}}).headers["X-Subject-Token"]
    child = log_in(cloud, {"methods": ["token"], "token": {"id": first}}).headers["X-Subject-Token"]
    second = log_in(cloud, password_of()).headers["X-Subject-Token"]
    assert check(cloud, child) == 200
    headers = {"X-Auth-Token": cloud.login("other"), "X-Subject-Token": first}
    assert cloud.http.delete("/identity/v3/auth/tokens", headers=headers).status_code == 403
    headers = {"X-Auth-Token": first, "X-Subject-Token": first}
    assert cloud.http.delete("/identity/v3/auth/tokens", headers=headers).status_code == 204
    assert check(cloud, first) == 401
    assert check(cloud, child) == 401
    assert check(cloud, second) == 200


def test_s30_reissue_never_extends(cloud):
    """OSSA-2012-010: a token made from a token ends when that one does, however often it is done."""
    answer = log_in(cloud, password_of())
    ends = answer.json["token"]["expires_at"]
    text = answer.headers["X-Subject-Token"]
    for _ in range(3):
        time.sleep(0.01)
        scope = {"project": {"name": "demo", "domain": DEFAULT}}
        answer = log_in(cloud, {"methods": ["token"], "token": {"id": text}}, scope)
        assert answer.status_code == 201
        assert answer.json["token"]["expires_at"] == ends
        assert answer.json["token"]["methods"] == ["password", "token"]
        text = answer.headers["X-Subject-Token"]
    cloud.settings.identity.token_lifetime_s = 0
    expired = log_in(cloud, password_of()).headers["X-Subject-Token"]
    cloud.settings.identity.token_lifetime_s = 3600
    assert log_in(cloud, {"methods": ["token"], "token": {"id": expired}}).status_code == 401


def test_token_and_password_of_two_users(cloud):
    """Two methods must name the same user."""
    identity = password_of("demo", methods=["password", "token"], token={"id": cloud.login("other")})
    assert log_in(cloud, identity).status_code == 401


def disable_user(session):
    session.scalar(select(User).where(User.name == "demo")).enabled = False


def disable_project(session):
    session.scalar(select(Project).where(Project.name == "demo")).enabled = False


def remove_role(session):
    user = session.scalar(select(User.id).where(User.name == "demo"))
    for row in session.scalars(select(Assignment).where(Assignment.user_id == user)):
        session.delete(row)


@pytest.mark.parametrize("change", [disable_user, disable_project, remove_role])
def test_s30_tokens_die_with_their_reason(cloud, change):
    """Whatever a token rests on, its end is the token's at the very next request."""
    token = cloud.login("demo")
    assert check(cloud, token) == 200
    with cloud.database.write.begin() as session:
        change(session)
    assert check(cloud, token) == 401
    assert log_in(cloud, password_of(), {"project": {"name": "demo", "domain": DEFAULT}}).status_code == 401


def test_s34_wrong_passwords_are_throttled(cloud):
    """Too many wrong passwords pause the account for that address only; a right one counts as none there."""
    cloud.settings.identity.lockout_attempts = 3
    there, here = {"REMOTE_ADDR": "192.0.2.1"}, {"REMOTE_ADDR": "192.0.2.2"}
    user_id = read_id(cloud, User, "demo")
    wrong_by_id = {"methods": ["password"], "password": {"user": {"id": user_id, "password": "wrong"}}}
    assert log_in(cloud, password_of("demo", "wrong"), environ_base=there).status_code == 401
    assert log_in(cloud, wrong_by_id, environ_base=there).status_code == 401
    assert log_in(cloud, password_of("demo", "wrong"), environ_base=there).status_code == 401
    refused = log_in(cloud, password_of(), environ_base=there)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert log_in(cloud, password_of(), environ_base=here).status_code == 201
    assert log_in(cloud, password_of("other"), environ_base=there).status_code == 201
    for _ in range(3):
        log_in(cloud, password_of("nobody", "wrong"), environ_base=there)
    assert log_in(cloud, password_of("nobody", "wrong"), environ_base=there).status_code == 429
    cloud.settings.identity.lockout_s = 0
    assert log_in(cloud, password_of(), environ_base=there).status_code == 201
    with cloud.database.read() as session:
        assert session.get(LoginFailure, (user_id, "192.0.2.1")) is None


def test_times(cloud):
    token = log_in(cloud, password_of()).json["token"]
    issued, ends = (datetime.strptime(token[n], "%Y-%m-%dT%H:%M:%S.%fZ") for n in ("issued_at", "expires_at"))
    assert abs((datetime.now(UTC).replace(tzinfo=None) - issued).total_seconds()) < 30
    assert (ends - issued).total_seconds() == cloud.settings.identity.token_lifetime_s


def test_catalog(cloud):
    """Three interfaces a service, ids that stay, the region's name; none without a scope."""
    answer = cloud.get("/identity/v3/auth/catalog")
    assert answer.status_code == 200
    services = {service["type"]: service for service in answer.json["catalog"]}
    assert {"identity", "compute", "image", "network"} <= set(services)
    for service in services.values():
        assert {endpoint["interface"] for endpoint in service["endpoints"]} == {"public", "internal", "admin"}
        assert {endpoint["region"] for endpoint in service["endpoints"]} == {"RegionOne"}
    assert services["identity"]["endpoints"][0]["url"] == "http://127.0.0.1:6780/identity/v3"
    assert cloud.get("/identity/v3/auth/catalog").json == answer.json
    bare = log_in(cloud, password_of()).headers["X-Subject-Token"]
    assert cloud.http.get("/identity/v3/auth/catalog", headers={"X-Auth-Token": bare}).status_code == 403
    found = cloud.get("/identity/v3/services", user="admin").json["services"]
    assert {one["type"] for one in found} == set(services)
    one = cloud.get(f"/identity/v3/endpoints?service_id={found[0]['id']}&interface=public", user="admin").json
    assert len(one["endpoints"]) == 1
    assert cloud.get(f"/identity/v3/endpoints/{one['endpoints'][0]['id']}", user="admin").status_code == 200
    assert cloud.get("/identity/v3/endpoints/none", user="admin").status_code == 404
    assert cloud.get("/identity/v3/services").status_code == 403
    assert cloud.get("/identity/v3/regions").json["regions"][0]["id"] == "RegionOne"


@pytest.mark.parametrize(
    ("path", "status"), [("/identity", 300), ("/identity/", 300), ("/identity/v3", 200), ("/identity/v3/", 200)]
)
def test_versions(cloud, path, status):
    """Discovery needs no token."""
    answer = cloud.get(path, user=None)
    assert answer.status_code == status
    version = answer.json["version"] if status == 200 else answer.json["versions"]["values"][0]
    assert version["links"][0]["href"] == "http://127.0.0.1:6780/identity/v3/"


def test_implied_roles(cloud):
    """Implied roles are in the token although only one is assigned."""
    answer = log_in(cloud, password_of("admin"), {"project": {"name": "admin", "domain": DEFAULT}})
    assert {role["name"] for role in answer.json["token"]["roles"]} == {"admin", "manager", "member", "reader"}
