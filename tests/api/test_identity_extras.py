"""Further attributes: stored, told, changed and taken away, on every kind of object that the reference leaves open."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from web.models import Project, User

V3 = "/identity/v3"


def ask(cloud, method, path, body=None, status=200):
    answer = cloud.call(method, V3 + path, body, user="admin")
    assert answer.status_code == status, (method, path, answer.text)
    return answer.json if answer.data else None


KINDS = [
    ("user", "users", {"name": "x"}),
    ("group", "groups", {"name": "x"}),
    ("project", "projects", {"name": "x"}),
    ("project", "projects", {"name": "x", "is_domain": True}),
    ("domain", "domains", {"name": "x"}),
    ("role", "roles", {"name": "x"}),
    ("credential", "credentials", {"type": "cert", "blob": "x"}),
    ("service", "services", {"type": "x"}),
    ("endpoint", "endpoints", {"service_id": "", "interface": "public", "url": "http://x"}),
    ("region", "regions", {}),
    ("policy", "policies", {"type": "x", "blob": "{}"}),
]


@pytest.mark.parametrize(("kind", "plural", "body"), KINDS, ids=lambda value: value if isinstance(value, str) else "")
def test_life(cloud, kind, plural, body):
    """Beside what is known, which always wins; null takes one away; id and links may come back as they were told."""
    if kind == "endpoint":
        body = {**body, "service_id": ask(cloud, "GET", "/services?type=image")["services"][0]["id"]}
    more = {"project_id": "abc", "color": {"rgb": [1, 2]}} if kind != "credential" else {"color": {"rgb": [1, 2]}}
    made = ask(cloud, "POST", f"/{plural}", {kind: {**body, **more}}, 201)[kind]
    path = f"/{plural}/{made['id']}"
    assert {**body, **more}.items() <= made.items()
    assert ask(cloud, "GET", path)[kind] == made
    query = "?is_domain=true" if body.get("is_domain") else ""
    assert made in ask(cloud, "GET", f"/{plural}{query}")[plural]
    assert ask(cloud, "PATCH", path, {kind: made})[kind] == made, "what was told, sent back"
    changed = ask(cloud, "PATCH", path, {kind: {"color": None, "size": 7}})[kind]
    assert changed == {**{name: value for name, value in made.items() if name != "color"}, "size": 7}
    assert ask(cloud, "GET", path)[kind] == changed
    ask(cloud, "PATCH", path, {kind: {"id": "another"}}, 400)
    for wrong in (
        {"x" * 256: 1},
        {"": 1},
        {"x": "y" * 16384},
        {f"x{number}": 1 for number in range(101)},
        {"x": float("inf")},
        {"x": [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]},
    ):
        ask(cloud, "PATCH", path, {kind: wrong}, 400)
    assert ask(cloud, "GET", path)[kind] == changed


def test_what_is_known_cannot_be_shadowed(cloud):
    """An attribute never takes the place of what this service says of an object."""
    given = {"name": "x", "links": {"self": "http://evil"}, "password_expires_at": "2030-01-01T00:00:00.000000Z"}
    user = ask(cloud, "POST", "/users", {"user": {**given, "id": "chosen"}}, 201)["user"]
    assert user["id"] != "chosen"
    assert user["password_expires_at"] is None
    assert user["links"]["self"].endswith(f"{V3}/users/{user['id']}")
    with cloud.database.read() as session:
        assert session.get(User, user["id"]).extra == {}
        assert session.scalar(select(Project.extra).where(Project.name == "demo")) == {}
    ask(cloud, "PATCH", f"/users/{user['id']}", {"user": {"federated": [{"idp_id": "x", "protocols": []}]}}, 400)
