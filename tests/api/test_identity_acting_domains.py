"""Projects that act as domains, projects with what is only a record, and passwords changed by who knows the old one."""

from __future__ import annotations

import pytest
from compute_cloud import add_image, boot
from sqlalchemy import func, select

from web.models import (
    IdempotentAnswer,
    Image,
    ImageTask,
    Project,
    Server,
    ServerAction,
    User,
    UserQuota,
    Volume,
    VolumeAttachment,
    VolumeType,
    VolumeTypeAccess,
    now,
)

V3 = "/identity/v3"


def ask(cloud, method, path, body=None, status=200, user="admin"):
    answer = cloud.call(method, V3 + path, body, user=user)
    assert answer.status_code == status, (method, path, answer.text)
    return answer.json if answer.data else None


def test_a_project_that_acts_as_a_domain(cloud):
    """One object with two names: made, shown, listed, changed and deleted by both."""
    made = ask(cloud, "POST", "/projects", {"project": {"name": "d", "is_domain": True, "tags": ["t"]}}, 201)["project"]
    assert (made["is_domain"], made["domain_id"], made["parent_id"], made["tags"]) == (True, None, None, ["t"])
    path = f"/projects/{made['id']}"
    domain = ask(cloud, "GET", f"/domains/{made['id']}")["domain"]
    assert (domain["name"], domain["tags"], domain["enabled"]) == ("d", ["t"], True)
    assert ask(cloud, "GET", path)["project"] == made
    assert [one["name"] for one in ask(cloud, "GET", "/projects?is_domain=true")["projects"]] == ["Default", "d"]
    assert [one["name"] for one in ask(cloud, "GET", "/projects?is_domain=true&tags=t")["projects"]] == ["d"]
    assert ask(cloud, "GET", "/projects?is_domain=true&domain_id=default")["projects"] == []
    assert "d" not in {one["name"] for one in ask(cloud, "GET", "/projects")["projects"]}
    below = ask(cloud, "POST", "/projects", {"project": {"name": "p", "parent_id": made["id"]}}, 201)["project"]
    assert below["domain_id"] == made["id"]
    family = ask(cloud, "GET", f"{path}?subtree_as_ids&parents_as_ids")["project"]
    assert (family["subtree"], family["parents"]) == ({below["id"]: None}, None)
    changed = ask(cloud, "PATCH", path, {"project": {"name": "e", "description": "y", "domain_id": None}})["project"]
    assert (changed["name"], changed["description"]) == ("e", "y")
    assert ask(cloud, "GET", f"/domains/{made['id']}")["domain"]["name"] == "e"
    ask(cloud, "PUT", f"{path}/tags/u", status=201)
    assert ask(cloud, "GET", f"{path}/tags")["tags"] == ["t", "u"]
    for wrong in ({"is_domain": False}, {"domain_id": "default"}, {"parent_id": below["id"]}):
        ask(cloud, "PATCH", path, {"project": wrong}, 403)
    ask(cloud, "PATCH", f"/projects/{below['id']}", {"project": {"is_domain": True}}, 403)
    for wrong in ({"parent_id": "default"}, {"domain_id": "default"}):
        ask(cloud, "POST", "/projects", {"project": {"name": "x", "is_domain": True, **wrong}}, 400)
    ask(cloud, "POST", "/projects", {"project": {"name": "e", "is_domain": True}}, 409)
    ask(cloud, "DELETE", path, status=403)
    ask(cloud, "PATCH", path, {"project": {"enabled": False}})
    ask(cloud, "DELETE", path, status=204)
    for where in (path, f"/domains/{made['id']}", f"/projects/{below['id']}"):
        ask(cloud, "GET", where, status=404)
    ask(cloud, "DELETE", "/projects/default", status=403)
    ask(cloud, "GET", "/projects/default", status=403, user="demo")


def test_an_id_of_ones_choice(cloud):
    chosen = "0123456789abcdef0123456789abcdef"
    made = ask(cloud, "POST", "/domains", {"domain": {"name": "d", "explicit_domain_id": chosen}}, 201)["domain"]
    assert made["id"] == chosen
    assert "explicit_domain_id" not in made
    ask(cloud, "POST", "/domains", {"domain": {"name": "e", "explicit_domain_id": chosen}}, 409)
    with cloud.database.read() as session:
        taken = session.scalar(select(Project.id).where(Project.name == "demo"))
    ask(cloud, "POST", "/domains", {"domain": {"name": "e", "explicit_domain_id": taken}}, 409)


def test_records_do_not_keep_a_project(cloud):
    """What was asked for and what is gone goes along or is left to the worker; what is there keeps the project."""
    server = boot(cloud, add_image(cloud))
    project = ask(cloud, "POST", "/projects", {"project": {"name": "p"}}, 201)["project"]["id"]
    with cloud.database.write.begin() as session:
        user = session.scalar(select(User.id).where(User.name == "demo"))
        image = Image(project_id="elsewhere", name="i")
        mine = Image(project_id=project, name="gone", deleted_at=now())
        kind = session.scalar(select(VolumeType.id))
        gone = Volume(project_id=project, user_id=user, size_gb=1, gone_at=now(), deleted_at=now())
        volume = Volume(project_id=project, user_id=user, size_gb=1)
        queued = Image(project_id=project, name="queued", status="queued")
        session.add_all([image, mine, gone, volume, queued])
        session.flush()
        session.add(ImageTask(image_id=image.id, project_id=project, type="import"))
        action = {"server_id": "s", "action": "create", "request_id": "r", "user_id": user, "project_id": project}
        session.add(ServerAction(**action))
        session.add(UserQuota(project_id=project, user_id=user, resource="cores", limit=1))
        session.add(VolumeTypeAccess(project_id=project, volume_type_id=kind))
        session.add(
            IdempotentAnswer(user_id=user, project_id=project, key="k", digest="d", request="r", status=200, body="b")
        )
        kept, volume_id, queued_id = image.id, volume.id, queued.id
    refused = cloud.delete(f"{V3}/projects/{project}", user="admin")
    assert refused.status_code == 409
    assert refused.json["error"]["message"].startswith(f"Project {project} still owns 1 volumes: ")
    with cloud.database.write.begin() as session:  # it goes with a server that is gone: the worker has yet to see to it
        session.scalar(select(Server).where(Server.id == server)).gone_at = now()
        one = {"volume_id": volume_id, "server_id": server, "project_id": project, "username": "u", "password": "p"}
        session.add(VolumeAttachment(**one, delete_with_server=True, released=True))
    ask(cloud, "DELETE", f"/projects/{project}", status=204)
    with cloud.database.read() as session:
        for model in (ImageTask, ServerAction, UserQuota, VolumeTypeAccess, IdempotentAnswer):
            left = select(func.count()).select_from(model).where(model.project_id == project)
            assert session.scalar(left) == 0, model
        assert session.get(Image, kept) is not None
        assert session.get(Image, queued_id).status == "deleted"
        assert session.scalars(select(Server.id)).all() == [server]


@pytest.mark.parametrize("user", [None, "other", "admin", "demo"])
def test_a_password_is_changed_by_who_knows_it(cloud, user):
    """Without a token, too, as in the reference; who could not log in learns nothing but that."""
    with cloud.database.read() as session:
        demo = session.scalar(select(User.id).where(User.name == "demo"))
    path, body = f"{V3}/users/{demo}/password", {"user": {"password": "new", "original_password": "demo-secret"}}
    wrong = {"user": {**body["user"], "original_password": "x"}}
    refused = [cloud.post(path, wrong, user=user), cloud.post(f"{V3}/users/none/password", body, user=user)]
    for change in ({"enabled": False}, {"enabled": True}):
        ask(cloud, "PATCH", f"/users/{demo}", {"user": change})
        if not change["enabled"]:
            refused.append(cloud.post(path, body, user=user if user != "demo" else None))
    assert [one.status_code for one in refused] == [401, 401, 401]
    assert len({one.text for one in refused}) == 1
    cloud._tokens.pop("demo", None)
    assert cloud.post(path, body, user=user).status_code == 204
    assert cloud.post(path, body, user=None).status_code == 401


def test_a_password_alone_is_not_enough_where_several_methods_are_needed(cloud):
    with cloud.database.read() as session:
        demo = session.scalar(select(User.id).where(User.name == "demo"))
    options = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": [["password", "totp"]]}
    ask(cloud, "PATCH", f"/users/{demo}", {"user": {"options": options}})
    body = {"user": {"password": "new", "original_password": "demo-secret"}}
    for user in (None, "other"):
        assert cloud.post(f"{V3}/users/{demo}/password", body, user=user).status_code == 401


def test_s34_guessing_without_a_token_is_throttled(cloud):
    cloud.settings.identity.lockout_attempts = 2
    body = {"user": {"password": "new", "original_password": "wrong"}}
    with cloud.database.read() as session:
        demo = session.scalar(select(User.id).where(User.name == "demo"))
    for account in (demo, "none"):
        path = f"{V3}/users/{account}/password"
        assert [cloud.post(path, body, user=None).status_code for _ in range(3)] == [401, 401, 429]
