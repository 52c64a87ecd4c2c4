"""Hours of creating, using and deleting, played fast: nothing grows, and what was deleted long ago leaves."""

from __future__ import annotations

import gc
import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from compute_cloud import COMPUTE, add_image, add_network
from move_calls import Hosts
from network_calls import BASE
from sqlalchemy import func, select, update
from volume_calls import VOLUME

from web.models import (
    Base,
    ConsoleLog,
    Image,
    Migration,
    Port,
    Server,
    ServerAction,
    Snapshot,
    Volume,
    VolumeAttachment,
    now,
)

OLD = timedelta(days=91)
LIVES, PARTS = 24, 4  # what the first two parts leave in caches and pools is not counted as growth
GROWTH = 0.01  # of Python's objects, in the other half


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud, storage=True)
    found.fakes["s"].snapshot_in_use = True
    yield found
    found.worker.pool.shutdown()


def count_rows(cloud) -> dict[str, int]:
    with cloud.database.read() as session:
        tables = Base.metadata.sorted_tables
        return {table.name: session.scalar(select(func.count()).select_from(table)) for table in tables}


def age(cloud) -> None:
    """Have all that is deleted be so for longer than it stays on record."""
    with cloud.database.write.begin() as session:
        for model, column in ((Server, "gone_at"), (Volume, "gone_at"), (Snapshot, "gone_at"), (Image, "deleted_at")):
            session.execute(update(model).where(getattr(model, column).is_not(None)).values({column: now() - OLD}))
        session.execute(update(ConsoleLog).values(read_at=now() - OLD))


def live(hosts, network: str, group: str) -> None:
    """A server's whole life: made, rebooted, given a volume, moved, read, and deleted with all it had."""
    call, act = hosts.call, hosts.act
    server = hosts.boot(networks=[{"uuid": network}])
    volume = call("POST", f"{VOLUME}/volumes", {"volume": {"size": 1}}, 202)["volume"]["id"]
    hosts.settle()
    call("POST", f"{COMPUTE}/servers/{server}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}})
    act(server, "reboot", {"type": "HARD"})
    hosts.settle()
    act(server, "os-migrateLive", {"host": "b", "block_migration": "auto"})
    hosts.settle()
    body = {"snapshot": {"volume_id": volume, "force": True}}
    snapshot = call("POST", f"{VOLUME}/snapshots", body, 202)["snapshot"]["id"]
    rule = {"security_group_rule": {"security_group_id": group, "direction": "ingress", "ethertype": "IPv6"}}
    rule = call("POST", f"{BASE}/security-group-rules", rule, 201)["security_group_rule"]["id"]
    hosts.settle()
    call("DELETE", f"{BASE}/security-group-rules/{rule}", status=204)
    call("DELETE", f"{COMPUTE}/servers/{server}", status=204)
    call("DELETE", f"{VOLUME}/snapshots/{snapshot}", status=202)
    hosts.settle()
    call("DELETE", f"{VOLUME}/volumes/{volume}", status=202)
    hosts.settle()


def read_size(hosts) -> dict[str, int]:
    """What this process and its folders hold."""
    gc.collect()
    state = Path(hosts.cloud.settings.kumo.state_dir)
    return {
        "objects": len(gc.get_objects()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "files": sum(len(files) for _, _, files in os.walk(state)),
    }


def test_nothing_grows(hosts, cloud):
    cloud.settings.worker.keep_runs = 20
    network = add_network(cloud, project="admin")
    group = hosts.call("POST", f"{BASE}/security-groups", {"security_group": {"name": "g"}}, 201)["security_group"]
    sizes, rows = [], []
    for number in range(1, LIVES + 1):
        live(hosts, network, group["id"])
        if number % (LIVES // PARTS) == 0:
            age(cloud)
            hosts.worker.prune()
            for fake in hosts.fakes.values():
                fake.documents.clear()  # the fake's own record, not the worker's
            sizes.append(read_size(hosts))
            rows.append(count_rows(cloud))
    assert rows[-1] == rows[0]
    assert rows[0]["servers"] == rows[0]["volumes"] == rows[0]["server_actions"] == rows[0]["migrations"] == 0
    first, last = sizes[PARTS // 2 - 1], sizes[-1]
    assert last["objects"] < first["objects"] * (1 + GROWTH), sizes
    assert {name: last[name] for name in ("descriptors", "threads", "files")} == {
        name: first[name] for name in ("descriptors", "threads", "files")
    }


def test_what_is_young_or_needed_stays(hosts, cloud):
    network = add_network(cloud, project="admin")
    image = add_image(cloud, project_id=None)
    living = hosts.boot(networks=[{"uuid": network}], imageRef=image)
    gone = hosts.boot(networks=[{"uuid": network}])
    hosts.call("DELETE", f"{COMPUTE}/servers/{gone}", status=204)
    hosts.settle()
    with cloud.database.write.begin() as session:
        session.get(Image, image).deleted_at = now() - OLD
    hosts.worker.prune()
    before = count_rows(cloud)
    assert before["servers"] == 2
    with cloud.database.read() as session:
        assert session.get(Image, image) is not None, "a server is of that image"
    age(cloud)
    hosts.worker.prune()
    with cloud.database.read() as session:
        assert session.scalars(select(Server.id)).all() == [living]
        assert session.get(Image, image) is not None
        assert set(session.scalars(select(ServerAction.server_id))) == {living}
        for model in (Migration, ConsoleLog, VolumeAttachment):
            assert not session.scalars(select(model)).all()
        assert session.scalar(select(func.count()).select_from(Port).where(Port.device_id == living)) == 1
    assert hosts.show(living)["status"] == "ACTIVE"
