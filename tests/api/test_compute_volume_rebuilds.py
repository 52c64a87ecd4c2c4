"""Rebuilds of servers whose root disk is a volume: what a version allows, the order across hosts, what goes wrong."""

from __future__ import annotations

import jsonschema
import pytest
from compute_cloud import COMPUTE, add_image, read_server
from move_calls import Hosts
from shelve_calls import find_row, read_status, settle
from sqlalchemy import select

from web.desired.document import SCHEMA
from web.image_cleanup import remove_unneeded
from web.image_store import build_path
from web.models import Image, Volume, VolumeAttachment, now

VOLUMES = "/volume/v3/volumes"


class Guest:
    """A server on a volume of 1 GiB on host s, made of ``hosts.image``, with a data volume beside it."""

    def __init__(self, hosts, **disk):
        self.hosts = hosts
        mapping = {"boot_index": 0, "uuid": hosts.image, "source_type": "image", "destination_type": "volume",
                   "volume_size": 1, **disk}  # fmt: skip
        data = {"boot_index": -1, "source_type": "blank", "destination_type": "volume", "volume_size": 1}
        self.id = hosts.boot(imageRef="", block_device_mapping_v2=[mapping, data])
        with hosts.cloud.database.read() as session:
            row = session.scalar(select(VolumeAttachment).where(VolumeAttachment.boot_index == 0))
        self.volume, self.target = row.volume_id, row.id

    def rebuild(self, image: str, status: int = 202, version: str = "2.96", **fields):
        body = {"imageRef": image, **fields}
        return self.hosts.act(self.id, "rebuild", body, version=version, expected=status)

    def read_volume(self) -> Volume:
        with self.hosts.cloud.database.read() as session:
            return session.get(Volume, self.volume)

    def read_targets(self) -> list[str]:
        """Ids of what the root volume is offered as, by the newest document of its host."""
        rows = self.hosts.fakes["s"].documents[-1]["volumes"]
        return [one["id"] for row in rows if row["id"] == self.volume for one in row["exports"]]

    def read_order(self) -> dict | None:
        rows = self.hosts.fakes["s"].documents[-1]["volumes"]
        return next(row.get("reimage") for row in rows if row["id"] == self.volume)

    def is_running(self) -> bool:
        return any(fake.state.get(self.id, {}).get("state") == "running" for fake in self.hosts.fakes.values())

    def turn(self, *names: str) -> None:
        """As `Hosts.turn`; and no guest runs while its volume is made anew."""
        for name in names:
            before = self.read_volume().is_withheld
            self.hosts.turn(name)
            jsonschema.validate(self.hosts.fakes[name].documents[-1], SCHEMA)
            assert not (self.read_volume().is_withheld and self.is_running())
            assert not (before and name == "s" and self.read_targets()), "it is offered to somebody"


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud, storage=True)
    found.cloud.settings.volume.allocation_percent = 200
    return found


@pytest.fixture
def guest(hosts):
    return Guest(hosts)


def test_until_2_92_the_image_is_the_same_and_the_volume_stays(hosts, guest):
    other = add_image(hosts.cloud, name="other")
    for image in (other, hosts.image):
        if image == other:
            refused = guest.rebuild(image, 400, version="2.92").text
            assert "Unable to rebuild with a different image for a volume-backed server." in refused
            continue
        view = guest.rebuild(image, version="2.92", name="web2").json["server"]
        assert (view["image"], view["name"], view["status"]) == ("", "web2", "REBUILD")
    settle(hosts)
    row = find_row(hosts, "a", guest.id)
    assert (row["rebuild"], row["image"], row["name"], row.get("held")) == ({"wanted": 1}, None, "web2", None)
    assert hosts.where(guest.id) == ("a", "ACTIVE", None)
    assert hosts.read_actions(guest.id)[-1] == ("rebuild", True, None)
    assert (guest.read_order(), guest.read_targets()) == (None, [guest.target])
    assert hosts.fakes["s"].contents == {}
    assert read_status(hosts, guest.volume) == "in-use"


def test_a_volume_that_came_from_no_image_has_none_that_is_the_same(hosts, guest):
    with hosts.cloud.database.write.begin() as session:
        session.get(Volume, guest.volume).image_metadata = {}
    guest.rebuild(hosts.image, 400, version="2.92")
    guest.rebuild(hosts.image, version="2.93")


def test_from_2_93_on_the_volume_is_imaged_anew_in_this_order(hosts, guest):
    """The image is there, the guest off, its target given up, the content made, another target open, the guest back."""
    image = add_image(hosts.cloud, name="other", properties={"hw_vif_model": "e1000"})
    hosts.fakes["s"].without, hosts.fakes["s"].holding = {image}, {"reimaged"}
    view = guest.rebuild(image).json["server"]
    assert (view["status"], view["image"]) == ("REBUILD", "")
    assert read_status(hosts, guest.volume) == "downloading"
    assert hosts.show(guest.id)["os-extended-volumes:volumes_attached"][0]["id"]
    guest.turn("s", "a", "s", "a")
    assert guest.read_order() == {"wanted": 1, "image": image, "idle": False}
    assert (guest.read_targets(), guest.is_running()) == ([guest.target], True), "it goes on until the image is there"
    assert find_row(hosts, "a", guest.id).get("held") is None

    hosts.fakes["s"].without = set()
    hosts.fakes["a"].down = "no way to it"
    guest.turn("s", "a", "s")
    assert guest.read_order()["idle"] is False, "nobody has seen the guest off"
    hosts.fakes["a"].down = None
    guest.turn("a")
    row = find_row(hosts, "a", guest.id)
    assert (row["held"], row["power"], row.get("rebuild")) == (True, "off", None)
    assert not guest.is_running()

    guest.turn("s")
    assert (guest.read_order(), guest.read_targets()) == ({"wanted": 1, "image": image, "idle": True}, [])
    assert hosts.fakes["s"].contents == {}
    guest.turn("a", "s", "a")
    assert (hosts.where(guest.id), read_status(hosts, guest.volume)) == (("a", "REBUILD", "rebuilding"), "downloading")
    assert guest.read_volume().image_metadata["image_id"] == hosts.image, "until it is done, the old one's"

    hosts.fakes["s"].holding = set()
    guest.turn("s", "a")
    assert hosts.fakes["s"].contents == {guest.volume: f"made of {image}"}
    assert find_row(hosts, "a", guest.id)["held"], "its new target is not open yet"
    guest.turn("s", "a")
    row = find_row(hosts, "a", guest.id)
    assert (row["rebuild"], row["power"], row.get("held")) == ({"wanted": 1}, "on", None)
    settle(hosts)
    assert (hosts.where(guest.id), read_status(hosts, guest.volume)) == (("a", "ACTIVE", None), "in-use")
    assert hosts.read_actions(guest.id)[-1] == ("rebuild", True, None)
    assert guest.read_order() is None
    (target,) = guest.read_targets()
    assert target != guest.target, "nobody knows the new one from before"
    metadata = hosts.call("GET", f"{VOLUMES}/{guest.volume}")["volume"]["volume_image_metadata"]
    assert (metadata["image_id"], metadata["image_name"]) == (image, "other")
    assert find_row(hosts, "a", guest.id)["hardware"]["vif_model"] == "e1000"
    names = [one["volumeId"] for one in hosts.call("GET", f"{COMPUTE}/servers/{guest.id}/os-volume_attachments")
             ["volumeAttachments"]]  # fmt: skip
    assert len(names) == 2
    assert guest.volume in names


def test_the_same_image_makes_it_anew_too_and_twice_is_twice(hosts, guest):
    for number in (1, 2):
        guest.rebuild(hosts.image)
        settle(hosts)
        assert hosts.where(guest.id) == ("a", "ACTIVE", None)
        assert hosts.fakes["s"].reimaged == {guest.volume: number}


def test_a_stopped_server_stays_stopped(hosts, guest):
    hosts.act(guest.id, "os-stop")
    settle(hosts)
    guest.rebuild(hosts.image)
    settle(hosts)
    assert hosts.where(guest.id) == ("a", "SHUTOFF", None)
    assert hosts.fakes["s"].reimaged == {guest.volume: 1}
    hosts.act(guest.id, "os-start")
    settle(hosts)
    assert (hosts.where(guest.id)[1], guest.is_running()) == ("ACTIVE", True)


def test_what_does_not_fit_is_refused_and_touches_nothing(hosts, guest):
    for image, text in (
        (add_image(hosts.cloud, virtual_size=(1 << 30) + 1), "larger than volume size 1GB"),
        (add_image(hosts.cloud, min_disk=2), "larger than volume size 1GB"),
        (add_image(hosts.cloud, min_ram=99999), "memory is too small"),
        (add_image(hosts.cloud, status="queued"), "not active"),
        (add_image(hosts.cloud, properties={"hw_vif_model": "ne2k"}), "hw_vif_model"),
    ):
        assert text in guest.rebuild(image, 400).text
    row = read_server(hosts.cloud, guest.id)
    assert (row.rebuild_wanted, row.status, guest.read_volume().reimage_wanted) == (0, "ACTIVE", 0)


def test_nobody_gets_the_volume_meanwhile(hosts, guest):
    """It is `downloading`, as one that is still being made: that one may be booted from."""
    server = hosts.boot()
    hosts.fakes["s"].holding = {"reimaged"}
    guest.rebuild(hosts.image)
    guest.turn("s", "a", "s", "a", "s")
    body = {"volumeAttachment": {"volumeId": guest.volume}}
    hosts.call("POST", f"{COMPUTE}/servers/{server}/os-volume_attachments", body, 400)
    disk = {"boot_index": 0, "uuid": guest.volume, "source_type": "volume", "destination_type": "volume"}
    body = {"name": "x", "flavorRef": "1", "imageRef": "", "networks": "none", "block_device_mapping_v2": [disk]}
    hosts.call("POST", f"{COMPUTE}/servers", {"server": body}, 400)
    hosts.call("POST", f"{VOLUMES}/{guest.volume}/action", {"os-extend": {"new_size": 2}}, 400)
    hosts.call("DELETE", f"{VOLUMES}/{guest.volume}", status=400)
    hosts.act(guest.id, "os-start", expected=409)


def test_a_host_that_cannot_is_told_and_another_rebuild_heals(hosts, guest):
    """The volume's fault is its server's; the guest is kept from what may be half made."""
    fake = hosts.fakes["s"]
    guest.rebuild(hosts.image)
    guest.turn("s", "a")
    fake.fail[guest.volume] = "the pool is full"
    guest.turn("s", "s", "s")
    assert hosts.where(guest.id)[1] == "REBUILD"
    guest.turn("s", "a")
    view = hosts.show(guest.id)
    assert (view["status"], view["fault"]["message"]) == ("ERROR", f"volume {guest.volume}: the pool is full")
    assert read_status(hosts, guest.volume) == "error"
    assert hosts.read_actions(guest.id)[-1] == ("rebuild", True, "Error")
    hosts.act(guest.id, "reboot", {"type": "HARD"})
    guest.turn("a", "s", "a")
    assert not guest.is_running(), "nothing starts it over what may be half made"
    guest.turn("a")

    other = add_image(hosts.cloud, name="other")
    with hosts.cloud.database.write.begin() as session:
        row = session.merge(read_server(hosts.cloud, guest.id))
        row.fault_message, row.vm_state, row.task_state, row.status = "x", "error", None, "ERROR"
    guest.rebuild(other)
    assert read_status(hosts, guest.volume) == "downloading"
    fake.fail.clear()
    for _ in range(4):
        guest.turn("s", "a")
    settle(hosts)
    assert (hosts.where(guest.id), read_status(hosts, guest.volume)) == (("a", "ACTIVE", None), "in-use")
    assert fake.contents == {guest.volume: f"made of {other}"}
    assert guest.read_volume().image_metadata["image_id"] == other


def test_an_image_that_cannot_be_had_touches_nothing(hosts, guest):
    fake = hosts.fakes["s"]
    image = add_image(hosts.cloud)
    fake.without, fake.fail[guest.volume] = {image}, "check_image waits for images, which failed: gone"
    guest.rebuild(image)
    for _ in range(5):
        guest.turn("s", "a")
    assert (hosts.where(guest.id)[1], guest.is_running()) == ("ERROR", True)
    assert (guest.read_volume().reimage_begun, guest.read_targets()) == (0, [guest.target])
    fake.fail.clear()
    guest.rebuild(hosts.image)
    settle(hosts)
    assert (hosts.where(guest.id)[1], fake.contents) == ("ACTIVE", {guest.volume: f"made of {hosts.image}"})


@pytest.mark.parametrize("goes", [True, False])
@pytest.mark.parametrize("when", ["asked", "held", "begun"])
def test_deleted_meanwhile(hosts, goes, when):
    """A volume that is not deleted with its server is imaged to its end, and is free then."""
    guest = Guest(hosts, delete_on_termination=goes)
    hosts.fakes["s"].holding = {"reimaged"}
    guest.rebuild(hosts.image)
    guest.turn(*{"asked": [], "held": ["s"], "begun": ["s", "a", "s"]}[when])
    hosts.call("DELETE", f"{COMPUTE}/servers/{guest.id}", status=204)
    for _ in range(4):
        hosts.turn("a", "s")
    hosts.fakes["s"].holding = set()
    for _ in range(3):
        hosts.turn("a", "s")
    settle(hosts)
    assert read_server(hosts.cloud, guest.id).gone_at is not None
    assert read_status(hosts, guest.volume) == ("deleted" if goes else "available")
    assert hosts.fakes["s"].contents == ({} if goes else {guest.volume: f"made of {hosts.image}"})


@pytest.mark.parametrize("when", ["held", "begun"])
def test_its_host_dies_meanwhile(hosts, guest, when):
    """Evacuated, it comes to its end on another host, on what was made anew."""
    hosts.fakes["s"].holding = {"reimaged"}
    guest.rebuild(hosts.image)
    guest.turn(*{"held": ["s"], "begun": ["s", "a", "s"]}[when])
    hosts.fakes["a"].down, hosts.fakes["a"].state = "dead", {}
    hosts.set_host("a", forced_down=True)
    hosts.act(guest.id, "evacuate", {"host": "b"}, version="2.94")  # from 2.95 on it is stopped there
    for _ in range(5):
        guest.turn("b", "s")
    assert not guest.is_running()
    hosts.fakes["s"].holding = set()
    for _ in range(5):
        guest.turn("b", "s")
    assert hosts.where(guest.id) == ("b", "ACTIVE", None)
    assert hosts.fakes["s"].contents == {guest.volume: f"made of {hosts.image}"}


def test_the_image_s_bytes_stay_until_it_is_done(hosts, guest):
    for name in ("b", "c"):
        hosts.set_host(name, roles=["storage"])
    image, store = add_image(hosts.cloud), hosts.cloud.settings.image.store_dir
    guest.rebuild(image)
    path = build_path(store, image)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    with hosts.cloud.database.write.begin() as session:
        row = session.scalar(select(Image).where(Image.id == image))
        row.status, row.deleted_at = "deleted", now()
    assert remove_unneeded(hosts.cloud.database, store) == []
    guest.turn("s")
    assert image in [row["id"] for row in hosts.fakes["s"].documents[-1]["images"]]
    guest.turn("a", "s", "a", "s")
    assert remove_unneeded(hosts.cloud.database, store) == [image]
