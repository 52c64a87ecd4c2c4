"""Servers shelved, offloaded and unshelved: the states on the way, what stays and what goes."""

from __future__ import annotations

from datetime import timedelta

import jsonschema
import pytest
from compute_cloud import COMPUTE, add_network, read_server
from move_calls import Hosts
from shelve_calls import (
    OFFLOADED,
    attach,
    change,
    find_row,
    kept,
    last_action,
    make_volume,
    read_exports,
    read_status,
    settle,
    shelve,
    show,
)
from sqlalchemy import func, select

from web.desired import build_document, read_rows
from web.desired.document import SCHEMA
from web.image_cleanup import remove_unneeded
from web.models import Address, Host, Image, Port, ServerImage, Volume, VolumeAttachment, now
from web.models.host_images import is_needed
from web.reconcile.pruning import prune_rows
from web.verification import find_host_faults, find_row_faults


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


@pytest.fixture
def stored(cloud):
    found = Hosts(cloud, storage=True)
    yield found
    found.worker.pool.shutdown()


@pytest.fixture
def server(hosts):
    return hosts.boot()


def test_shelved_offloaded_and_back(hosts, server):
    """Step by step to SHELVED_OFFLOADED: image whole before the guest goes; and back on another host, of that image."""
    fake = hosts.fakes["a"]
    usage = hosts.read_usage()["a"]
    hosts.act(server, "shelve", expected=202)
    assert hosts.where(server) == ("a", "ACTIVE", "shelving")
    hosts.act(server, "os-start", expected=409)
    hosts.act(server, "shelve", expected=409)
    image = read_server(hosts.cloud, server).shelved_image_id
    seen = show(hosts, image)
    assert (seen["name"], seen["status"], seen["visibility"]) == ("web1-shelved", "queued", "private")
    assert (seen["image_type"], seen["instance_uuid"], seen["base_image_ref"]) == ("snapshot", server, hosts.image)
    assert seen["owner"] == read_server(hosts.cloud, server).project_id
    hosts.turn("a")
    row = find_row(hosts, "a", server)
    assert (row["power"], row["snapshot"]["image"]) == ("off", image)
    assert hosts.where(server) == ("a", "ACTIVE", "shelving_image_pending_upload")
    fake.holding = {"uploaded"}
    hosts.turn("a")
    assert hosts.where(server) == ("a", "ACTIVE", "shelving_image_uploading")
    assert last_action(hosts, server) == ("shelve", False, None)
    fake.holding = {"gone"}
    hosts.turn("a")
    hosts.turn("a")
    assert hosts.where(server) == ("a", "SHELVED", "shelving_offloading")
    assert find_row(hosts, "a", server)["wanted"] == "absent"
    assert hosts.read_usage() == {"a": usage}, "the host is given back when it was seen without the guest"
    hosts.act(server, "unshelve", expected=409)
    fake.holding = set()
    hosts.turn("a")
    assert hosts.where(server) == OFFLOADED
    assert hosts.show(server)["OS-EXT-STS:power_state"] == 4
    assert hosts.show(server)["hostId"] == ""
    assert (fake.state, fake.disks, hosts.read_usage()) == ({}, {}, {})
    assert last_action(hosts, server) == ("shelve", True, None)
    assert show(hosts, image)["status"] == "active"
    for body in ({"os-start": None}, {"rebuild": {"imageRef": hosts.image}}, {"resize": {"flavorRef": "2"}}):
        [(name, value)] = body.items()
        hosts.act(server, name, value, expected=409)
    hosts.set_host("a", enabled=False)
    hosts.set_host("c", enabled=False)
    hosts.act(server, "unshelve", expected=202)
    assert hosts.where(server) == ("b", "SHELVED_OFFLOADED", "unshelving")
    assert last_action(hosts, server) == ("unshelve", False, None)
    hosts.turn("b")
    jsonschema.validate(hosts.fakes["b"].documents[-1], SCHEMA)
    row = find_row(hosts, "b", server)
    assert (row["image"], row["power"], row["metadata"]["image_ec2_id"]) == (
        image, "on", f"ami-{int(hosts.image[:8], 16):08x}",
    )  # fmt: skip
    assert image in {one["id"] for one in hosts.fakes["b"].documents[-1]["images"]}
    settle(hosts)
    assert hosts.where(server) == ("b", "ACTIVE", None)
    assert hosts.show(server)["image"]["id"] == hosts.image, "it is still what it was made of"
    assert show(hosts, image) is None, "nothing needs it any more"
    assert last_action(hosts, server) == ("unshelve", True, None)
    assert hosts.read_usage() == {"b": usage}
    row = read_server(hosts.cloud, server)
    assert (row.shelve, row.shelved_at, row.offloaded_at, row.shelved_image_id) == (None, None, None, None)
    assert [one[0] for one in hosts.read_actions(server)] == ["create", "shelve", "unshelve"]


@pytest.mark.parametrize(
    ("verb", "status"), [(None, "ACTIVE"), ("os-stop", "SHUTOFF"), ("pause", "PAUSED"), ("suspend", "SUSPENDED")]
)
def test_from_every_state_that_it_is_taken_in(hosts, verb, status):
    """It is off, whatever it was; unshelved it runs."""
    server = hosts.boot()
    if verb:
        hosts.act(server, verb)
        settle(hosts)
    hosts.act(server, "shelve", expected=202)
    assert hosts.where(server) == ("a", status, "shelving")
    settle(hosts)
    assert hosts.where(server) == OFFLOADED
    hosts.act(server, "unshelve", expected=202)
    settle(hosts)
    assert hosts.where(server)[1:] == ("ACTIVE", None)


def test_kept_on_its_host(hosts, server):
    """With -1 it stays SHELVED until an admin says otherwise; unshelved there it is started, of its own disk."""
    kept(hosts)
    image = shelve(hosts, server)
    assert hosts.where(server) == ("a", "SHELVED", None)
    assert hosts.show(server)["OS-EXT-STS:power_state"] == 4
    assert last_action(hosts, server) == ("shelve", True, None)
    assert (list(hosts.read_usage()), show(hosts, image)["status"]) == (["a"], "active")
    for body in ({"availability_zone": "nova"}, {"host": "b"}):
        assert "must be SHELVED_OFFLOADED" in hosts.act(server, "unshelve", body, expected=409).text
    hosts.act(server, "unshelve", expected=202)
    assert hosts.where(server) == ("a", "SHELVED", "unshelving")
    settle(hosts)
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert hosts.fakes["a"].disks[server] == "what the guest wrote"
    assert show(hosts, image) is None
    assert read_server(hosts.cloud, server).disk_image_id is None
    image = shelve(hosts, server)
    hosts.act(server, "shelveOffload", user="demo", expected=403)
    hosts.act(server, "shelveOffload", expected=202)
    assert hosts.where(server) == ("a", "SHELVED", "shelving_offloading")
    assert last_action(hosts, server) == ("shelveOffload", False, None)
    settle(hosts)
    assert hosts.where(server) == OFFLOADED
    assert last_action(hosts, server) == ("shelveOffload", True, None)
    hosts.act(server, "shelveOffload", expected=409)
    assert show(hosts, image)["status"] == "active"


def test_offloaded_when_its_time_has_come(hosts, server):
    """The host is looked at when it has, not at its next sweep."""
    kept(hosts, 30)
    shelve(hosts, server)
    assert hosts.where(server) == ("a", "SHELVED", None)
    hosts.turn("a")
    due = hosts.read_hosts()["a"].next_run_at
    assert now() + timedelta(seconds=20) < due <= now() + timedelta(seconds=30)
    change(hosts, server, shelved_at=now() - timedelta(seconds=31))
    hosts.turn("a")
    assert hosts.where(server) == ("a", "SHELVED", "shelving_offloading")
    settle(hosts)
    assert hosts.where(server) == OFFLOADED


def test_ports_and_addresses_stay(hosts):
    """Its port keeps MAC and address, is on no host, and comes back with the server; a port on its way out goes."""
    cloud = hosts.cloud
    network = add_network(cloud, "admin")
    server = hosts.boot(networks=[{"uuid": network}])
    extra = hosts.call(
        "POST", f"{COMPUTE}/servers/{server}/os-interface", {"interfaceAttachment": {"net_id": network}}
    )["interfaceAttachment"]["port_id"]  # fmt: skip
    settle(hosts)

    def read_ports():
        with cloud.database.read() as session:
            rows = session.execute(
                select(Port.id, Port.mac_address, Address.address, Port.host_id, Port.observed_state)
                .join(Address, Address.port_id == Port.id)
                .where(Port.device_id == server)
                .order_by(Port.device_index)
            )
            return [tuple(row) for row in rows]

    before = read_ports()
    assert len(before) == 2
    shelve(hosts, server)
    after = read_ports()
    assert [row[:3] for row in after] == [row[:3] for row in before]
    assert {row[3:] for row in after} == {(None, None)}
    assert hosts.show(server)["addresses"]["private"][0]["addr"] == before[0][2]
    with cloud.database.read() as session:
        assert [one for one in find_row_faults(session, cloud.settings) if one.where == "rows"] == []
        host = session.scalar(select(Host).where(Host.name == "a"))
        assert build_document(read_rows(session, host), cloud.settings, 1)["ports"] == []
    hosts.act(server, "unshelve", {"host": "b"}, expected=202)
    settle(hosts)
    assert hosts.where(server) == ("b", "ACTIVE", None)
    assert [row[:3] for row in read_ports()] == [row[:3] for row in before]
    assert [row[4] for row in read_ports()] == ["active", "active"]
    assert find_row(hosts, "b", server)["ports"] == [row[0] for row in before]
    hosts.call("DELETE", f"{COMPUTE}/servers/{server}/os-interface/{extra}", status=202)
    change(hosts, server, shelve="offloaded", shelved_at=now())
    settle(hosts)
    assert [row[0] for row in read_ports()] == [before[0][0]]


def test_volumes_are_reserved_and_come_back(stored):
    """No target is open while it is offloaded; more may be attached and detached then; all are there before it runs."""
    hosts = stored
    server, volume, second = hosts.boot(), make_volume(hosts), make_volume(hosts)
    attach(hosts, server, volume)
    hosts.turn("s", "a", "s", "a")
    assert read_status(hosts, volume) == "in-use"
    shelve(hosts, server)
    hosts.turn("s")
    assert hosts.where(server) == OFFLOADED
    assert (read_status(hosts, volume), read_exports(hosts)) == ("reserved", [])
    with hosts.cloud.database.read() as session:
        row = session.scalar(select(VolumeAttachment))
        assert (row.observed_export, row.observed_attached, row.deleted_at) == (None, False, None)
    assert hosts.show(server)["os-extended-volumes:volumes_attached"][0]["id"] == volume
    hosts.call("DELETE", f"/volume/v3/volumes/{volume}", status=400)
    attach(hosts, server, second, "2.19", 409)
    attach(hosts, server, second)
    assert last_action(hosts, server) == ("attach_volume", True, None)
    hosts.turn("s")
    assert (read_status(hosts, second), read_exports(hosts)) == ("in-use", []), "as clients wait for it, on no host"
    shown = hosts.call("GET", f"/volume/v3/volumes/{second}")["volume"]["attachments"]
    assert [one["server_id"] for one in shown] == [server]
    path = f"{COMPUTE}/servers/{server}/os-volume_attachments/{second}"
    assert hosts.cloud.delete(path, user="admin", version="2.19").status_code == 409
    assert hosts.cloud.delete(path, user="admin", version="2.96").status_code == 202
    hosts.turn("s")
    assert read_status(hosts, second) == "available"
    attach(hosts, server, second)
    hosts.act(server, "unshelve", {"host": "b"}, expected=202)
    assert read_status(hosts, second) == "attaching"
    for _ in range(2):  # its storage host has not been there yet
        hosts.turn("b")
        assert find_row(hosts, "b", server) is None
    hosts.turn("s", "b", "s")
    assert [one["volume"] for one in find_row(hosts, "b", server)["volumes"]] == [volume, second]
    settle(hosts)
    hosts.turn("b", "s")
    assert hosts.where(server) == ("b", "ACTIVE", None)
    assert [read_status(hosts, one) for one in (volume, second)] == ["in-use", "in-use"]
    assert len(read_exports(hosts)) == 2


def test_a_guest_on_a_volume_needs_no_image(stored):
    """It is shut down, then it goes at once, whatever the offload time is; deleted as it is, nothing is left."""
    hosts = stored
    kept(hosts)
    volume = make_volume(hosts)
    with hosts.cloud.database.write.begin() as session:
        session.get(Volume, volume).bootable = True
    disk = {"boot_index": 0, "uuid": volume, "source_type": "volume", "destination_type": "volume",
            "delete_on_termination": True}  # fmt: skip
    body = {"name": "v", "flavorRef": "1", "networks": "none", "host": "a", "block_device_mapping_v2": [disk]}
    server = hosts.call("POST", f"{COMPUTE}/servers", {"server": body}, 202)["server"]["id"]
    hosts.turn("s", "a", "s", "a")
    settle(hosts)
    assert hosts.where(server) == ("a", "ACTIVE", None)
    hosts.act(server, "shelve", expected=202)
    assert hosts.where(server) == ("a", "ACTIVE", "shelving")
    hosts.turn("a")
    assert find_row(hosts, "a", server)["power"] == "off", "off first, then away"
    assert hosts.where(server)[1:] == ("SHELVED", "shelving_offloading")
    settle(hosts)
    hosts.turn("s")
    assert hosts.where(server) == OFFLOADED
    assert (read_status(hosts, volume), read_exports(hosts)) == ("reserved", [])
    with hosts.cloud.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 1
    hosts.act(server, "unshelve", {"host": "c"}, expected=202)
    hosts.turn("s", "c", "s", "c")
    settle(hosts)
    assert hosts.where(server) == ("c", "ACTIVE", None)
    assert find_row(hosts, "c", server)["image"] is None
    shelve(hosts, server)
    assert hosts.cloud.delete(f"{COMPUTE}/servers/{server}", user="admin").status_code == 204
    hosts.turn("s", "s", "s")
    with hosts.cloud.database.read() as session:
        assert session.scalar(select(func.count()).select_from(VolumeAttachment)) == 0
        assert session.get(Volume, volume).gone_at is not None, "it was to go with its server"


def test_deleted_in_each_state(hosts):
    """Nothing is left of it anywhere, and its image goes with it."""

    def begin(steps: int, holding=()):
        server = hosts.boot()
        hosts.fakes["a"].holding = set(holding)
        hosts.act(server, "shelve", expected=202)
        for _ in range(steps):
            hosts.turn("a")
        return server, hosts.where(server)[1:]

    def end(server):
        image = read_server(hosts.cloud, server).shelved_image_id
        assert hosts.cloud.delete(f"{COMPUTE}/servers/{server}", user="admin").status_code == 204
        hosts.fakes["a"].holding = set()
        settle(hosts)
        assert image is not None
        assert show(hosts, image) is None
        assert read_server(hosts.cloud, server).gone_at is not None
        assert hosts.read_usage() == {}
        with hosts.cloud.database.read() as session:
            assert session.scalar(select(func.count()).select_from(ServerImage)) == 0

    for steps, holding, state in (
        (0, (), ("ACTIVE", "shelving")),
        (2, ("uploaded",), ("ACTIVE", "shelving_image_uploading")),
        (4, ("gone",), ("SHELVED", "shelving_offloading")),
        (6, (), OFFLOADED[1:]),
    ):
        server, seen = begin(steps, holding)
        assert seen == state
        end(server)
    server, _ = begin(6)
    hosts.act(server, "unshelve", {"host": "a"}, expected=202)
    end(server)
    kept(hosts)
    server, seen = begin(6)
    assert seen == ("SHELVED", None)
    end(server)


def test_a_protected_image_stays(hosts, server):
    image = shelve(hosts, server)
    with hosts.cloud.database.write.begin() as session:
        session.get(Image, image).protected = True
    hosts.act(server, "unshelve", expected=202)
    settle(hosts)
    assert hosts.where(server)[1:] == ("ACTIVE", None)
    assert show(hosts, image)["status"] == "active"


def test_what_an_unshelved_server_goes_on_with(hosts, server):
    """Its disk's image keeps its bytes while it may be made anew; moved, it lies over it again; rebuilt, it is free."""
    store = hosts.cloud.settings.image.store_dir
    image = shelve(hosts, server)
    hosts.act(server, "unshelve", {"host": "b"}, expected=202)
    with hosts.cloud.database.read() as session:
        ids = {name: host.id for name, host in hosts.read_hosts().items()}
        assert is_needed(session, ids["b"], image)
        assert not is_needed(session, ids["b"], hosts.image)
    settle(hosts)
    assert remove_unneeded(hosts.cloud.database, store) == []
    hosts.cloud.settings.kumo.keep_deleted_days = 0
    with hosts.cloud.database.write.begin() as session:
        prune_rows(session, hosts.cloud.settings)
    hosts.act(server, "migrate", {"host": "c"})
    settle(hosts)
    hosts.act(server, "confirmResize")
    settle(hosts)
    assert hosts.where(server) == ("c", "ACTIVE", None)
    assert find_row(hosts, "c", server)["image"] == image
    with hosts.cloud.database.read() as session:
        host = session.scalar(select(Host).where(Host.name == "c"))
        document = build_document(read_rows(session, host), hosts.cloud.settings, 1)
        look = hosts.fakes["c"](hosts.cloud.settings, "c", {}, document)
        assert find_host_faults(host, {**document, "volumes": [], "snapshots": []}, look) == []
    hosts.act(server, "rebuild", {"imageRef": hosts.image})
    settle(hosts)
    assert find_row(hosts, "c", server)["image"] == hosts.image
    assert remove_unneeded(hosts.cloud.database, store) == [image]
    second = shelve(hosts, server)
    assert (hosts.where(server), second != image) == (OFFLOADED, True)


def test_shelved_again_its_first_image_is_free(hosts, server):
    image = shelve(hosts, server)
    hosts.act(server, "unshelve", expected=202)
    settle(hosts)
    second = shelve(hosts, server)
    assert remove_unneeded(hosts.cloud.database, hosts.cloud.settings.image.store_dir) == [image]
    assert show(hosts, second)["base_image_ref"] == hosts.image
    hosts.act(server, "unshelve", expected=202)
    settle(hosts)
    assert hosts.where(server)[1:] == ("ACTIVE", None)
