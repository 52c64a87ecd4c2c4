"""What admins and other services ask of the Compute API: os-hosts, os-server-external-events,
os-instance_usage_audit_log, os-assisted-volume-snapshots; and what is gone for good."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from compute_cloud import COMPUTE, add_image, boot, find_project, read_server
from sqlalchemy import select

from web.models import Host, Server, Volume, VolumeAttachment, new_uuid
from web.resources.compute.instance_usage_audit_log import choose_month

NOBODY = "00000000-0000-4000-8000-000000000007"
EVENTS = f"{COMPUTE}/os-server-external-events"


def read_generation(cloud) -> int:
    with cloud.database.read() as session:
        return session.scalar(select(Host.generation))


def send(cloud, *events, version: str = "2.96", user: str = "admin"):
    return cloud.post(EVENTS, {"events": list(events)}, user=user, version=version)


def add_volume(cloud, server: str) -> str:
    volume, project = new_uuid(), find_project(cloud)
    with cloud.database.write.begin() as session:
        session.add(
            Volume(id=volume, project_id=project, user_id="u", size_gb=1, host_id=session.scalar(select(Host.id)))
        )
        session.flush()
        secret = {"username": "u", "password": "p"}
        session.add(VolumeAttachment(volume_id=volume, project_id=project, server_id=server, device="vdb", **secret))
    return volume


def test_events_make_hosts_look_anew(cloud):
    server = boot(cloud, add_image(cloud))
    volume = add_volume(cloud, server)
    for name, tag, version in (
        ("network-changed", None, "2.1"),
        ("network-vif-plugged", NOBODY, "2.1"),
        ("network-vif-unplugged", NOBODY, "2.50"),
        ("network-vif-deleted", NOBODY, "2.51"),
        ("volume-extended", volume, "2.51"),
    ):
        before = read_generation(cloud)
        event = {"name": name, "server_uuid": server} | ({"tag": tag} if tag else {})
        answer = send(cloud, event, version=version)
        assert (answer.status_code, answer.json["events"]) == (200, [{**event, "status": "completed", "code": 200}])
        assert read_generation(cloud) == before + 1, name


def test_events_that_find_nothing(cloud):
    """The code of each says why; where one is told of two servers of a host, it looks once."""
    image = add_image(cloud)
    server, gone = boot(cloud, image), boot(cloud, image)
    cloud.delete(f"{COMPUTE}/servers/{gone}")
    with cloud.database.write.begin() as session:
        session.scalar(select(Host)).enabled = False
    homeless = boot(cloud, image)
    assert read_server(cloud, homeless).host_id is None
    before = read_generation(cloud)
    changed = {"name": "network-changed", "status": "failed"}
    answer = send(
        cloud,
        *({**changed, "server_uuid": one} for one in (server, gone, NOBODY, homeless)),
        {"name": "volume-extended", "server_uuid": server},
        {"name": "volume-extended", "server_uuid": server, "tag": NOBODY},
        {"name": "network-vif-plugged", "server_uuid": server, "tag": NOBODY},
    )
    codes = [(event["code"], event["status"]) for event in answer.json["events"]]
    failed = [(code, "failed") for code in (200, 404, 404, 422, 400, 404)]
    assert (answer.status_code, codes) == (207, [*failed, (200, "completed")])
    assert read_generation(cloud) == before + 1
    assert send(cloud, {**changed, "server_uuid": NOBODY}).status_code == 207
    assert read_generation(cloud) == before + 1


@pytest.mark.parametrize(
    ("version", "event"),
    [
        ("2.96", {"name": "what", "server_uuid": NOBODY}),
        ("2.96", {"name": "power-update", "server_uuid": NOBODY, "tag": "POWER_ON"}),
        ("2.50", {"name": "volume-extended", "server_uuid": NOBODY}),
        ("2.96", {"name": "network-changed"}),
        ("2.96", {"name": "network-changed", "server_uuid": "x"}),
        ("2.96", {"name": "network-changed", "server_uuid": NOBODY, "status": "odd"}),
        ("2.96", {"name": "network-changed", "server_uuid": NOBODY, "more": 1}),
    ],
)
def test_wrong_events(cloud, version, event):
    assert send(cloud, event, version=version).status_code == 400
    assert send(cloud, event, version=version, user="demo").status_code == 403
    assert send(cloud, version=version).status_code == 400


def test_hosts_until_2_42(cloud):
    boot(cloud, add_image(cloud))
    name, path = cloud.settings.kumo.hostname, f"{COMPUTE}/os-hosts"
    one = f"{path}/{name}"

    def get(url: str, **options):
        return cloud.get(url, **{"user": "admin", **options})

    assert get(path).json["hosts"] == [{"host_name": name, "service": "compute", "zone": "nova"}]
    assert get(f"{path}?zone=nowhere").json["hosts"] == get(f"{path}?service=cert").json["hosts"] == []
    resources = [entry["resource"] for entry in get(one).json["host"]]
    assert [resource["project"] for resource in resources] == [
        "(total)", "(used_now)", "(used_max)", find_project(cloud),
    ]  # fmt: skip
    assert resources[0] == {"host": name, "project": "(total)", "cpu": 8, "memory_mb": 16384, "disk_gb": 100}
    assert resources[1]["memory_mb"] == resources[3]["memory_mb"] == 512
    assert cloud.put(one, {"status": "Disable"}, user="admin").json == {"host": name, "status": "disabled"}
    service = cloud.get(f"{COMPUTE}/os-services", user="admin").json["services"][0]
    assert service["status"] == "disabled"
    assert cloud.put(one, {"status": "enable"}, user="admin").json["status"] == "enabled"
    for wrong in ({}, {"status": "odd"}, {"maintenance_mode": "enable"}, {"what": 1}):
        assert cloud.put(one, wrong, user="admin").status_code == 400, wrong
    for action in ("startup", "shutdown", "reboot"):
        refused = get(f"{one}/{action}")
        assert (refused.status_code, action in refused.text) == (400, True)
        assert get(f"{path}/nope/{action}").status_code == 404
    assert get(f"{path}/nope").status_code == 404
    assert cloud.put(f"{path}/nope", {"status": "enable"}, user="admin").status_code == 404
    assert get(path, user="demo").status_code == 403
    assert get(path, version="2.42").status_code == 200
    for url in (path, one, f"{one}/reboot"):
        assert get(url, version="2.43").status_code == 404


@pytest.mark.parametrize(
    ("before", "begin", "end"),
    [("2026-11-27", "2026-10-01", "2026-11-01"), ("2026-01-01", "2025-12-01", "2026-01-01")],
)
def test_the_month_before(before, begin, end):
    found = choose_month(datetime.fromisoformat(before).replace(tzinfo=UTC))
    assert [at.strftime("%Y-%m-%d") for at in found] == [begin, end]


def test_usage_audit_log(cloud):
    image, name = add_image(cloud), cloud.settings.kumo.hostname
    servers = [boot(cloud, image) for _ in range(2)]
    with cloud.database.write.begin() as session:
        session.scalar(select(Host)).created_at = datetime(2026, 3, 20, tzinfo=UTC)
        for server in session.scalars(select(Server)):
            server.created_at = datetime(2026, 4 if server.id == servers[0] else 5, 10, tzinfo=UTC)
    path = f"{COMPUTE}/os-instance_usage_audit_log"
    for before, instances in (("2026-05-01 00:00:00", 1), ("2026-06-15 12:00:00.5", 2), ("2026-04-02 00:00:00", 0)):
        log = cloud.get(f"{path}/{before}", user="admin").json["instance_usage_audit_log"]
        assert (log["total_instances"], log["log"][name]["instances"]) == (instances, instances)
        assert (log["num_hosts_done"], log["overall_status"]) == (1, "ALL hosts done. 0 errors.")
    log = cloud.get(f"{path}/2026-03-02 00:00:00", user="admin").json["instance_usage_audit_log"]
    assert (log["hosts_not_run"], log["log"], log["num_hosts_not_run"]) == ([name], {}, 1)
    assert log["period_beginning"] == "2026-02-01 00:00:00"
    assert "instance_usage_audit_logs" in cloud.get(path, user="admin").json
    assert cloud.get(f"{path}/yesterday", user="admin").status_code == 400
    assert cloud.get(path).status_code == 403


def test_assisted_snapshots_are_refused(cloud):
    path = f"{COMPUTE}/os-assisted-volume-snapshots"
    body = {"snapshot": {"volume_id": NOBODY, "create_info": {"snapshot_id": NOBODY, "type": "qcow2", "new_file": "f"}}}
    refused = cloud.post(path, body, user="admin")
    assert (refused.status_code, "storage host" in refused.text) == (400, True)
    assert cloud.delete(f"{path}/{NOBODY}", user="admin").status_code == 400
    assert cloud.post(path, body).status_code == cloud.delete(f"{path}/{NOBODY}").status_code == 403


@pytest.mark.parametrize("path", ["os-fping", "os-cells", "os-agents", "os-consoles", "os-virtual-interfaces"])
def test_what_is_gone_for_good(cloud, path):
    for version in ("2.1", "2.96"):
        assert cloud.get(f"{COMPUTE}/{path}", user="admin", version=version).status_code == 404
