"""Moves asked for in the wrong way, of the wrong server or of the wrong host: every refusal; and what lists show."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, read_server
from move_calls import FACTS, VERSION, Hosts
from sqlalchemy import select

from web.models import Flavor, Host, Migration, Network, Port, Quota, Server, new_uuid


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


LIVE = {"host": "b", "block_migration": "auto"}
OLD_LIVE = {"host": "b", "block_migration": True, "disk_over_commit": False}


@pytest.mark.parametrize(
    ("action", "body", "version", "status"),
    [
        ("os-migrateLive", {"host": None}, "2.96", 400),
        ("os-migrateLive", {"host": "b", "block_migration": "perhaps"}, "2.96", 400),
        ("os-migrateLive", {**LIVE, "disk_over_commit": False}, "2.25", 400),
        ("os-migrateLive", LIVE, "2.24", 400),
        ("os-migrateLive", OLD_LIVE, "2.1", 202),
        ("os-migrateLive", {**OLD_LIVE, "disk_over_commit": "maybe"}, "2.1", 400),
        ("os-migrateLive", LIVE, "2.25", 202),
        ("os-migrateLive", {**LIVE, "force": True}, "2.29", 400),
        ("os-migrateLive", {**LIVE, "force": True}, "2.30", 202),
        ("os-migrateLive", {**LIVE, "force": True}, "2.68", 400),
        ("os-migrateLive", {"host": None, "block_migration": "auto", "force": True}, "2.30", 400),
        ("os-migrateLive", {**LIVE, "host": "nowhere"}, "2.96", 400),
        ("os-migrateLive", {**LIVE, "host": "a"}, "2.96", 400),
        ("os-migrateLive", {**LIVE, "block_migration": False}, "2.33", 400),
        ("os-migrateLive", {**LIVE, "block_migration": False}, "2.34", 202),
        ("os-migrateLive", {"host": None, "block_migration": True}, "2.96", 202),
        ("migrate", None, "2.1", 202),
        ("migrate", {"host": "b"}, "2.55", 400),
        ("migrate", {"host": None}, "2.1", 202),
        ("migrate", {"host": "b"}, "2.56", 202),
        ("migrate", {"host": None}, "2.56", 202),
        ("migrate", {"host": "a"}, "2.56", 400),
        ("migrate", {"host": "nowhere"}, "2.56", 400),
        ("resize", {"flavorRef": "1"}, "2.96", 400),
        ("resize", {"flavorRef": "none-such"}, "2.96", 400),
        ("resize", {}, "2.96", 400),
        ("resize", {"flavorRef": "2", "OS-DCF:diskConfig": "AUTO"}, "2.96", 202),
        ("confirmResize", None, "2.96", 409),
        ("revertResize", None, "2.96", 409),
        ("evacuate", {}, "2.96", 400),
        ("evacuate", {"host": "b"}, "2.13", 400),
        ("evacuate", {"host": "nowhere"}, "2.96", 404),
        ("evacuate", {"host": "a"}, "2.96", 400),
    ],
)
def test_requests(hosts, action, body, version, status):
    server = hosts.boot()
    answer = hosts.act(server, action, body, version=version, expected=status)
    assert "secret" not in answer.text
    moved = hosts.read_move(server)
    assert (moved is not None) == (status == 202)


def test_an_admins_actions_are_refused_to_others(hosts):
    server = hosts.boot()
    for action, body in (("os-migrateLive", LIVE), ("migrate", None), ("evacuate", {})):
        hosts.act(server, action, body, user="demo", expected=403)
    for path in ("/os-migrations", f"/servers/{server}/migrations", f"/servers/{server}/migrations/1"):
        assert hosts.cloud.get(COMPUTE + path, user="demo", version=VERSION).status_code == 403
    hosts.act(server, "resize", {"flavorRef": "2"}, user="demo", expected=404)
    hosts.act(new_uuid(), "migrate", expected=404)


@pytest.mark.parametrize("prepare", ["os-stop", "move"])
def test_the_wrong_state_is_a_conflict(hosts, prepare):
    server = hosts.boot()
    if prepare == "move":
        hosts.fakes["b"].holding = {"ready"}
        hosts.live(server)
    else:
        hosts.act(server, prepare)
    hosts.settle(4)
    hosts.live(server, expected=409)
    if prepare == "move":
        for action, body in (
            ("migrate", None),
            ("resize", {"flavorRef": "2"}),
            ("os-stop", None),
            ("reboot", {"type": "HARD"}),
        ):
            hosts.act(server, action, body, expected=409)


def unfit(hosts, host: str, **facts) -> None:
    """Change what a host was seen to be; it is not seen again."""
    hosts.set_host(host, observed={"host": {**FACTS, **facts}})


CPU = FACTS["cpu_info"]
REASONS = {
    "disabled": (lambda hosts: hosts.set_host("b", enabled=False), "it is disabled"),
    "down": (lambda hosts: hosts.set_host("b", forced_down=True), "it is down"),
    "no tunnel": (lambda hosts: hosts.set_host("b", settings={}), "no tunnel_address"),
    "memory": (lambda hosts: unfit(hosts, "b", memory_mb=100), "MiB of memory"),
    "disk": (lambda hosts: unfit(hosts, "b", disk_gb=0), "GiB of disk"),
    "cores": (lambda hosts: unfit(hosts, "b", vcpus=0), "vCPUs"),
    "architecture": (lambda hosts: unfit(hosts, "b", cpu_info={**CPU, "arch": "aarch64"}), "aarch64"),
    "virt type": (lambda hosts: unfit(hosts, "b", virt_type="kvm"), "runs guests under kvm"),
    "old QEMU": (lambda hosts: unfit(hosts, "b", hypervisor_version=6000000), "older than the guest's"),
    "zone": (lambda hosts: hosts.set_host("b", zone="east"), "in the zone east"),
}


@pytest.mark.parametrize("case", REASONS)
def test_a_named_host_that_does_not_suit_is_refused_with_its_reason(hosts, case):
    server = hosts.boot(availability_zone="nova") if case == "zone" else hosts.boot()
    for name in "abc":
        unfit(hosts, name)
    change, reason = REASONS[case]
    change(hosts)
    answer = hosts.act(server, "os-migrateLive", LIVE, version="2.33", expected=400)
    assert reason in answer.text
    assert "b: " in answer.text
    assert hosts.read_move(server) is None
    hosts.live(server, version=VERSION, expected=202)
    move = hosts.read_move(server)
    assert (move.phase, move.status, move.dest_host_id) == ("ended", "error", None)
    assert reason in move.error
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert hosts.read_actions(server)[-1] == ("live-migration", True, "Error")
    if case not in (
        "architecture",
        "virt type",
        "old QEMU",
    ):  # a guest that is started anew takes the CPU that is there
        assert reason in hosts.act(server, "migrate", {"host": "b"}, expected=400).text
    hosts.live(server, host=None)
    hosts.settle()
    assert hosts.where(server) == ("c", "ACTIVE", None)


def test_a_guest_under_kvm_needs_its_cpu_there(hosts):
    server = hosts.boot()
    for name in "abc":
        unfit(hosts, name, virt_type="kvm")
    unfit(hosts, "b", virt_type="kvm", cpu_info={**CPU, "features": ["aes"]})
    unfit(hosts, "c", virt_type="kvm", cpu_info={**CPU, "model": "Skylake"})
    answer = hosts.act(server, "os-migrateLive", {**OLD_LIVE, "host": None}, version="2.1", expected=400)
    assert "b: its CPU lacks avx" in answer.text
    assert "c: its CPU model is Skylake, the guest's is EPYC" in answer.text


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"network_type": "local"}, "it is on one host only"),
        ({"network_type": "vlan", "physical_network": "trunk", "segmentation_id": 7}, "no physical network trunk"),
        ({"network_type": "vxlan", "segmentation_id": 7}, None),
        ({"network_type": "flat", "physical_network": "public"}, None),
    ],
)
def test_the_guests_networks_have_to_be_there(hosts, columns, reason):
    server = hosts.boot()
    with hosts.cloud.database.write.begin() as session:
        network = Network(project_id="p", name="n", zone=77, **columns)
        session.add(network)
        session.flush()
        host = session.scalar(select(Host).where(Host.name == "a"))
        session.add(
            Port(
                project_id="p",
                network_id=network.id,
                mac_address="fa:16:3e:00:00:01",
                device_id=server,
                host_id=host.id,
            )
        )
        port_host = host.id
    answer = hosts.act(server, "migrate", {"host": "b"}, expected=400 if reason else 202)
    if reason:
        assert reason in answer.text
        return
    hosts.turn("b")
    document = hosts.fakes["b"].documents[-1]
    assert [port["server"] for port in document["ports"]] == [server]  # on both hosts while it is on its way
    hosts.settle()
    with hosts.cloud.database.read() as session:
        port = session.scalar(select(Port))
        assert port.host_id != port_host
        assert port.device_owner == "compute:nova"
        assert port.observed_state == "active"
    assert hosts.fakes["a"].documents[-1]["ports"] == []


def test_a_disabled_host_may_be_forced(hosts):
    server = hosts.boot()
    hosts.set_host("b", enabled=False)
    hosts.act(server, "os-migrateLive", {**LIVE, "force": True}, version="2.67", expected=202)
    hosts.settle()
    assert hosts.where(server) == ("b", "ACTIVE", None)


def test_a_resize_counts_against_the_quota_until_it_is_over(hosts):
    server = hosts.boot()
    with hosts.cloud.database.write.begin() as session:
        row = session.scalar(select(Server))
        session.add(Quota(project_id=row.project_id, resource="ram", limit=2048 + 512))
        session.add(Quota(project_id=row.project_id, resource="cores", limit=2))
    hosts.act(server, "resize", {"flavorRef": "3"}, expected=403)
    assert hosts.read_move(server) is None
    hosts.act(server, "resize", {"flavorRef": "2"})

    def read_used() -> tuple[int, int]:
        limits = hosts.cloud.get(f"{COMPUTE}/limits", user="admin", version=VERSION).json["limits"]["absolute"]
        return limits["totalCoresUsed"], limits["totalRAMUsed"]

    assert read_used() == (1, 2048)
    body = {"name": "two", "flavorRef": "2", "imageRef": hosts.image, "networks": "none"}
    answer = hosts.cloud.post(f"{COMPUTE}/servers", {"server": body}, user="admin", version=VERSION)
    assert answer.status_code == 403
    hosts.settle()
    hosts.act(server, "revertResize")
    hosts.settle()
    hosts.turn()
    assert read_used() == (1, 512)


@pytest.mark.parametrize(("disk_gb", "reason"), [(0, "zero disk"), (1, "resize disk down")])
def test_a_disk_is_never_made_smaller(hosts, disk_gb, reason):
    server = hosts.boot(flavorRef="2")
    with hosts.cloud.database.write.begin() as session:
        session.add(Flavor(id="less", name="less", vcpus=1, ram_mb=512, disk_gb=disk_gb))
    assert reason in hosts.act(server, "resize", {"flavorRef": "less"}, expected=400).text


def list_moves(hosts, query: str = "", version: str = VERSION, status: int = 200) -> dict:
    answer = hosts.cloud.get(f"{COMPUTE}/os-migrations{query}", user="admin", version=version)
    assert answer.status_code == status, answer.text
    return answer.json


def test_migrations_are_listed_by_version(hosts):
    server = hosts.boot()
    hosts.fakes["a"].holding = {"sent"}
    hosts.live(server)
    hosts.settle(4)
    view = list_moves(hosts, version="2.1")["migrations"][0]
    assert view["status"] == "running"
    assert (view["source_compute"], view["dest_compute"], view["dest_host"]) == ("a", "b", "192.0.2.2")
    assert (view["old_instance_type_id"], view["new_instance_type_id"], view["instance_uuid"]) == (1, 1, server)
    assert {"migration_type", "links", "uuid", "user_id"} & set(view) == set()
    view = list_moves(hosts, version="2.23")["migrations"][0]
    assert (view["migration_type"], "uuid" in view) == ("live-migration", False)
    assert f"/servers/{server}/migrations/{view['id']}" in view["links"][0]["href"]
    assert "user_id" not in list_moves(hosts, version="2.59")["migrations"][0]
    assert {"uuid", "user_id", "project_id"} <= set(list_moves(hosts)["migrations"][0])
    hosts.fakes["a"].holding = set()
    hosts.turn()
    hosts.settle()
    view = list_moves(hosts)["migrations"][0]
    assert (view["status"], "links" in view) == ("completed", False)


def test_migrations_are_filtered_and_paged(hosts):
    first, second = hosts.boot(), hosts.boot()
    hosts.live(first)
    hosts.settle()
    hosts.act(second, "migrate", {"host": "c"})
    hosts.settle()
    moves = list_moves(hosts)["migrations"]
    assert [one["instance_uuid"] for one in moves] == [second, first]
    for query, expected in (
        ("host=b", [first]), ("host=a", [second, first]), ("source_compute=c", []), ("status=finished", [second]),
        ("migration_type=live-migration", [first]), (f"instance_uuid={second}", [second]), ("hidden=true", []),
        (f"user_id={moves[0]['user_id']}", [second, first]), ("project_id=none", []),
        ("changes-since=2020-01-01T00:00:00", [second, first]), ("changes-before=2020-01-01T00:00:00", []),
    ):  # fmt: skip
        assert [one["instance_uuid"] for one in list_moves(hosts, f"?{query}")["migrations"]] == expected, query
    page = list_moves(hosts, "?limit=1")
    assert page["migrations_links"][0]["rel"] == "next"
    rest = list_moves(hosts, f"?limit=1&marker={page['migrations'][0]['uuid']}")
    assert [one["instance_uuid"] for one in rest["migrations"]] == [first]
    for query, version in (
        ("migration_type=walk", VERSION), ("nothing=1", VERSION), ("marker=nowhere", VERSION), ("limit=-1", VERSION),
        ("changes-since=soon", VERSION), ("user_id=u", "2.79"), ("changes-before=2020-01-01", "2.65"),
        ("changes-since=2021-01-01T00:00:00&changes-before=2020-01-01T00:00:00", VERSION),
    ):  # fmt: skip
        list_moves(hosts, f"?{query}", version, 400)
    assert len(list_moves(hosts, "?nothing=1&limit=1", "2.58")["migrations"]) == 2


def test_a_live_migration_is_watched_forced_and_aborted(hosts):
    server = hosts.boot()
    path = f"{COMPUTE}/servers/{server}/migrations"

    def call(method: str, suffix: str = "", body=None, version: str = VERSION):
        return hosts.cloud.call(method, path + suffix, body, user="admin", version=version)

    assert call("GET").json == {"migrations": []}
    hosts.fakes["b"].holding = {"ready"}
    hosts.live(server)
    hosts.settle(3)
    number = call("GET").json["migrations"][0]["id"]
    assert call("GET", f"/{number}").json["migration"]["status"] == "preparing"
    assert call("POST", f"/{number}/action", {"force_complete": None}).status_code == 400
    assert call("DELETE", f"/{number}", version="2.64").status_code == 400
    assert call("DELETE", f"/{number}", version="2.23").status_code == 404
    assert call("GET", version="2.22").status_code == 404
    hosts.fakes["b"].holding, hosts.fakes["a"].holding = set(), {"sent"}
    hosts.turn("b")
    hosts.settle(3)
    view = call("GET", f"/{number}").json["migration"]
    assert (view["status"], view["memory_total_bytes"], view["disk_remaining_bytes"]) == ("running", 100, 0)
    assert (view["server_uuid"], view["source_node"], view["dest_node"]) == (server, "a", "b")
    assert "uuid" not in call("GET", f"/{number}", version="2.58").json["migration"]
    assert call("POST", f"/{number}/action", {"force_complete": None}, version="2.22").status_code == 202
    hosts.turn("a")
    outgoing = hosts.fakes["a"].documents[-1]["servers"][0]["outgoing"]
    assert (outgoing["force"], outgoing["abort"], outgoing["address"]) == (True, False, "192.0.2.2")
    assert call("POST", "/999/action", {"force_complete": None}).status_code == 400
    for number_of_none in ("999", "x", "0" * 40):
        assert call("DELETE", f"/{number_of_none}").status_code == 404
        assert call("GET", f"/{number_of_none}").status_code == 404
    assert call("DELETE", f"/{number}", version="2.24").status_code == 202
    hosts.turn("a")
    hosts.settle()
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert hosts.read_move(server).status == "cancelled"
    assert call("DELETE", f"/{number}").status_code == 409
    assert call("POST", f"/{number}/action", {"force_complete": None}).status_code == 409
    assert call("GET", f"/{number}").status_code == 404
    assert ("live_migration_cancel", True, None) in hosts.read_actions(server)
    hosts.act(server, "migrate", {"host": "b"})
    cold = hosts.read_move(server).id
    assert "is not live-migration" in call("GET", f"/{cold}").text


def test_an_abort_before_anything_is_sent(hosts):
    server = hosts.boot()
    hosts.fakes["b"].holding = {"ready"}
    hosts.live(server)
    hosts.settle(3)
    number = hosts.read_move(server).id
    path = f"{COMPUTE}/servers/{server}/migrations/{number}"
    assert hosts.cloud.delete(path, user="admin", version="2.65").status_code == 202
    hosts.settle()
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert hosts.read_move(server).status == "cancelled"
    assert hosts.fakes["b"].disks == {}


def test_a_locked_server_stays(hosts):
    server = hosts.boot()
    hosts.act(server, "lock")
    demo_server = hosts.cloud.post(
        f"{COMPUTE}/servers",
        {"server": {"name": "x", "flavorRef": "1", "imageRef": hosts.image, "networks": "none"}},
        version=VERSION,
    ).json["server"]["id"]
    hosts.settle()
    hosts.act(demo_server, "lock", user="demo")
    hosts.act(demo_server, "resize", {"flavorRef": "2"}, user="demo", expected=409)
    hosts.act(server, "migrate")  # an admin passes locks
    assert read_server(hosts.cloud, server).task_state == "resize_migrating"
    with hosts.cloud.database.read() as session:
        assert len(session.scalars(select(Migration)).all()) == 1
