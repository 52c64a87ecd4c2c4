"""Domains, projects, users, passwords, roles and their assignments: who may do what, and what ends with what."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from web.models import Assignment, Keypair, Project, Role, SecurityGroup, User

V3 = "/identity/v3"
DEFAULT = {"id": "default"}


def read_id(cloud, model, name):
    with cloud.database.read() as session:
        return session.scalar(select(model.id).where(model.name == name))


def log_in(cloud, name, password, project=None):
    """The response to a login by name, scoped to a project of that name."""
    user = {"name": name, "domain": DEFAULT, "password": password}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
    if project:
        body["auth"]["scope"] = {"project": {"name": project, "domain": DEFAULT}}
    return cloud.http.post(f"{V3}/auth/tokens", json=body)


def make(cloud, kind, **body):
    answer = cloud.post(f"{V3}/{kind}s", {kind: body}, user="admin")
    assert answer.status_code == 201, answer.text
    return answer.json[kind]


def alive(cloud, token):
    headers = {"X-Auth-Token": token, "X-Subject-Token": token}
    return cloud.http.get(f"{V3}/auth/tokens", headers=headers).status_code == 200


KINDS = [
    ("domain", {"name": "d1", "description": "x"}, {"description": "y"}),
    ("project", {"name": "p1", "description": "x", "tags": ["t"]}, {"description": "y", "tags": []}),
    ("user", {"name": "u1", "email": "a@b", "description": "x"}, {"description": "y", "email": "c@d"}),
    ("role", {"name": "r1", "description": "x"}, {"description": "y"}),
    ("group", {"name": "g1", "description": "x"}, {"description": "y"}),
]


@pytest.mark.parametrize(("kind", "body", "changes"), KINDS)
def test_life(cloud, kind, body, changes):
    """Made, found by name, changed, shown and gone; twice the same name is a 409."""
    made = make(cloud, kind, **body)
    path = f"{V3}/{kind}s/{made['id']}"
    assert body.items() <= made.items()
    assert made["links"]["self"] == f"http://127.0.0.1:6780{path}"
    assert cloud.post(f"{V3}/{kind}s", {kind: body}, user="admin").status_code == 409
    listed = cloud.get(f"{V3}/{kind}s?name={body['name']}", user="admin").json
    assert listed[f"{kind}s"] == [made]
    assert listed["links"]["next"] is None
    changed = cloud.patch(path, {kind: {**changes, "name": "renamed"}}, user="admin")
    assert changed.status_code == 200, changed.text
    assert {**changes, "name": "renamed"}.items() <= changed.json[kind].items()
    assert cloud.get(path, user="admin").json[kind] == changed.json[kind]
    if kind == "domain":
        assert cloud.delete(path, user="admin").status_code == 403
        assert cloud.patch(path, {"domain": {"enabled": False}}, user="admin").status_code == 200
    assert cloud.delete(path, user="admin").status_code == 204
    assert cloud.get(path, user="admin").status_code == 404
    assert cloud.delete(path, user="admin").status_code == 404
    assert cloud.patch(path, {kind: changes}, user="admin").status_code == 404


@pytest.mark.parametrize("user", ["demo", "reader"])
@pytest.mark.parametrize(("kind", "body", "changes"), KINDS)
def test_s28_only_admins_change_identity(cloud, kind, body, changes, user):
    made = make(cloud, kind, **body)
    path = f"{V3}/{kind}s/{made['id']}"
    for method, where, content in (
        ("GET", f"{V3}/{kind}s", None),
        ("POST", f"{V3}/{kind}s", {kind: {"name": "mine"}}),
        ("GET", path, None),
        ("GET", f"{V3}/{kind}s/none", None),
        ("PATCH", path, {kind: changes}),
        ("DELETE", path, None),
    ):
        assert cloud.call(method, where, content, user=user).status_code == 403, (method, where)
        assert cloud.call(method, where, content, user=None).status_code == 401
    assert cloud.get(path, user="admin").json[kind] == made


REFUSED = [
    ("project", {}, "name"),
    ("project", {"name": ""}, "name"),
    ("project", {"name": "x" * 65}, "name"),
    ("project", {"name": "x", "more": "x" * 20000}, "further attributes"),
    ("project", {"name": "x", "enabled": "perhaps"}, "enabled"),
    ("project", {"name": "x", "tags": ["a,b"]}, "tags"),
    ("project", {"name": "x", "is_domain": True, "domain_id": "default"}, "is_domain"),
    ("user", {"password": "x"}, "name"),
    ("user", {"name": "x" * 256}, "name"),
    ("user", {"name": "x", "password": 7}, "password"),
    ("user", {"name": "x", "default_project_id": "none"}, "default_project_id"),
    ("role", {"name": " x"}, "name"),
    ("user", {"name": "x", "original_password": "y"}, "original_password"),
    ("domain", {"name": "x", "description": 7}, "description"),
    ("domain", {"name": "x" * 65}, "name"),
    ("domain", {"name": "x", "explicit_domain_id": "default"}, "explicit_domain_id"),
    ("role", {"name": "x", "enabled": float("nan")}, "further attributes"),
]


@pytest.mark.parametrize(("kind", "body", "named"), REFUSED)
def test_refused(cloud, kind, body, named):
    """A 400 names the field."""
    answer = cloud.post(f"{V3}/{kind}s", {kind: body}, user="admin")
    assert answer.status_code == 400, answer.text
    assert named in answer.json["error"]["message"]


def test_s37_no_password_in_answers_and_errors(cloud):
    """Neither a password nor a hash is in any answer, whatever was wrong with the request."""
    canary = "canary-4711-secret"
    good = cloud.post(f"{V3}/users", {"user": {"name": "c", "password": canary}}, user="admin")
    path = f"{V3}/users/{good.json['user']['id']}"
    answers = [
        good,
        cloud.get(path, user="admin"),
        cloud.get(f"{V3}/users", user="admin"),
        cloud.post(f"{V3}/users", {"user": {"name": "d", "password": [canary]}}, user="admin"),
        cloud.patch(path, {"user": {"password": {"x": canary}}}, user="admin"),
        cloud.patch(path, {"user": {"password": canary * 500}}, user="admin"),
        cloud.post(f"{path}/password", {"user": {"password": [canary], "original_password": canary}}),
    ]
    for answer in answers:
        assert canary not in answer.text
        assert "$2b$" not in answer.text
        assert "hash" not in answer.text


def test_pages(cloud):
    for number in range(5):
        make(cloud, "role", name=f"x{number}")
    found, path = [], f"{V3}/roles?limit=2"
    while path:
        body = cloud.get(path, user="admin").json
        found += [role["name"] for role in body["roles"]]
        path = (body["links"]["next"] or "").removeprefix("http://127.0.0.1:6780")
    assert found == ["admin", "manager", "member", "reader", "service", "x0", "x1", "x2", "x3", "x4"]


def test_project_filters(cloud):
    domain = make(cloud, "domain", name="d1")
    top = make(cloud, "project", name="top", domain_id=domain["id"])
    below = make(cloud, "project", name="below", parent_id=top["id"], enabled=False)
    assert top["parent_id"] == domain["id"]
    assert below["domain_id"] == domain["id"]

    def names(query):
        return [one["name"] for one in cloud.get(f"{V3}/projects?{query}", user="admin").json["projects"]]

    assert names(f"domain_id={domain['id']}") == ["below", "top"]
    assert names(f"parent_id={domain['id']}") == ["top"]
    assert names(f"parent_id={top['id']}") == ["below"]
    assert names(f"domain_id={domain['id']}&enabled=true") == ["top"]
    assert names(f"domain_id={domain['id']}&enabled=0") == ["below"]
    assert names("is_domain=true") == ["Default", "d1"]
    assert cloud.get(f"{V3}/projects?enabled=perhaps", user="admin").status_code == 400
    assert cloud.delete(f"{V3}/projects/{top['id']}", user="admin").status_code == 403
    assert (
        cloud.post(f"{V3}/projects", {"project": {"name": "x", "parent_id": "none"}}, user="admin").status_code == 404
    )
    change = {"project": {"domain_id": "default"}}
    assert cloud.patch(f"{V3}/projects/{top['id']}", change, user="admin").status_code == 403


def test_a_project_that_owns_something_stays(cloud):
    """Deleting a project orphans nothing: 409 says what is left; what is part of the project goes with it."""
    project = make(cloud, "project", name="p1")
    role, demo = read_id(cloud, Role, "member"), read_id(cloud, User, "demo")
    path = f"{V3}/projects/{project['id']}"
    assert cloud.put(f"{path}/users/{demo}/roles/{role}", user="admin").status_code == 204
    user = make(cloud, "user", name="u1", default_project_id=project["id"])
    with cloud.database.write.begin() as session:
        session.add(SecurityGroup(project_id=project["id"], name="default", default_for=project["id"]))
        session.add(SecurityGroup(project_id=project["id"], name="web"))
    answer = cloud.delete(path, user="admin")
    assert answer.status_code == 409
    assert "1 security groups" in answer.json["error"]["message"]
    with cloud.database.write.begin() as session:
        session.delete(session.scalar(select(SecurityGroup).where(SecurityGroup.name == "web")))
    assert cloud.delete(path, user="admin").status_code == 204
    assert "default_project_id" not in cloud.get(f"{V3}/users/{user['id']}", user="admin").json["user"]
    with cloud.database.read() as session:
        left = select(func.count()).select_from(Assignment).where(Assignment.target_id == project["id"])
        assert session.scalar(left) == 0
        assert session.scalar(select(func.count()).select_from(SecurityGroup)) == 0
    image = cloud.post("/image/v2/images", {"name": "i", "disk_format": "raw", "container_format": "bare"}).json
    options = {"data": b"x" * 512, "content_type": "application/octet-stream"}
    sent = cloud.call("PUT", f"/image/v2/images/{image['id']}/file", **options)
    assert sent.status_code == 204
    demo_project = f"{V3}/projects/{read_id(cloud, Project, 'demo')}"
    assert "1 images" in cloud.delete(demo_project, user="admin").json["error"]["message"]
    assert cloud.delete(f"/image/v2/images/{image['id']}").status_code == 204
    assert cloud.delete(demo_project, user="admin").status_code == 204


def test_own_user_and_projects(cloud):
    """A user sees itself and its projects, and nobody else's (403 whether they exist or not)."""
    demo, other = read_id(cloud, User, "demo"), read_id(cloud, User, "other")
    assert cloud.get(f"{V3}/users/{demo}").json["user"]["name"] == "demo"
    assert cloud.get(f"{V3}/users/{other}").status_code == 403
    assert cloud.get(f"{V3}/users/none").status_code == 403
    for path in (f"{V3}/users/{demo}/projects", f"{V3}/auth/projects"):
        assert [one["name"] for one in cloud.get(path).json["projects"]] == ["demo"]
    assert cloud.get(f"{V3}/users/{other}/projects").status_code == 403
    assert cloud.get(f"{V3}/projects/{read_id(cloud, Project, 'demo')}").json["project"]["name"] == "demo"
    assert cloud.get(f"{V3}/projects/{read_id(cloud, Project, 'other')}").status_code == 403
    assert cloud.get(f"{V3}/domains/default").json["domain"]["name"] == "Default"
    assert cloud.get(f"{V3}/auth/domains").json["domains"] == []
    assert cloud.get(f"{V3}/auth/domains", user="admin").json["domains"][0]["id"] == "default"
    assert cloud.get(f"{V3}/auth/system").json["system"] == []
    assert cloud.get(f"{V3}/auth/system", user="admin").json["system"] == [{"all": True}]


def test_s30_own_password(cloud):
    """OSSA-2012-014: the old tokens are dead at once, one made right afterwards lives."""
    path = f"{V3}/users/{read_id(cloud, User, 'demo')}/password"
    token = cloud.login("demo")
    wrong = {"user": {"password": "new-secret", "original_password": "wrong"}}
    assert cloud.post(path, wrong).status_code == 401
    assert cloud.post(path, wrong, user="other").status_code == 401
    assert alive(cloud, token)
    assert cloud.post(path, {"user": {"password": "new-secret", "original_password": "demo-secret"}}).status_code == 204
    assert not alive(cloud, token)
    assert log_in(cloud, "demo", "demo-secret").status_code == 401
    answer = log_in(cloud, "demo", "new-secret")
    assert answer.status_code == 201
    assert alive(cloud, answer.headers["X-Subject-Token"])


def test_s30_admin_sets_password_or_disables(cloud):
    """Both end every token at once; enabling again does not bring the old ones back."""
    user = make(cloud, "user", name="u1", password="one")
    path = f"{V3}/users/{user['id']}"
    for change in ({"password": "two"}, {"enabled": False}):
        answer = log_in(cloud, "u1", "one")
        assert answer.status_code == 201
        token = answer.headers["X-Subject-Token"]
        assert alive(cloud, token)
        assert cloud.patch(path, {"user": change}, user="admin").status_code == 200
        assert not alive(cloud, token)
        assert log_in(cloud, "u1", "one").status_code == 401
        back = {"password": "one", "enabled": True}
        assert cloud.patch(path, {"user": back}, user="admin").status_code == 200
        assert not alive(cloud, token)
    nobody = make(cloud, "user", name="u2")
    assert nobody["enabled"] is True
    assert log_in(cloud, "u2", "").status_code == 401


def test_s34_guessing_the_old_password_is_throttled(cloud):
    cloud.settings.identity.lockout_attempts = 2
    path = f"{V3}/users/{read_id(cloud, User, 'demo')}/password"
    wrong = {"user": {"password": "new-secret", "original_password": "wrong"}}
    cloud.login("demo")
    assert [cloud.post(path, wrong).status_code for _ in range(3)] == [401, 401, 429]


def test_deleting_a_user(cloud):
    """Its tokens, roles and key pairs go with it."""
    token, user = cloud.login("demo"), read_id(cloud, User, "demo")
    assert cloud.post("/compute/v2.1/os-keypairs", {"keypair": {"name": "k"}}).status_code == 200
    assert cloud.delete(f"{V3}/users/{user}", user="admin").status_code == 204
    assert not alive(cloud, token)
    with cloud.database.read() as session:
        for model in (Keypair, Assignment):
            left = select(func.count()).select_from(model).where(model.user_id == user)
            assert session.scalar(left) == 0


def test_roles_that_policy_names(cloud):
    """Nobody renames or deletes them, or makes one that differs in case only (policy would take it for the same)."""
    admin = read_id(cloud, Role, "admin")
    assert cloud.delete(f"{V3}/roles/{admin}", user="admin").status_code == 403
    assert cloud.patch(f"{V3}/roles/{admin}", {"role": {"name": "root"}}, user="admin").status_code == 403
    assert cloud.post(f"{V3}/roles", {"role": {"name": "ADMIN"}}, user="admin").status_code == 409


@pytest.mark.parametrize("place", ["project", "domain", "system"])
def test_assignments(cloud, place):
    """Given twice is given once; HEAD and GET tell; taking ends it, and taking again is a 404."""
    targets = {"project": read_id(cloud, Project, "other"), "domain": "default"}
    target = "system" if place == "system" else f"{place}s/{targets[place]}"
    user, role = read_id(cloud, User, "demo"), read_id(cloud, Role, "reader")
    path = f"{V3}/{target}/users/{user}/roles"
    assert cloud.put(f"{path}/{role}").status_code == 403
    assert cloud.get(f"{path}/{role}", user="admin").status_code == 404
    assert cloud.put(f"{path}/{role}", user="admin").status_code == 204
    assert cloud.put(f"{path}/{role}", user="admin").status_code == 204
    assert cloud.call("HEAD", f"{path}/{role}", user="admin").status_code == 204
    assert cloud.get(f"{path}/{role}", user="admin").status_code == 204
    assert [one["name"] for one in cloud.get(path, user="admin").json["roles"]] == ["reader"]
    scope = f"scope.{place}" if place == "system" else f"scope.{place}.id"
    query = f"?user.id={user}&{scope}={targets.get(place, 'all')}&include_names"
    found = cloud.get(f"{V3}/role_assignments{query}", user="admin").json["role_assignments"]
    assert len(found) == 1
    assert found[0]["role"] == {"id": role, "name": "reader"}
    assert found[0]["user"]["name"] == "demo"
    assert found[0]["user"]["domain"] == {"id": "default", "name": "Default"}
    assert list(found[0]["scope"]) == [place]
    assert cloud.delete(f"{path}/{role}", user="admin").status_code == 204
    assert cloud.delete(f"{path}/{role}", user="admin").status_code == 404
    for wrong in (
        f"{V3}/{target}/users/none/roles/{role}",
        f"{path}/none",
        f"{V3}/projects/none/users/{user}/roles/{role}",
    ):
        assert cloud.put(wrong, user="admin").status_code == 404


def test_assignments_listed(cloud):
    """`effective` names implied roles; filters leave what fits."""

    def count(query=""):
        answer = cloud.get(f"{V3}/role_assignments{query}", user="admin")
        assert answer.status_code == 200, answer.text
        return len(answer.json["role_assignments"])

    demo, project = read_id(cloud, User, "demo"), read_id(cloud, Project, "demo")
    assert count() == 6
    assert count(f"?user.id={demo}") == 1
    assert count(f"?user.id={demo}&effective") == 2
    assert count(f"?scope.project.id={project}") == 2
    assert count(f"?scope.project.id={project}&effective=true&role.id={read_id(cloud, Role, 'reader')}") == 2
    assert count("?scope.system=all") == 1
    assert count("?group.id=x") == 0
    two = f"?scope.project.id={project}&scope.domain.id=default"
    assert cloud.get(f"{V3}/role_assignments{two}", user="admin").status_code == 400
    assert cloud.get(f"{V3}/role_assignments").status_code == 403


def test_s30_taking_a_role_ends_the_token(cloud):
    token, user = cloud.login("demo"), read_id(cloud, User, "demo")
    project, role = read_id(cloud, Project, "demo"), read_id(cloud, Role, "member")
    assert alive(cloud, token)
    path = f"{V3}/projects/{project}/users/{user}/roles/{role}"
    assert cloud.delete(path, user="admin").status_code == 204
    assert not alive(cloud, token)
    assert log_in(cloud, "demo", "demo-secret", "demo").status_code == 401
    assert log_in(cloud, "demo", "demo-secret").status_code == 201


def test_disabled_domain(cloud):
    """Nobody of a disabled domain logs in or goes on, and its projects are no scope."""
    domain = make(cloud, "domain", name="d1")
    user = make(cloud, "user", name="u1", password="one", domain_id=domain["id"])
    body = {
        "auth": {
            "identity": {
                "methods": ["password"],
                "password": {"user": {"name": "u1", "domain": {"name": "d1"}, "password": "one"}},
            }
        }
    }
    token = cloud.http.post(f"{V3}/auth/tokens", json=body).headers["X-Subject-Token"]
    assert cloud.patch(f"{V3}/domains/{domain['id']}", {"domain": {"enabled": False}}, user="admin").status_code == 200
    assert not alive(cloud, token)
    assert cloud.http.post(f"{V3}/auth/tokens", json=body).status_code == 401
    assert cloud.patch(f"{V3}/domains/{domain['id']}", {"domain": {"enabled": True}}, user="admin").status_code == 200
    assert not alive(cloud, token)
    assert cloud.http.post(f"{V3}/auth/tokens", json=body).status_code == 201
    assert cloud.delete(f"{V3}/domains/{domain['id']}", user="admin").status_code == 403
    assert cloud.patch(f"{V3}/domains/{domain['id']}", {"domain": {"enabled": False}}, user="admin").status_code == 200
    project = make(cloud, "project", name="p1", domain_id=domain["id"])
    make(cloud, "project", name="p2", parent_id=project["id"])
    group = make(cloud, "group", name="g1", domain_id=domain["id"])
    make(cloud, "role", name="r1", domain_id=domain["id"])
    with cloud.database.write.begin() as session:
        session.add(SecurityGroup(project_id=project["id"], name="web"))
    refused = cloud.delete(f"{V3}/domains/{domain['id']}", user="admin")
    assert refused.status_code == 409
    assert "1 security groups" in refused.json["error"]["message"]
    with cloud.database.write.begin() as session:
        session.delete(session.scalar(select(SecurityGroup).where(SecurityGroup.name == "web")))
    assert cloud.get(f"{V3}/users/{user['id']}", user="admin").status_code == 200
    assert cloud.delete(f"{V3}/domains/{domain['id']}", user="admin").status_code == 204
    for path in (f"users/{user['id']}", f"projects/{project['id']}", f"groups/{group['id']}"):
        assert cloud.get(f"{V3}/{path}", user="admin").status_code == 404
    assert cloud.delete(f"{V3}/domains/default", user="admin").status_code == 403
