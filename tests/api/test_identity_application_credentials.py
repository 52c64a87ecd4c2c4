"""Application credentials and access_rules: what they let in, what not, and with what they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from web.delegations import Delegation, is_allowed
from web.models import AppCredential, Assignment, Project, Role, User

V3 = "/identity/v3"
DEFAULT = {"id": "default"}


def read_id(cloud, model, name):
    with cloud.database.read() as session:
        return session.scalar(select(model.id).where(model.name == name))


def make(cloud, user="demo", **body):
    """The credential that the user made for itself."""
    path = f"{V3}/users/{read_id(cloud, User, user)}/application_credentials"
    answer = cloud.post(path, {"application_credential": {"name": "c", **body}}, user=user)
    assert answer.status_code == 201, answer.text
    return answer.json["application_credential"]


def log_in(cloud, *, scope=None, methods=("application_credential",), **part):
    body = {"identity": {"methods": list(methods), "application_credential": part}}
    return cloud.http.post(f"{V3}/auth/tokens", json={"auth": body | ({"scope": scope} if scope else {})})


def use(cloud, token, method="GET", path="/compute/v2.1/servers", body=None):
    headers = {"X-Auth-Token": token}
    return cloud.http.open(path, method=method, headers=headers, json=body).status_code


def test_a_life(cloud):
    """Made, told once, used by id and by name, listed, shown, deleted: its tokens end with it."""
    demo, project = read_id(cloud, User, "demo"), read_id(cloud, Project, "demo")
    made = make(cloud, description="x")
    path = f"{V3}/users/{demo}/application_credentials"
    assert {role["name"] for role in made["roles"]} == {"member", "reader"}
    assert (made["project_id"], made["unrestricted"], made["expires_at"]) == (project, False, None)
    secret = made.pop("secret")
    assert len(secret) > 60
    assert cloud.get(f"{path}/{made['id']}").json["application_credential"] == made
    assert cloud.get(path).json["application_credentials"] == [made]
    assert cloud.get(f"{path}?name=other").json["application_credentials"] == []
    assert cloud.post(path, {"application_credential": {"name": "c"}}).status_code == 409
    with cloud.database.read() as session:
        assert session.scalar(select(AppCredential.secret_hash)).startswith("$2b$")
    tokens = []
    for part in (
        {"id": made["id"], "secret": secret},
        {"name": "c", "user": {"id": demo}, "secret": secret},
        {"name": "c", "user": {"name": "demo", "domain": DEFAULT}, "secret": secret},
    ):
        answer = log_in(cloud, **part)
        assert answer.status_code == 201, answer.text
        token = answer.json["token"]
        assert token["project"]["id"] == project
        assert token["methods"] == ["application_credential"]
        assert token["application_credential"] == {"id": made["id"], "name": "c", "restricted": True}
        assert {role["name"] for role in token["roles"]} == {"member", "reader"}
        tokens.append(answer.headers["X-Subject-Token"])
    assert [use(cloud, token) for token in tokens] == [200] * 3
    refused = [
        log_in(cloud, id=made["id"], secret="wrong"),
        log_in(cloud, id="none", secret=secret),
        log_in(cloud, name="c", user={"name": "other", "domain": DEFAULT}, secret=secret),
        log_in(cloud, name="c", user={"name": "nobody", "domain": DEFAULT}, secret=secret),
    ]
    assert {answer.status_code for answer in refused} == {401}
    assert len({answer.text for answer in refused}) == 1
    assert log_in(cloud, id=made["id"], secret=secret, scope={"project": {"id": project}}).status_code == 401
    assert log_in(cloud, name="c", secret=secret).status_code == 400
    # Nobody else sees it, or makes one for another one; admins see and delete.
    assert cloud.get(path, user="other").status_code == 403
    assert cloud.get(f"{path}/{made['id']}", user="other").status_code == 403
    assert cloud.delete(f"{path}/{made['id']}", user="other").status_code == 403
    others = f"{V3}/users/{read_id(cloud, User, 'other')}/application_credentials"
    assert cloud.get(f"{others}/{made['id']}", user="other").status_code == 404
    assert cloud.post(path, {"application_credential": {"name": "d"}}, user="admin").status_code == 403
    assert cloud.get(path, user="admin").json["application_credentials"] == [made]
    # A token from such a token stays what it is.
    body = {"auth": {"identity": {"methods": ["token"], "token": {"id": tokens[0]}}}}
    child = cloud.http.post(f"{V3}/auth/tokens", json=body)
    assert child.json["token"]["application_credential"]["id"] == made["id"]
    for scope in ("unscoped", {"system": {"all": True}}):
        body["auth"]["scope"] = scope
        assert cloud.http.post(f"{V3}/auth/tokens", json=body).status_code == 403
    assert cloud.delete(f"{path}/{made['id']}").status_code == 204
    assert cloud.delete(f"{path}/{made['id']}").status_code == 404
    assert [use(cloud, token) for token in (*tokens, child.headers["X-Subject-Token"])] == [401] * 4
    assert log_in(cloud, id=made["id"], secret=secret).status_code == 401


def test_roles_and_restriction(cloud):
    """Some of the roles only; a restricted one hands nothing on; a role that is not the token's is refused."""
    path = f"{V3}/users/{read_id(cloud, User, 'demo')}/application_credentials"
    reader = make(cloud, name="r", roles=[{"name": "reader"}], secret="mine")
    assert reader["secret"] == "mine"
    token = log_in(cloud, id=reader["id"], secret="mine").headers["X-Subject-Token"]
    assert use(cloud, token) == 200
    assert use(cloud, token, "POST", "/image/v2/images", {"name": "i"}) == 403
    for token_, status in ((token, 403), (None, 201)):
        if token_ is None:
            free = make(cloud, name="free", unrestricted=True)
            token_ = log_in(cloud, id=free["id"], secret=free["secret"]).headers["X-Subject-Token"]
        body = {"application_credential": {"name": "handed-on"}}
        assert use(cloud, token_, "POST", path, body) == status
        assert use(cloud, token_, "DELETE", f"{path}/{reader['id']}") == (204 if status == 201 else 403)
    admin = read_id(cloud, Role, "admin")
    now = datetime.now(UTC)
    for body, named in (
        ({"roles": [{"id": admin}]}, "roles"),
        ({"roles": [{"name": "admin"}]}, "roles"),
        ({"roles": [{}]}, "roles"),
        ({"expires_at": (now - timedelta(seconds=1)).isoformat()}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"access_rules": [{"path": "/x"}]}, "access_rules"),
        ({"access_rules": [{"path": "x", "method": "GET", "service": "compute"}]}, "access_rules"),
        ({"access_rules": [{"path": "/x", "method": "LOOK", "service": "compute"}]}, "access_rules"),
        ({"secret": ["canary-1"]}, "secret"),
        ({"more": 1}, "more"),
    ):
        answer = cloud.post(path, {"application_credential": {"name": "x", **body}})
        assert answer.status_code == 400, (body, answer.text)
        assert named in answer.json["error"]["message"]
        assert "canary-1" not in answer.text


def take_role(cloud, session):
    user = session.scalar(select(User.id).where(User.name == "demo"))
    for row in session.scalars(select(Assignment).where(Assignment.user_id == user)):
        row.role_id = session.scalar(select(Role.id).where(Role.name == "reader"))


def expire(cloud, session):
    session.scalar(select(AppCredential)).expires_at = datetime.now(UTC)


def disable(cloud, session):
    session.scalar(select(User).where(User.name == "demo")).enabled = False


def disable_project(cloud, session):
    session.scalar(select(Project).where(Project.name == "demo")).enabled = False


def delete_user(cloud, session):
    session.delete(session.scalar(select(User).where(User.name == "demo")))


@pytest.mark.parametrize("change", [take_role, expire, disable, disable_project, delete_user])
def test_s30_it_ends_with_its_reason(cloud, change):
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.%f")
    made = make(cloud, expires_at=later)
    assert made["expires_at"] == later
    part = {"id": made["id"], "secret": made["secret"]}
    token = log_in(cloud, **part).headers["X-Subject-Token"]
    assert use(cloud, token) == 200
    with cloud.database.write.begin() as session:
        change(cloud, session)
    assert use(cloud, token) == 401
    assert log_in(cloud, **part).status_code == 401


def test_access_rules(cloud):
    """A token is for the requests that its rules name, at every service; rules are kept, and not deleted in use."""
    demo = read_id(cloud, User, "demo")
    rules = [
        {"service": "compute", "method": "GET", "path": "/v2.1/servers"},
        {"service": "image", "method": "POST", "path": "/v2/images"},
        {"service": "volumev3", "method": "GET", "path": "/v3/**"},
    ]
    made = make(cloud, access_rules=rules)
    assert [{key: one[key] for key in ("service", "method", "path")} for one in made["access_rules"]] == rules
    answer = log_in(cloud, id=made["id"], secret=made["secret"])
    assert answer.json["token"]["application_credential"]["access_rules"] == made["access_rules"]
    token = answer.headers["X-Subject-Token"]
    project = made["project_id"]
    for method, path, status in (
        ("GET", "/compute/v2.1/servers", 200),
        ("HEAD", "/compute/v2.1/servers", 401),
        ("GET", "/compute/v2.1/servers/detail", 401),
        ("POST", "/compute/v2.1/servers", 401),
        ("GET", "/image/v2/images", 401),
        ("POST", "/image/v2/images", 201),
        ("GET", f"/volume/v3/{project}/volumes", 200),
        ("GET", "/networking/v2.0/networks", 401),
        ("GET", f"{V3}/auth/projects", 401),
        ("POST", f"{V3}/users/{demo}/application_credentials", 401),
    ):
        assert use(cloud, token, method, path, {"name": "i"} if method == "POST" else None) == status, (method, path)
    body = {"auth": {"identity": {"methods": ["token"], "token": {"id": token}}}}
    child = cloud.http.post(f"{V3}/auth/tokens", json=body).headers["X-Subject-Token"]
    assert use(cloud, child, "GET", "/image/v2/images") == 401, "a token from it is confined as well"
    headers = {"X-Auth-Token": cloud.login("admin"), "X-Subject-Token": token}
    assert cloud.http.get(f"{V3}/auth/tokens", headers=headers).status_code == 404
    headers["OpenStack-Identity-Access-Rules"] = "1.0"
    assert cloud.http.get(f"{V3}/auth/tokens", headers=headers).status_code == 200
    path = f"{V3}/users/{demo}/access_rules"
    kept = cloud.get(path).json["access_rules"]
    assert sorted(one["id"] for one in kept) == sorted(one["id"] for one in made["access_rules"])
    assert len(cloud.get(f"{path}?service=image").json["access_rules"]) == 1
    one = made["access_rules"][0]
    assert cloud.get(f"{path}/{one['id']}").json["access_rule"]["path"] == "/v2.1/servers"
    again = make(cloud, name="again", access_rules=[{"id": one["id"]}, rules[0]])
    assert [rule["id"] for rule in again["access_rules"]] == [one["id"]]
    assert cloud.get(path, user="other").status_code == 403
    assert cloud.delete(f"{path}/{one['id']}", user="other").status_code == 403
    others = f"{V3}/users/{read_id(cloud, User, 'other')}"
    assert cloud.get(f"{others}/access_rules/{one['id']}", user="other").status_code == 404
    stolen = {"application_credential": {"name": "x", "access_rules": [{"id": one["id"]}]}}
    assert cloud.post(f"{others}/application_credentials", stolen, user="other").status_code == 404
    assert cloud.delete(f"{path}/{one['id']}").status_code == 403
    for credential in (made, again):
        assert cloud.delete(f"{V3}/users/{demo}/application_credentials/{credential['id']}").status_code == 204
    assert cloud.delete(f"{path}/{one['id']}").status_code == 204
    assert cloud.get(f"{path}/{one['id']}").status_code == 404


@pytest.mark.parametrize(
    ("path", "fits", "others"),
    [
        ("/v2.1/servers", ["/v2.1/servers"], ["/v2.1/servers/x", "/v2x1/servers", "/v2.1/server"]),
        ("/v2.1/servers/*", ["/v2.1/servers/x"], ["/v2.1/servers", "/v2.1/servers/x/y"]),
        ("/v2.1/servers/{id}/ips", ["/v2.1/servers/x/ips"], ["/v2.1/servers//ips", "/v2.1/servers/x/y/ips"]),
        ("/v2.1/**", ["/v2.1/servers/x/y", "/v2.1/"], ["/v2.2/servers"]),
        ("/a(b)+", ["/a(b)+"], ["/abb"]),
        ("/" + "**x" * 42, ["/" + "x" * 42], ["/" + "x" * 2000 + "y"]),
    ],
)
def test_paths_of_access_rules(path, fits, others):
    delegation = Delegation("application_credential", "1", "u", frozenset(), True, (("compute", "GET", path),), {})
    assert [is_allowed(delegation, "compute", "GET", one) for one in fits] == [True] * len(fits)
    assert [is_allowed(delegation, "compute", "GET", one) for one in others] == [False] * len(others)
    assert not is_allowed(delegation, "image", "GET", fits[0])
    assert not is_allowed(delegation, "compute", "POST", fits[0])


def test_s34_guessing_the_secret_is_throttled(cloud):
    cloud.settings.identity.lockout_attempts = 2
    made = make(cloud)
    codes = [log_in(cloud, id=made["id"], secret="wrong").status_code for _ in range(3)]
    assert codes == [401, 401, 429]
    assert log_in(cloud, id=made["id"], secret=made["secret"]).status_code == 429


def test_the_project_goes_with_its_credentials(cloud):
    made = make(cloud, user="other")
    assert cloud.delete(f"{V3}/projects/{made['project_id']}", user="admin").status_code == 204
    assert log_in(cloud, id=made["id"], secret=made["secret"]).status_code == 401


def test_allow_expired(cloud):
    """Services see a token that has expired lately when they ask; nobody else, and nobody can use it."""
    cloud.settings.identity.token_lifetime_s = -5
    user = {"name": "demo", "domain": DEFAULT, "password": "demo-secret"}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
    expired = cloud.http.post(f"{V3}/auth/tokens", json=body).headers["X-Subject-Token"]
    cloud.settings.identity.token_lifetime_s = 3600
    for user, query, status in (
        ("admin", "?allow_expired=1", 200),
        ("admin", "", 404),
        ("other", "?allow_expired=1", 404),
    ):
        headers = {"X-Auth-Token": cloud.login(user), "X-Subject-Token": expired}
        assert cloud.http.get(f"{V3}/auth/tokens{query}", headers=headers).status_code == status
    assert use(cloud, expired) == 401
