"""The admin API: /admin/v1/hosts, drift, runs, faults, repairs; what `kumo` shows, over HTTP."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from web.models import Host, HostRequest, Run, now
from web.reconcile.lease import build_worker_name
from web.reconcile.run import Outcome

ADMIN = "/admin/v1"
ACTION = {"section": "networks", "object_id": "kbr-1", "verb": "create"}


@pytest.fixture
def looked(monkeypatch):
    """What every host's check mode says; and whom it was asked."""
    asked = []
    outcome = Outcome(ok=True, result={"observed": {}, "actions": [ACTION], "diff": [{"before": "", "after": "a\n"}]})

    def look(settings, name, connection, document, *, check):
        assert check
        asked.append(name)
        return outcome

    monkeypatch.setattr("web.reconcile.run.run_host", look)
    return asked


def get(cloud, path: str, **query):
    return cloud.get(ADMIN + path, user="admin", query_string=query)


def add_host(cloud, name: str, **columns) -> None:
    with cloud.database.write.begin() as session:
        session.add(Host(name=name, roles=["storage"], **columns))


def read_name(cloud) -> str:
    with cloud.database.read() as session:
        return session.scalar(select(Host.name).order_by(Host.created_at))


def test_the_version_and_the_catalog(cloud):
    assert cloud.get("/admin/", user=None).json["versions"][0]["id"] == "v1"
    catalog = cloud.get("/identity/v3/auth/catalog", user="admin").json["catalog"]
    (urls,) = [one["endpoints"] for one in catalog if one["type"] == "kumo-admin"]
    assert urls[0]["url"].endswith(ADMIN)


@pytest.mark.parametrize("path", ["/hosts", "/hosts/h", "/hosts/h/drift", "/drift", "/runs", "/runs/r", "/faults"])
def test_nobody_but_admins(cloud, path):
    assert cloud.get(ADMIN + path).status_code == 403


def test_hosts(cloud):
    name = read_name(cloud)
    add_host(cloud, "zz-storage", zone="west", enabled=False, disabled_reason="new disks")
    hosts = get(cloud, "/hosts").json["hosts"]
    assert [one["name"] for one in hosts] == [name, "zz-storage"]
    shown = get(cloud, "/hosts/zz-storage").json["host"]
    assert shown == hosts[1]
    assert (shown["zone"], shown["enabled"], shown["disabled_reason"]) == ("west", False, "new disks")
    assert "connection" not in shown
    answer = get(cloud, "/hosts/nowhere")
    assert (answer.status_code, answer.json["error"]["message"]) == (404, "host nowhere could not be found.")


def test_drift(cloud, looked):
    name = read_name(cloud)
    add_host(cloud, "zz-storage")
    add_host(cloud, "zz-off", forced_down=True)
    shown = {"name": name, "actions": [ACTION], "diff": [{"before": "", "after": "a\n"}], "error": None}
    assert get(cloud, f"/hosts/{name}/drift").json == {"drift": shown}
    looked.clear()
    assert [one["name"] for one in get(cloud, "/drift").json["drift"]] == [name, "zz-storage"]
    assert sorted(looked) == [name, "zz-storage"]
    assert [one["name"] for one in get(cloud, "/drift", host=["zz-off"]).json["drift"]] == ["zz-off"]
    answer = get(cloud, "/hosts/nowhere/drift")
    assert answer.status_code == 404
    assert f"known: {name}" in answer.json["error"]["message"]


def test_too_many_hosts_for_one_request(cloud, looked):
    for number in range(16):
        add_host(cloud, f"h{number}")
    answer = get(cloud, "/drift")
    assert answer.status_code == 409
    assert "17 hosts" in answer.json["error"]["message"]
    assert not looked


def add_run(cloud, state: str = "running") -> str:
    with cloud.database.write.begin() as session:
        host = session.scalar(select(Host))
        run = Run(host_id=host.id, generation=1, fence=1, worker=build_worker_name(), state=state)
        session.add(run)
        session.flush()
        session.add(HostRequest(host_id=host.id, generation=1, request_id="req-7", run_id=run.id))
        return run.id


def test_runs(cloud):
    first, second = add_run(cloud, "succeeded"), add_run(cloud)
    assert [one["id"] for one in get(cloud, "/runs").json["runs"]] == [second, first]
    assert [one["id"] for one in get(cloud, "/runs", limit=1).json["runs"]] == [second]
    assert [one["id"] for one in get(cloud, "/runs", state="succeeded").json["runs"]] == [first]
    assert get(cloud, "/runs", host="nowhere").json["runs"] == []
    shown = get(cloud, f"/runs/{first}").json["run"]
    assert (shown["host"], shown["request_ids"], shown["tasks"]) == (read_name(cloud), ["req-7"], [])
    for query in ({"limit": "0"}, {"limit": "x"}, {"limit": "1001"}, {"state": "odd"}):
        answer = get(cloud, "/runs", **query)
        assert answer.status_code == 400
        assert next(iter(query)) in answer.json["error"]["message"]
    assert get(cloud, "/runs/none").status_code == 404


def test_a_run_is_cancelled(cloud):
    run = add_run(cloud)
    path = f"{ADMIN}/runs/{run}/action"
    assert cloud.post(path, {"cancel": {}}).status_code == 403
    assert cloud.post(path, {"cancel": {}}, user="admin").status_code == 202
    with cloud.database.write.begin() as session:
        row = session.get(Run, run)
        assert row.cancel_wanted
        row.state, row.finished_at = "cancelled", now()
    answer = cloud.post(path, {"cancel": {}}, user="admin")
    assert answer.status_code == 409
    assert "cancelled" in answer.json["error"]["message"]
    assert cloud.post(path, {"stop": {}}, user="admin").status_code == 400


def test_faults_and_repairs(cloud, looked):
    with cloud.database.write.begin() as session:
        host = session.scalar(select(Host))
        host.next_run_at, name = now(), host.name
        host.lease_owner, host.lease_expires_at = build_worker_name().rsplit(":", 1)[0] + ":1", now()
    faults = get(cloud, "/faults").json["faults"]
    assert {"release it", ""} <= {one["repair"] for one in faults} | {""}
    assert {one["where"] for one in faults} == {"rows", name}
    plan = cloud.post(f"{ADMIN}/repairs", {"repair": {}}, user="admin").json["repair"]
    assert (plan["mended"], plan["left"]) == (0, [])
    assert plan["plan"] == faults
    with cloud.database.read() as session:
        assert session.scalar(select(Host.lease_owner)) is not None
    done = cloud.post(f"{ADMIN}/repairs", {"repair": {"apply": True, "hosts": [name]}}, user="admin").json["repair"]
    assert done["mended"] == len(faults)
    with cloud.database.read() as session:
        host = session.scalar(select(Host))
        assert (host.lease_owner, host.next_run_at) == (None, None)
    assert cloud.post(f"{ADMIN}/repairs", {"repair": {"hosts": "x"}}, user="admin").status_code == 400
    assert cloud.post(f"{ADMIN}/repairs", {"repair": {"hosts": ["nowhere"]}}, user="admin").status_code == 404
