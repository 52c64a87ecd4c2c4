"""`Kumo-Dry-Run`: what would be answered and what hosts would do, and nothing of it done."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, build_server
from sqlalchemy import func, select

from web import dry_run
from web.models import Host, HostRequest, IdempotentAnswer, Port, RequestLog, Server
from web.reconcile import run

TRY = {"Kumo-Dry-Run": "true"}


@pytest.fixture
def checked(monkeypatch):
    """What hosts were asked to check: [(name, document)]; they tell one action for each server."""
    asked = []

    def check(settings, name, connection, document, *, check):
        assert check
        asked.append((name, document))
        servers = [server["id"] for server in document["servers"]]
        result = {
            "actions": [{"section": "servers", "object_id": one, "verb": "create"} for one in servers],
            "diff": [{"before": "", "after": f"guest {one}\n"} for one in servers],
        }
        return run.Outcome(ok=True, result=result)

    monkeypatch.setattr(run, "run_host", check)
    return asked


def count(cloud) -> dict[str, int]:
    with cloud.database.read() as session:
        models = (Server, Port, HostRequest, RequestLog, IdempotentAnswer)
        return {model.__name__: session.scalar(select(func.count()).select_from(model)) for model in models}


def read_generations(cloud) -> list[int]:
    with cloud.database.read() as session:
        return session.scalars(select(Host.generation)).all()


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "order-1"}])
def test_a_create_is_shown_and_not_done(cloud, checked, key):
    body = build_server(add_image(cloud), networks="none")
    before = (count(cloud), read_generations(cloud))
    answer = cloud.post(f"{COMPUTE}/servers", body, user="admin", version="2.96", headers={**TRY, **key})
    assert answer.status_code == 200
    tried = answer.json["dry_run"]
    assert tried["status"] == 202
    server = tried["body"]["server"]["id"]
    ((name, document),) = checked
    assert [row["id"] for row in document["servers"]] == [server]
    assert tried["hosts"] == [
        {
            "name": name,
            "actions": [{"section": "servers", "object_id": server, "verb": "create"}],
            "diff": [{"before": "", "after": f"guest {server}\n"}],
            "error": None,
        }
    ]
    assert (count(cloud), read_generations(cloud)) == before
    done = cloud.post(f"{COMPUTE}/servers", body, user="admin", version="2.96", headers=key)
    assert done.status_code == 202, "what was tried has used no key"


def test_users_see_what_would_be_answered_and_no_hosts(cloud, checked):
    """A host's diff is of all that waits for it, other projects' too."""
    body = build_server(add_image(cloud), networks="none")
    tried = cloud.post(f"{COMPUTE}/servers", body, version="2.96", headers=TRY).json["dry_run"]
    assert (tried["status"], tried["hosts"]) == (202, [])
    assert checked == []
    assert count(cloud)["Server"] == 0


def test_a_refusal_is_the_same(cloud, checked):
    body = build_server(add_image(cloud), networks="none", flavorRef="no-such")
    answer = cloud.post(f"{COMPUTE}/servers", body, user="admin", version="2.96", headers=TRY)
    assert answer.status_code == 400
    assert "no-such" in answer.text
    assert checked == []


def test_a_change_without_a_host_is_shown_too(cloud, checked):
    answer = cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": {"name": "laptop"}}, headers=TRY)
    assert answer.json["dry_run"]["body"]["keypair"]["name"] == "laptop"
    assert cloud.get(f"{COMPUTE}/os-keypairs/laptop").status_code == 404
    done = cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": {"name": "laptop"}})
    assert done.status_code == 200
    gone = cloud.delete(f"{COMPUTE}/os-keypairs/laptop", headers=TRY)
    assert gone.json["dry_run"] == {"status": 202, "body": None, "hosts": []}
    assert cloud.get(f"{COMPUTE}/os-keypairs/laptop").status_code == 200


def test_a_host_that_cannot_be_asked_says_why(cloud, monkeypatch):
    def fail(settings, name, connection, document, *, check):
        return run.Outcome(ok=False, error="cannot be reached over ssh: no route to host")

    monkeypatch.setattr(run, "run_host", fail)
    body = build_server(add_image(cloud), networks="none")
    tried = cloud.post(f"{COMPUTE}/servers", body, user="admin", version="2.96", headers=TRY).json["dry_run"]
    assert [host["error"] for host in tried["hosts"]] == ["cannot be reached over ssh: no route to host"]


def test_too_many_hosts_are_not_asked(cloud, checked, monkeypatch):
    monkeypatch.setattr(dry_run, "MOST_HOSTS", 0)
    body = build_server(add_image(cloud), networks="none")
    answer = cloud.post(f"{COMPUTE}/servers", body, user="admin", version="2.96", headers=TRY)
    assert answer.status_code == 409
    assert "This request changes 1 hosts; more than 0 are not tried." in answer.text


@pytest.mark.parametrize("value", ["yes", "", "1"])
def test_neither_true_nor_false(cloud, value):
    answer = cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": {"name": "x"}}, headers={"Kumo-Dry-Run": value})
    assert answer.status_code == 400
    assert "Kumo-Dry-Run" in answer.text
    assert cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": {"name": "x"}}, headers={"Kumo-Dry-Run": "false"}).json
