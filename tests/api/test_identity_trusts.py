"""OS-TRUST: what a trust lets its trustee do, how often, how long, and with what it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from web.models import Assignment, Project, Role, Trust, User

V3 = "/identity/v3"
DEFAULT = {"id": "default"}


class World:
    """demo (member of demo) trusts other; ids by name, projects as p_NAME."""

    def __init__(self, cloud):
        self.cloud = cloud
        with cloud.database.read() as session:
            self.ids = dict(session.execute(select(User.name, User.id)).all())
            self.ids |= {f"p_{name}": one for name, one in session.execute(select(Project.name, Project.id))}

    def body(self, **changes):
        return {
            "trustor_user_id": self.ids["demo"],
            "trustee_user_id": self.ids["other"],
            "project_id": self.ids["p_demo"],
            "impersonation": False,
            "roles": [{"name": "reader"}],
            **changes,
        }

    def make(self, user="demo", token=None, status=201, **changes):
        options = {"user": None, "headers": {"X-Auth-Token": token}} if token else {"user": user}
        answer = self.cloud.post(f"{V3}/OS-TRUST/trusts", {"trust": self.body(**changes)}, **options)
        assert answer.status_code == status, (changes, answer.text)
        return answer.json.get("trust")

    def use(self, trust_id, user="other"):
        """The response to a login that is scoped to the trust."""
        part = {"user": {"name": user, "domain": DEFAULT, "password": f"{user}-secret"}}
        identity = {"methods": ["password"], "password": part}
        return self.log_in(identity, {"OS-TRUST:trust": {"id": trust_id}})

    def log_in(self, identity, scope=None):
        body = {"auth": {"identity": identity} | ({"scope": scope} if scope else {})}
        return self.cloud.http.post(f"{V3}/auth/tokens", json=body)

    def call(self, token, method="GET", path="/compute/v2.1/servers", body=None):
        return self.cloud.http.open(path, method=method, json=body, headers={"X-Auth-Token": token}).status_code


@pytest.fixture
def world(cloud):
    return World(cloud)


@pytest.mark.parametrize(("impersonation", "whose"), [(False, "other"), (True, "demo")])
def test_a_life(world, impersonation, whose):
    """The trustee acts on the trustor's project with the roles given, as itself or as the trustor."""
    cloud = world.cloud
    made = world.make(impersonation=impersonation)
    path = f"{V3}/OS-TRUST/trusts/{made['id']}"
    assert [role["name"] for role in made["roles"]] == ["reader"]
    assert cloud.get(path).json["trust"] == made == cloud.get(path, user="other").json["trust"]
    assert cloud.get(path, user="reader").status_code == 404
    for user, query, status, count in (
        ("demo", f"trustor_user_id={world.ids['demo']}", 200, 1),
        ("other", f"trustee_user_id={world.ids['other']}", 200, 1),
        ("demo", f"trustee_user_id={world.ids['demo']}", 200, 0),
        ("reader", f"trustor_user_id={world.ids['demo']}", 403, 0),
        ("demo", "", 403, 0),
        ("admin", "", 200, 1),
    ):
        answer = cloud.get(f"{V3}/OS-TRUST/trusts?{query}", user=user)
        assert answer.status_code == status
        assert len(answer.json.get("trusts", [])) == count
    role = made["roles"][0]["id"]
    assert [one["id"] for one in cloud.get(f"{path}/roles").json["roles"]] == [role]
    assert cloud.get(f"{path}/roles/{role}").json["role"]["name"] == "reader"
    assert cloud.call("HEAD", f"{path}/roles/{role}").status_code == 200
    assert cloud.get(f"{path}/roles/none").status_code == 404
    answer = world.use(made["id"])
    assert answer.status_code == 201, answer.text
    token = answer.json["token"]
    assert token["user"]["name"] == whose
    assert token["project"]["id"] == world.ids["p_demo"]
    assert [one["name"] for one in token["roles"]] == ["reader"]
    assert token["OS-TRUST:trust"] == {
        "id": made["id"],
        "trustor_user": {"id": world.ids["demo"]},
        "trustee_user": {"id": world.ids["other"]},
        "impersonation": impersonation,
    }
    text = answer.headers["X-Subject-Token"]
    assert world.call(text) == 200
    assert world.call(text, "POST", "/image/v2/images", {"name": "i"}) == 403
    # It is for what it says only: no other scope, no secrets, nothing handed on.
    identity = {"methods": ["token"], "token": {"id": text}}
    assert world.log_in(identity, {"project": {"id": world.ids["p_other"]}}).status_code == 403
    assert world.log_in(identity, {"OS-TRUST:trust": {"id": made["id"]}}).status_code == 403
    assert world.log_in(identity).json["token"]["OS-TRUST:trust"]["id"] == made["id"]
    user = world.ids[whose]
    for where, body in (
        (f"/users/{user}/application_credentials", {"application_credential": {"name": "x"}}),
        (f"/users/{user}/credentials/OS-EC2", {"tenant_id": world.ids["p_demo"]}),
        ("/OS-TRUST/trusts", {"trust": world.body(trustor_user_id=user, trustee_user_id=world.ids["reader"])}),
    ):
        assert world.call(text, "POST", V3 + where, body) == 403, where
    assert world.call(text, "DELETE", path) == 403
    assert world.use(made["id"], "reader").status_code == 403
    assert world.use("none").status_code == 403
    assert cloud.delete(path, user="other").status_code == 403
    assert cloud.delete(path).status_code == 204
    assert cloud.delete(path).status_code == 404
    assert world.call(text) == 401
    assert world.use(made["id"]).status_code == 403


def test_refused(world):
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    for changes, status in (
        ({"trustor_user_id": world.ids["other"]}, 403),
        ({"trustee_user_id": "none"}, 404),
        ({"project_id": None}, 403),
        ({"project_id": world.ids["p_other"]}, 403),
        ({"roles": []}, 403),
        ({"roles": [{}]}, 403),
        ({"roles": [{"name": "admin"}]}, 403),
        ({"expires_at": past}, 400),
        ({"expires_at": "soon"}, 400),
        ({"remaining_uses": 0}, 400),
        ({"remaining_uses": "x"}, 400),
        ({"impersonation": "perhaps"}, 400),
        ({"allow_redelegation": True, "remaining_uses": 1}, 403),
        ({"allow_redelegation": True, "redelegation_count": 4}, 403),
        ({"more": 1}, 400),
    ):
        world.make(status=status, **changes)


def test_uses_and_time(world):
    """So many tokens and no more; none after its end."""
    made = world.make(remaining_uses=2)
    assert [world.use(made["id"]).status_code for _ in range(3)] == [201, 201, 403]
    assert world.cloud.get(f"{V3}/OS-TRUST/trusts/{made['id']}").status_code == 404
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    made = world.make(expires_at=later)
    assert made["expires_at"] == later
    text = world.use(made["id"]).headers["X-Subject-Token"]
    assert world.call(text) == 200
    with world.cloud.database.write.begin() as session:
        session.get(Trust, made["id"]).expires_at = datetime.now(UTC)
    assert world.call(text) == 401
    assert world.use(made["id"]).status_code == 403


def test_redelegation(world):
    """As deep, as long and with as much as the first one allows; it ends with that one."""
    first = world.make(impersonation=True, allow_redelegation=True, redelegation_count=1, roles=[{"name": "member"}])
    text = world.use(first["id"]).headers["X-Subject-Token"]
    onward = {"trustee_user_id": world.ids["reader"], "impersonation": True, "roles": [{"name": "member"}]}
    for changes, status in (
        ({"project_id": world.ids["p_other"]}, 403),
        ({"roles": [{"name": "admin"}]}, 403),
        ({"allow_redelegation": True, "redelegation_count": 1}, 403),
    ):
        world.make(token=text, status=status, **{**onward, **changes})
    second = world.make(token=text, **onward)
    assert second["redelegated_trust_id"] == first["id"]
    answer = world.use(second["id"], "reader")
    assert answer.status_code == 201, answer.text
    assert answer.json["token"]["user"]["name"] == "demo"
    deep = answer.headers["X-Subject-Token"]
    assert world.call(deep) == 200
    world.make(token=deep, status=403, **onward)
    assert world.cloud.delete(f"{V3}/OS-TRUST/trusts/{first['id']}").status_code == 204
    assert world.call(deep) == 401
    assert world.use(second["id"], "reader").status_code == 403


def take_role(session):
    user = session.scalar(select(User.id).where(User.name == "demo"))
    for row in session.scalars(select(Assignment).where(Assignment.user_id == user)):
        session.delete(row)


def replace_role(session):
    user = session.scalar(select(User.id).where(User.name == "demo"))
    for row in session.scalars(select(Assignment).where(Assignment.user_id == user)):
        row.role_id = session.scalar(select(Role.id).where(Role.name == "service"))


def disable_trustor(session):
    session.scalar(select(User).where(User.name == "demo")).enabled = False


def disable_trustee(session):
    session.scalar(select(User).where(User.name == "other")).enabled = False


def delete_trustee(session):
    session.delete(session.scalar(select(User).where(User.name == "other")))


def change_password(session):
    session.scalar(select(User).where(User.name == "demo")).tokens_valid_after = datetime.now(UTC)


@pytest.mark.parametrize(
    "change", [take_role, replace_role, disable_trustor, disable_trustee, delete_trustee, change_password]
)
def test_s30_it_ends_with_its_reason(world, change):
    texts = [world.use(world.make(impersonation=one)["id"]).headers["X-Subject-Token"] for one in (False, True)]
    assert [world.call(text) for text in texts] == [200, 200]
    with world.cloud.database.write.begin() as session:
        change(session)
    assert [world.call(text) for text in texts] == [401, 401]
