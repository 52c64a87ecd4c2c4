"""Projects' tags and family, and users' options: what filters find and what logins need."""

from __future__ import annotations

import base64

from sqlalchemy import select

from web.models import Project, User, now
from web.signatures import STEP_S, _build_passcode

V3 = "/identity/v3"
DEFAULT = {"id": "default"}


def make(cloud, name, **body):
    answer = cloud.post(f"{V3}/projects", {"project": {"name": name, **body}}, user="admin")
    assert answer.status_code == 201, answer.text
    return answer.json["project"]["id"]


def test_tags(cloud):
    """One by one and all together; the four filters find what they say; only admins change them."""
    ids = {name: make(cloud, name, tags=tags) for name, tags in (("a", ["x", "y"]), ("b", ["x"]), ("c", ['q"x"', "é"]))}
    path = f"{V3}/projects/{ids['a']}/tags"
    for query, names in (
        ("tags=x", "ab"),
        ("tags=x,y", "a"),
        ("tags-any=y,é", "ac"),
        ("not-tags=x,y", "bc"),
        ("not-tags-any=x,é", ""),
        ("not-tags-any=y", "bc"),
        ("tags=%25", ""),
        ("tags=x&not-tags=y", "b"),
        ("name__startswith=a&tags=x", "a"),
    ):
        found = cloud.get(f"{V3}/projects?{query}", user="admin").json["projects"]
        assert "".join(one["name"] for one in found if one["name"] in ids) == names, query
    assert cloud.get(path, user="admin").json["tags"] == ["x", "y"]
    for method, where, body, status in (
        ("PUT", f"{path}/z", None, 201),
        ("PUT", f"{path}/z", None, 201),
        ("GET", f"{path}/z", None, 204),
        ("HEAD", f"{path}/z", None, 204),
        ("DELETE", f"{path}/x", None, 204),
        ("DELETE", f"{path}/x", None, 404),
        ("GET", f"{path}/x", None, 404),
        ("PUT", f"{path}/a,b", None, 400),
        ("PUT", path, {"tags": ["a,b"]}, 400),
        ("PUT", path, {"tags": ["a", "a"]}, 400),
        ("PUT", path, {}, 400),
        ("PUT", f"{V3}/projects/none/tags/z", None, 404),
    ):
        assert cloud.call(method, where, body, user="admin").status_code == status, (method, where)
    assert cloud.get(path, user="admin").json["tags"] == ["y", "z"]
    assert cloud.put(path, {"tags": ["n", "m"]}, user="admin").json["tags"] == ["m", "n"]
    with cloud.database.read() as session:
        own = session.scalar(select(Project.id).where(Project.name == "demo"))
    assert cloud.get(f"{V3}/projects/{own}/tags").json["tags"] == []
    assert cloud.put(f"{V3}/projects/{own}/tags/z").status_code == 403
    assert cloud.get(path).status_code == 403
    assert cloud.delete(path, user="admin").status_code == 204
    assert cloud.get(f"{V3}/projects/{ids['a']}", user="admin").json["project"]["tags"] == []


def test_family(cloud):
    """Parents up to the domain, the subtree down to its leaves, as lists or as ids; five deep at most."""
    ids = ["default"]
    for name in ("p1", "p2", "p3", "p4", "p5"):
        ids.append(make(cloud, name, parent_id=ids[-1]))
    side = make(cloud, "side", parent_id=ids[2])
    assert (
        cloud.post(f"{V3}/projects", {"project": {"name": "p6", "parent_id": ids[5]}}, user="admin").status_code == 403
    )
    path = f"{V3}/projects/{ids[3]}"

    def show(query, user="admin"):
        answer = cloud.get(f"{path}?{query}", user=user)
        assert answer.status_code == 200, answer.text
        return answer.json["project"]

    assert show("parents_as_ids")["parents"] == {ids[2]: {ids[1]: {"default": None}}}
    assert show("subtree_as_ids")["subtree"] == {ids[4]: {ids[5]: None}}
    both = show("parents_as_list&subtree_as_list")
    assert [one["project"]["name"] for one in both["parents"]] == ["p2", "p1"]
    assert [one["project"]["name"] for one in both["subtree"]] == ["p4", "p5"]
    assert "parents" not in show("")
    assert cloud.get(f"{path}?parents_as_list&parents_as_ids", user="admin").status_code == 400
    path = f"{V3}/projects/{ids[2]}"
    assert show("subtree_as_ids")["subtree"] == {ids[3]: {ids[4]: {ids[5]: None}}, side: None}
    path = f"{V3}/projects/{side}"
    assert show("subtree_as_ids")["subtree"] is None


def test_user_options(cloud):
    """lock_password keeps the password; with rules of several methods one alone does not let in."""
    with cloud.database.read() as session:
        demo = session.scalar(select(User.id).where(User.name == "demo"))
    path = f"{V3}/users/{demo}"
    seed = base64.b32encode(b"12345678901234567890").decode()
    assert cloud.post(f"{V3}/credentials", {"credential": {"type": "totp", "blob": seed}}).status_code == 201

    def change(status=200, **options):
        answer = cloud.patch(path, {"user": {"options": options}}, user="admin")
        assert answer.status_code == status, answer.text
        return answer.json.get("user", {}).get("options")

    def log_in(*methods):
        user = {"name": "demo", "domain": DEFAULT}
        passcode = _build_passcode(b"12345678901234567890", int(now().timestamp()) // STEP_S)
        parts = {
            "password": {"user": {**user, "password": "demo-secret"}},
            "totp": {"user": {**user, "passcode": passcode}},
        }
        identity = {"methods": list(methods), **{method: parts[method] for method in methods}}
        return cloud.http.post(f"{V3}/auth/tokens", json={"auth": {"identity": identity}})

    assert change(lock_password=True) == {"lock_password": True}
    passwords = {"user": {"password": "new", "original_password": "demo-secret"}}
    assert cloud.post(f"{path}/password", passwords).status_code == 403
    rules = [["password", "totp"]]
    assert change(lock_password=None, multi_factor_auth_rules=rules) == {"multi_factor_auth_rules": rules}
    assert log_in("password").status_code == 201
    change(multi_factor_auth_enabled=True)
    assert log_in("password").status_code == 401
    answer = log_in("password", "totp")
    assert answer.status_code == 201, answer.text
    assert set(answer.json["token"]["methods"]) == {"password", "totp"}
    again = {"methods": ["token"], "token": {"id": answer.headers["X-Subject-Token"]}}
    assert cloud.http.post(f"{V3}/auth/tokens", json={"auth": {"identity": again}}).status_code == 201
    change(400, galaxy=True)
    change(400, multi_factor_auth_rules=[["voice"]])
    assert cloud.get(path).json["user"]["options"]["multi_factor_auth_enabled"] is True
