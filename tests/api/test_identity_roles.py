"""Where roles come from: groups, inheritance, other roles, one domain's roles; and how assignments are listed."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from web.models import Assignment, Project, Role, User

V3 = "/identity/v3"
DEFAULT = {"id": "default"}


class World:
    """A user u1 without roles; projects top > mid > low of domain d1; a group g1; and admin's calls."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.ids = {}
        assert self.make("domain", "d1", description=None)["description"] == ""  # as openstackclient sends it
        for name, parent in (("top", "d1"), ("mid", "top"), ("low", "mid")):
            self.make("project", name, parent_id=self.ids[parent])
        self.make("user", "u1", password="one", domain_id=self.ids["d1"])
        self.make("group", "g1", domain_id=self.ids["d1"])
        with cloud.database.read() as session:
            self.ids |= dict(session.execute(select(Role.name, Role.id)).all())

    def make(self, kind, name, **body):
        answer = self.cloud.post(f"{V3}/{kind}s", {kind: {"name": name, **body}}, user="admin")
        assert answer.status_code == 201, answer.text
        self.ids[name] = answer.json[kind]["id"]
        return answer.json[kind]

    def ask(self, method, path, body=None, user="admin"):
        """The response to a call; {names} in the path are ids."""
        return self.cloud.call(method, V3 + path.format(**self.ids), body, user=user)

    def log_in(self, scope=None):
        user = {"name": "u1", "domain": {"name": "d1"}, "password": "one"}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
        if scope:
            body["auth"]["scope"] = {"domain" if scope == "d1" else "project": {"id": self.ids[scope]}}
        return self.cloud.http.post(f"{V3}/auth/tokens", json=body)

    def roles(self, scope):
        """The names of the roles in a new token; None where there is no token."""
        answer = self.log_in(scope)
        return sorted(role["name"] for role in answer.json["token"]["roles"]) if answer.status_code == 201 else None

    def list(self, query):
        answer = self.ask("GET", f"/role_assignments?{query}")
        assert answer.status_code == 200, answer.text
        return answer.json["role_assignments"]


@pytest.fixture
def world(cloud):
    return World(cloud)


MR = ["member", "reader"]
# what is assigned (PUT), then the roles in tokens for top, mid, low and the domain
PLACES = [
    (["/projects/{top}/users/{u1}/roles/{member}"], MR, None, None, None),
    (["/projects/{top}/groups/{g1}/roles/{reader}", "/groups/{g1}/users/{u1}"], ["reader"], None, None, None),
    (["/projects/{top}/groups/{g1}/roles/{reader}"], None, None, None, None),
    (["/OS-INHERIT/projects/{top}/users/{u1}/roles/{member}/inherited_to_projects"], None, MR, MR, None),
    (["/OS-INHERIT/projects/{mid}/users/{u1}/roles/{member}/inherited_to_projects"], None, None, MR, None),
    (["/OS-INHERIT/domains/{d1}/users/{u1}/roles/{reader}/inherited_to_projects"], *[["reader"]] * 3, None),
    (
        ["/OS-INHERIT/domains/{d1}/groups/{g1}/roles/{reader}/inherited_to_projects", "/groups/{g1}/users/{u1}"],
        *[["reader"]] * 3,
        None,
    ),
    (["/domains/{d1}/groups/{g1}/roles/{member}", "/groups/{g1}/users/{u1}"], None, None, None, MR),
]


def test_where_roles_count(world):
    """Each way of giving a role counts where it says and nowhere else, and taking it away ends the token at once."""
    for paths, *wanted in PLACES:
        for path in paths:
            assert world.ask("GET", path).status_code == 404, path
            assert world.ask("PUT", path, user="demo").status_code == 403
            assert world.ask("PUT", path).status_code == 204
            assert world.ask("PUT", path).status_code == 204
            assert world.ask("HEAD", path).status_code == 204
        assert [world.roles(scope) for scope in ("top", "mid", "low", "d1")] == wanted, paths
        answers = [world.log_in(scope) for scope in ("top", "mid", "low", "d1")]
        tokens = [one.headers["X-Subject-Token"] for one in answers if one.status_code == 201]
        projects = sum(one is not None for one in wanted[:3])
        for text in tokens:
            headers = {"X-Auth-Token": text}
            assert len(world.cloud.http.get(f"{V3}/auth/projects", headers=headers).json["projects"]) == projects
            own = world.cloud.http.get(f"{V3}/users/{world.ids['u1']}/groups", headers=headers).json["groups"]
            assert [one["name"] for one in own] == (["g1"] if "/groups/{g1}/users/{u1}" in paths else [])
        for path in reversed(paths):
            assert world.ask("DELETE", path).status_code == 204, path
            assert world.ask("DELETE", path).status_code == 404, path
            for text in tokens:
                assert world.cloud.http.get(f"{V3}/auth/projects", headers={"X-Auth-Token": text}).status_code == 401
    for path in (
        "/OS-INHERIT/projects/none/users/{u1}/roles/{member}/inherited_to_projects",
        "/projects/{top}/groups/none/roles/{member}",
        "/projects/{top}/groups/{g1}/roles/none",
        "/groups/{g1}/users/none",
        "/groups/none/users/{u1}",
    ):
        assert world.ask("PUT", path).status_code == 404


def test_groups(world):
    """Members are listed; deleting the group takes their roles; names are of one domain."""
    world.make("group", "g2", description="x")
    assert world.ask("POST", "/groups", {"group": {"name": "g2"}}).status_code == 409
    world.make("group", "g3", domain_id=world.ids["d1"])
    for query, names in (
        ("name__startswith=g", ["g1", "g2", "g3"]),
        ("name=g2", ["g2"]),
        ("domain_id={d1}", ["g1", "g3"]),
        ("name__icontains=G3", ["g3"]),
        ("name__contains=G3", []),
        ("name__endswith=1", ["g1"]),
    ):
        found = world.ask("GET", f"/groups?{query}").json["groups"]
        assert [one["name"] for one in found] == names, query
    assert world.ask("PATCH", "/groups/{g2}", {"group": {"domain_id": world.ids["d1"]}}).status_code == 403
    for path in ("/projects/{top}/groups/{g1}/roles/{reader}", "/groups/{g1}/users/{u1}"):
        assert world.ask("PUT", path).status_code == 204
    assert [one["name"] for one in world.ask("GET", "/groups/{g1}/users").json["users"]] == ["u1"]
    assert [one["name"] for one in world.ask("GET", "/projects/{top}/groups/{g1}/roles").json["roles"]] == ["reader"]
    text = world.log_in("top").headers["X-Subject-Token"]
    assert world.ask("GET", "/users/{u1}/groups", user="demo").status_code == 403
    assert world.ask("DELETE", "/groups/{g1}").status_code == 204
    assert world.cloud.http.get(f"{V3}/auth/projects", headers={"X-Auth-Token": text}).status_code == 401


def test_implied_roles(world):
    """A role brings what it implies, however far; not in a ring, never admin; taking the rule away works at once."""
    world.make("role", "r1"), world.make("role", "r2")
    assert world.ask("PUT", "/projects/{top}/users/{u1}/roles/{r1}").status_code == 204
    assert world.roles("top") == ["r1"]
    for prior, implied in (("r1", "r2"), ("r2", "member")):
        path = f"/roles/{{{prior}}}/implies/{{{implied}}}"
        assert world.ask("GET", path).status_code == 404
        made = world.ask("PUT", path)
        assert made.status_code == 201
        assert made.json["role_inference"]["prior_role"]["name"] == prior
        assert made.json["role_inference"]["implies"]["name"] == implied
        assert world.ask("GET", path).json == made.json
        assert world.ask("HEAD", path).status_code == 204
    assert world.roles("top") == ["member", "r1", "r2", "reader"]
    text = world.log_in("top").headers["X-Subject-Token"]
    made = world.cloud.http.post("/image/v2/images", json={"name": "i"}, headers={"X-Auth-Token": text})
    assert made.status_code == 201, "member by inference only"
    for path in ("/roles/{member}/implies/{r1}", "/roles/{r1}/implies/{r1}", "/roles/{r1}/implies/{admin}"):
        assert world.ask("PUT", path).status_code == 403, path
    assert world.ask("PUT", "/roles/{r1}/implies/none").status_code == 404
    listed = world.ask("GET", "/role_inferences").json["role_inferences"]
    told = {one["prior_role"]["name"]: [role["name"] for role in one["implies"]] for one in listed}
    own = {"admin": ["manager"], "manager": ["member"], "member": ["reader"]}
    assert told == {**own, "r1": ["r2"], "r2": ["member"]}
    one = world.ask("GET", "/roles/{r1}/implies").json["role_inference"]
    assert [role["name"] for role in one["implies"]] == ["r2"]
    found = world.list("user.id={u1}&effective&include_names")
    assert sorted(one["role"]["name"] for one in found) == ["member", "r1", "r2", "reader"]
    member = next(one for one in found if one["role"]["name"] == "member")
    assert member["links"]["prior_role"].endswith(f"/roles/{world.ids['r2']}/implies/{world.ids['member']}")
    assert world.ask("DELETE", "/roles/{r1}/implies/{r2}").status_code == 204
    assert world.ask("DELETE", "/roles/{r1}/implies/{r2}").status_code == 404
    assert world.roles("top") == ["r1"]
    posted = world.cloud.http.post("/image/v2/images", json={"name": "j"}, headers={"X-Auth-Token": text})
    assert posted.status_code == 403


def test_roles_of_one_domain(world):
    """Never in a token, so never what a policy sees; what they imply is; and not given outside of their domain."""
    world.make("role", "ours", domain_id=world.ids["d1"])
    world.make("role", "fake", domain_id=world.ids["d1"])
    world.ids["fake_admin"] = world.make("role", "admin", domain_id=world.ids["d1"])["id"]
    with world.cloud.database.read() as session:
        world.ids["admin"] = session.scalar(select(Role.id).where(Role.name == "admin", Role.domain_id.is_(None)))
    for name in ("ours", "fake_admin"):
        assert world.ask("PUT", f"/projects/{{top}}/users/{{u1}}/roles/{{{name}}}").status_code == 204
    assert world.roles("top") is None, "an admin of one domain's making is none"
    assert world.ask("PUT", "/roles/{ours}/implies/{reader}").status_code == 201
    assert world.roles("top") == ["reader"]
    assert world.ask("PUT", "/roles/{reader}/implies/{ours}").status_code == 403
    assert world.ask("HEAD", "/roles/{ours}/implies/{reader}").status_code == 204
    assert world.ask("HEAD", "/roles/{ours}/implies/{fake}").status_code == 404
    world.ids["d2"] = world.ask("POST", "/domains", {"domain": {"name": "d2"}}).json["domain"]["id"]
    world.make("role", "theirs", domain_id=world.ids["d2"])
    assert world.ask("PUT", "/roles/{ours}/implies/{theirs}").status_code == 201, "across domains as the reference"
    assert world.ask("DELETE", "/roles/{ours}/implies/{theirs}").status_code == 204
    with world.cloud.database.read() as session:
        world.ids["elsewhere"] = session.scalar(select(Project.id).where(Project.name == "demo"))
    assert world.ask("PUT", "/projects/{elsewhere}/users/{u1}/roles/{ours}").status_code == 403
    assert world.ask("PUT", "/domains/default/users/{u1}/roles/{ours}").status_code == 403
    names = [one["name"] for one in world.ask("GET", "/roles?domain_id={d1}").json["roles"]]
    assert names == ["admin", "fake", "ours"]
    assert "ours" not in {one["name"] for one in world.ask("GET", "/roles").json["roles"]}
    assert world.ask("PATCH", "/roles/{ours}", {"role": {"domain_id": None}}).status_code == 403
    assert world.ask("DELETE", "/roles/{fake_admin}").status_code == 204
    assert world.ask("POST", "/roles", {"role": {"name": "x", "domain_id": "none"}}).status_code == 404
    assert [one["role"]["id"] for one in world.list("user.id={u1}&effective")] == [world.ids["reader"]]


LISTS = [  # query, how many
    ("user.id={u1}", 1),
    ("group.id={g1}", 2),
    ("scope.domain.id={d1}", 1),
    ("scope.domain.id={d1}&scope.OS-INHERIT:inherited_to=projects", 1),
    ("scope.project.id={top}", 2),
    ("scope.project.id={top}&include_subtree", 2),
    ("scope.project.id={top}&include_subtree=false", 2),
    ("user.id={u1}&effective", 5),  # reader on all three by the domain, member on two; what comes twice is told once
    ("user.id={u1}&effective&scope.project.id={low}", 2),
    ("user.id={u1}&effective&scope.project.id={mid}&include_subtree=1", 4),
    ("effective&scope.project.id={top}&role.id={reader}", 1),
    ("role.id={admin}&scope.system=all", 1),
]


def test_assignments_listed(world):
    for path in (
        "/OS-INHERIT/domains/{d1}/groups/{g1}/roles/{reader}/inherited_to_projects",
        "/projects/{top}/groups/{g1}/roles/{reader}",
        "/OS-INHERIT/projects/{top}/users/{u1}/roles/{member}/inherited_to_projects",
        "/groups/{g1}/users/{u1}",
    ):
        assert world.ask("PUT", path).status_code == 204
    assert {query: len(world.list(query)) for query, _ in LISTS} == dict(LISTS)
    plain = world.list("scope.domain.id={d1}&include_names")[0]
    assert plain["scope"]["domain"]["name"] == "d1"
    assert plain["scope"]["OS-INHERIT:inherited_to"] == "projects"
    assert plain["group"]["domain"]["name"] == "d1"
    found = world.list("user.id={u1}&effective&scope.project.id={low}&include_names&role.id={reader}")[0]
    assert found["scope"]["project"]["name"] == "low"
    assert found["user"]["name"] == "u1"
    assert found["links"]["membership"].endswith(f"/groups/{world.ids['g1']}/users/{world.ids['u1']}")
    assert "/OS-INHERIT/domains/" in found["links"]["assignment"]
    for query in (
        "user.id={u1}&group.id={g1}",
        "effective&group.id={g1}",
        "effective&scope.domain.id={d1}&scope.OS-INHERIT:inherited_to=projects",
        "include_subtree",
        "scope.OS-INHERIT:inherited_to=users",
    ):
        assert world.ask("GET", f"/role_assignments?{query}").status_code == 400, query


def test_disabling_ends_tokens_for_good(world):
    """A project or domain that was disabled and enabled again does not bring old tokens back; order in the tree."""
    assert world.ask("PUT", "/projects/{low}/users/{u1}/roles/{reader}").status_code == 204
    for path, kind in (("/projects/{low}", "project"), ("/domains/{d1}", "domain")):
        text = world.log_in("low").headers["X-Subject-Token"]
        assert world.ask("PATCH", path, {kind: {"enabled": False}}).status_code == 200
        assert world.log_in("low").status_code == 401
        assert world.ask("PATCH", path, {kind: {"enabled": True}}).status_code == 200
        assert world.cloud.http.get(f"{V3}/auth/projects", headers={"X-Auth-Token": text}).status_code == 401
        assert world.log_in("low").status_code == 201
    assert world.ask("PATCH", "/projects/{mid}", {"project": {"enabled": False}}).status_code == 403
    for name in ("low", "mid"):
        assert world.ask("PATCH", f"/projects/{{{name}}}", {"project": {"enabled": False}}).status_code == 200
    assert world.ask("PATCH", "/projects/{low}", {"project": {"enabled": True}}).status_code == 403
    below = {"project": {"name": "x", "parent_id": world.ids["mid"]}}
    assert world.ask("POST", "/projects", below).status_code == 403


def test_the_users_own_row_is_gone_with_it(world):
    for path in ("/groups/{g1}/users/{u1}", "/projects/{top}/users/{u1}/roles/{reader}"):
        assert world.ask("PUT", path).status_code == 204
    assert world.ask("DELETE", "/users/{u1}").status_code == 204
    assert world.ask("GET", "/groups/{g1}/users").json["users"] == []
    with world.cloud.database.read() as session:
        assert session.scalar(select(User.id).where(User.id == world.ids["u1"])) is None
        assert session.scalar(select(Assignment.id).where(Assignment.user_id == world.ids["u1"])) is None
