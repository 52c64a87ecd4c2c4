"""servers: what a guest is made of beside its image: local disks, virtual hardware, config drive, injected files."""

from __future__ import annotations

import base64

import pytest
from compute_cloud import COMPUTE, add_image, boot, build_server, find_project, read_server
from move_calls import FACTS, Hosts
from sqlalchemy import func, select

from web.capacity import read_host_usage
from web.desired.made_of import build_made_of
from web.models import Flavor, Host, Image, Migration, Quota, Server, Volume, new_uuid
from web.move_scheduler import Wish, choose_destination

BLANK = {"source_type": "blank", "destination_type": "local"}
SWAP = {**BLANK, "guest_format": "swap"}
TEXT = base64.b64encode(b"hello").decode()


def add_flavor(cloud, flavor_id: str = "big", **columns) -> str:
    """A flavor of 1 GiB root disk, 3 GiB ephemeral disk and 128 MiB swap."""
    values = {
        "id": flavor_id, "name": flavor_id, "vcpus": 1, "ram_mb": 64, "disk_gb": 1, "ephemeral_gb": 3, "swap_mb": 128,
        "extra_specs": {}, **columns,
    }  # fmt: skip
    with cloud.database.write.begin() as session:
        session.add(Flavor(**values))
    return flavor_id


def ask(cloud, image: str, status: int, version: str = "2.96", **fields):
    answer = cloud.post(f"{COMPUTE}/servers", build_server(image, **fields), version=version)
    assert answer.status_code == status, answer.text
    return answer


def list_blanks(image: str, *blanks: dict) -> dict:
    """The fields that ask for these disks beside the image's."""
    root = {"source_type": "image", "destination_type": "local", "uuid": image, "boot_index": 0}
    return {"block_device_mapping_v2": [root, *({**BLANK, **one} for one in blanks)]}


DISKS = [
    # name, disks asked for (None: nothing said), what the server has
    ("as the flavor has it", None, ([(3, "ext4")], 128, 4)),
    ("two smaller ones", [{"volume_size": 1}, {"volume_size": 2, "guest_format": "vfat"}],
     ([(1, "ext4"), (2, "vfat")], 128, 4)),
    ("one of the flavor's size", [{"guest_format": "vfat"}], ([(3, "vfat")], 128, 4)),
    ("a smaller swap", [{"volume_size": "64", "guest_format": "swap"}], ([(3, "ext4")], 64, 4)),
    ("the flavor's swap", [{"guest_format": "swap", "boot_index": -1, "delete_on_termination": True}],
     ([(3, "ext4")], 128, 4)),
    ("their own places", [{"volume_size": 1, "device_name": "/dev/vdb", "disk_bus": "virtio"},
                          {"guest_format": "swap", "device_name": "vdc"}], ([(1, "ext4")], 128, 2)),
]  # fmt: skip


def test_local_disks(cloud):
    """Within what the flavor has, as asked or as the flavor says; counted with the root disk on the host."""
    image, flavor = add_image(cloud), add_flavor(cloud)
    total = 0
    for name, blanks, (ephemeral, swap_mb, gb) in DISKS:
        fields = {} if blanks is None else list_blanks(image, *blanks)
        server = read_server(cloud, boot(cloud, image, flavorRef=flavor, **fields))
        found = [(one["gb"], one["format"]) for one in server.disks["ephemeral"]]
        assert (found, server.disks["swap_mb"], server.disks["gb"]) == (ephemeral, swap_mb, gb), name
        total += 1 + gb
    boot(cloud, image)
    with cloud.database.read.begin() as session:
        assert read_host_usage(session)[server.host_id]["disk_gb"] == total + 1


REFUSED_DISKS = [
    ("more than the flavor's", [{"volume_size": 4}], "Ephemeral disks requested are larger"),
    ("more in all", [{"volume_size": 2}, {"volume_size": 2}], "Ephemeral disks requested are larger"),
    ("more swap", [{"volume_size": 129, "guest_format": "swap"}], "Swap drive requested is larger"),
    ("swap twice", [SWAP, SWAP], "More than one swap drive"),
    ("an unknown file system", [{"guest_format": "ntfs"}], "block_device_mapping_v2/1/guest_format"),
    ("no size", [{"volume_size": 0}], "block_device_mapping_v2/1/volume_size"),
    ("a size that is none", [{"volume_size": [1]}], "block_device_mapping_v2/1/volume_size"),
    ("one to boot from", [{"boot_index": 1}], "block_device_mapping_v2/1/boot_index"),
    ("one that stays", [{"delete_on_termination": False}], "block_device_mapping_v2/1/delete_on_termination"),
    ("another place", [{"device_name": "/dev/vdf"}], "Its place is /dev/vdb"),
    ("a place that is no text", [{"device_name": 5}], "block_device_mapping_v2/1/device_name"),
    ("another bus", [{"disk_bus": "scsi"}], "block_device_mapping_v2/1/disk_bus"),
    ("a tag", [{"tag": "a,b"}], "block_device_mapping_v2/1/tag"),
    ("of something", [{"uuid": "x"}], "block_device_mapping_v2/1/uuid"),
    ("a CD-ROM", [{"device_type": "cdrom"}], "block_device_mapping_v2/1/device_type"),
]


def test_local_disks_refused(cloud):
    """Each with the field's name or in the reference's words; nothing is written."""
    image, flavor = add_image(cloud), add_flavor(cloud)
    for name, blanks, text in REFUSED_DISKS:
        answer = ask(cloud, image, 400, flavorRef=flavor, **list_blanks(image, *blanks))
        assert text in answer.json["badRequest"]["message"], name
    for blanks, text in (([{"volume_size": 1}], "Ephemeral disks"), ([SWAP], "Swap drive")):
        assert text in ask(cloud, image, 400, **list_blanks(image, *blanks)).text  # a flavor without any
    with cloud.database.read.begin() as session:
        assert session.scalar(select(func.count()).select_from(Server)) == 0


def test_local_disks_need_room(cloud):
    """A host whose disk holds the root disk but not the others takes no such server."""
    image, flavor = add_image(cloud), add_flavor(cloud, ephemeral_gb=5000)
    made = ask(cloud, image, 202, flavorRef=flavor).json["server"]["id"]
    server = read_server(cloud, made)
    assert server.host_id is None
    assert "GiB of disk" in server.fault_details


UNSUPPORTED = [
    # properties, extra specs, the name that the refusal says
    ({"hw_disk_bus": "usb"}, {}, "hw_disk_bus"),
    ({"hw_vif_model": "ne2k_pci"}, {}, "hw_vif_model"),
    ({"hw_vif_model": "e1000e"}, {}, "hw_vif_model"),
    ({"hw_video_model": "qxl"}, {}, "hw_video_model"),
    ({"hw_machine_type": "virt"}, {}, "hw_machine_type"),
    ({"hw_firmware_type": "coreboot"}, {}, "hw_firmware_type"),
    ({"hw_watchdog_action": "explode"}, {}, "hw_watchdog_action"),
    ({"hw_rng_model": "tpm"}, {}, "hw_rng_model"),
    ({"hw_qemu_guest_agent": "perhaps"}, {}, "hw_qemu_guest_agent"),
    ({"hw_cdrom_bus": "virtio"}, {}, "hw_cdrom_bus"),
    ({"hw_machine_type": "q35", "hw_disk_bus": "ide"}, {}, "hw_disk_bus"),
    ({"hw_machine_type": "q35", "hw_cdrom_bus": "ide"}, {}, "hw_cdrom_bus"),
    ({"hw_scsi_model": "ibmvscsi"}, {}, "hw_scsi_model"),
    ({"hw_cpu_sockets": "2"}, {}, "hw_cpu_sockets"),
    ({"os_secure_boot": "required"}, {}, "os_secure_boot"),
    ({"img_config_drive": "perhaps"}, {}, "img_config_drive"),
    ({}, {"hw:watchdog_action": "explode"}, "hw:watchdog_action"),
    ({}, {"hw:numa_nodes": "2"}, "hw:numa_nodes"),
    ({}, {"hw_rng:allowed": "False"}, "hw_rng:allowed"),
    ({}, {"hw_video:ram_max_mb": "16"}, "hw_video:ram_max_mb"),
]


def test_hardware_refused(cloud):
    """What no guest has is refused with the name of the property, before anything is written."""
    for number, (properties, specs, named) in enumerate(UNSUPPORTED):
        flavor = add_flavor(cloud, f"f{number}", extra_specs=specs) if specs else "1"
        answer = ask(cloud, add_image(cloud, properties=properties), 400, flavorRef=flavor)
        assert f"field/attribute {named}." in answer.json["badRequest"]["message"]
    with cloud.database.read.begin() as session:
        assert session.scalar(select(func.count()).select_from(Server)) == 0


def test_hardware_is_the_image_s_of_that_moment(cloud):
    """The properties are copied: later changes of the image change no server; the image's word beats the flavor's."""
    given = {
        "hw_disk_bus": "SCSI", "hw_watchdog_action": "pause", "os_type": "linux", "architecture": "x86_64",
        "hw_rng_model": "virtio", "owner_specified.x": "y", "hw_vif_model": "e1000",
    }  # fmt: skip
    image = add_image(cloud, properties=given)
    flavor = add_flavor(cloud, extra_specs={"hw:watchdog_action": "reset", "hw_rng:allowed": "True", "rack": "3"})
    made = boot(cloud, image, flavorRef=flavor)
    with cloud.database.write.begin() as session:
        session.get(Image, image).properties = {"hw_disk_bus": "ide"}
    server = read_server(cloud, made)
    assert server.image_properties == {**given, "disk_format": "qcow2"}
    shown = cloud.get(f"{COMPUTE}/servers/{made}", user="admin", version="2.96").json["server"]
    assert shown["OS-EXT-SRV-ATTR:root_device_name"] == "/dev/sda"
    assert build_made_of(server)["hardware"] == {"disk_bus": "scsi", "vif_model": "e1000", "watchdog": "pause"}


def test_extra_specs_that_hosts_realise(cloud):
    """From 2.86 on these alone of the reference's own names are taken, with values that are known."""
    path = f"{COMPUTE}/flavors/1/os-extra_specs"
    for specs, status in (
        ({"hw:watchdog_action": "reset"}, 200),
        ({"hw_rng:allowed": "true"}, 200),
        ({"hw:watchdog_action": "explode"}, 400),
        ({"hw_rng:allowed": "false"}, 400),
        ({"hw:cpu_policy": "dedicated"}, 400),
    ):
        answer = cloud.post(path, {"extra_specs": specs}, user="admin", version="2.86")
        assert answer.status_code == status, specs


def test_config_drive(cloud):
    """Shown as "True"; a password is in the answer, and in the row of a drive; an image may make one mandatory."""
    image = add_image(cloud)
    answer = ask(cloud, image, 202, config_drive=True, adminPass="given-canary")
    assert answer.json["server"]["adminPass"] == "given-canary"
    path = f"{COMPUTE}/servers/{answer.json['server']['id']}"
    shown = cloud.get(path, version="2.96")
    assert shown.json["server"]["config_drive"] == "True"
    assert "canary" not in shown.text
    assert read_server(cloud, answer.json["server"]["id"]).injected == {"files": [], "admin_pass": "given-canary"}
    must = add_image(cloud, properties={"img_config_drive": "mandatory"})
    made = ask(cloud, must, 202).json["server"]
    assert len(made["adminPass"]) == 12
    assert read_server(cloud, made["id"]).config_drive is True
    may = add_image(cloud, properties={"img_config_drive": "optional"})
    for fields in ({}, {"config_drive": False}, {"config_drive": ""}):
        answer = cloud.post(f"{COMPUTE}/servers", build_server(may, **fields), version="2.96")
        if answer.status_code == 202:
            assert len(answer.json["server"]["adminPass"]) == 12
            assert read_server(cloud, answer.json["server"]["id"]).injected == {}
            assert read_server(cloud, answer.json["server"]["id"]).config_drive is False
    # One that no drive carries is answered, and kept nowhere.
    without = ask(cloud, image, 202, adminPass="given-canary").json["server"]
    assert without["adminPass"] == "given-canary"
    assert read_server(cloud, without["id"]).injected == {}


PERSONALITY = [
    # files, status, text
    ([{"path": "/a", "contents": "%%%"}], 400, "Personality content for /a cannot be decoded"),
    ([{"path": "/a"}], 400, "personality"),
    ([{"path": "", "contents": TEXT}], 400, "personality"),
    ([{"path": "/a\n", "contents": TEXT}], 400, "personality"),
    ([{"path": 5, "contents": TEXT}], 400, "personality"),
    ([{"path": f"/{number}", "contents": TEXT} for number in range(6)], 403, "Personality file limit exceeded"),
    ([{"path": "/" + "é" * 128, "contents": TEXT}], 403, "Personality file path exceeds maximum 255"),
    ([{"path": "/a", "contents": base64.b64encode(b"x" * 10241).decode()}], 403, "file content exceeds maximum 10240"),
]


def test_files_on_the_config_drive(cloud):
    """Until 2.56, within the quotas, with a config drive only."""
    image, files = add_image(cloud), [{"path": "/etc/motd", "contents": TEXT}]
    made = ask(cloud, image, 202, "2.56", config_drive=True, personality=files).json["server"]["id"]
    assert read_server(cloud, made).injected["files"] == files
    assert "personality" in ask(cloud, image, 400, "2.57", config_drive=True, personality=files).text
    assert "personality" in ask(cloud, image, 400, "2.56", personality=files).text
    for given, status, text in PERSONALITY:
        answer = ask(cloud, image, status, "2.56", config_drive=True, personality=given)
        assert text in answer.text
    with cloud.database.write.begin() as session:
        session.add(Quota(project_id=find_project(cloud), resource="injected_files", limit=0))
    assert "limit exceeded" in ask(cloud, image, 403, "2.56", config_drive=True, personality=files).text


def test_an_iso_is_booted_from(cloud):
    """It needs a disk to install onto, not one as large as itself."""
    image = add_image(cloud, disk_format="iso", virtual_size=None, size=5 << 30)
    made = boot(cloud, image)
    assert read_server(cloud, made).image_properties["disk_format"] == "iso"
    no_disk = add_flavor(cloud, "none", disk_gb=0, ephemeral_gb=0, swap_mb=0)
    assert "ISO" in ask(cloud, image, 400, flavorRef=no_disk).json["badRequest"]["message"]


def test_a_volume_of_an_image_has_its_properties(cloud):
    """A server on a volume takes the properties that the volume has from its image; its disks are virtio's."""
    project, mapping = find_project(cloud), {"source_type": "volume", "boot_index": 0}
    for metadata, status in (
        ({"hw_vif_model": "e1000", "disk_format": "iso"}, 202),
        ({"hw_disk_bus": "scsi"}, 400),
        ({"hw_numa_nodes": "2"}, 400),
    ):
        volume = Volume(
            id=new_uuid(), project_id=project, user_id="u", name="v", size_gb=1, status="available", bootable=True,
            image_metadata=metadata, metadata_={},
        )  # fmt: skip
        with cloud.database.write.begin() as session:
            session.add(volume)
        body = {"name": "v", "flavorRef": add_flavor(cloud, f"v{status}{len(metadata)}{next(iter(metadata))[:5]}"),
                "networks": "none", "block_device_mapping_v2": [{**mapping, "uuid": volume.id}]}  # fmt: skip
        answer = cloud.post(f"{COMPUTE}/servers", {"server": body}, version="2.96")
        assert answer.status_code == status, answer.text
        if status == 202:
            server = read_server(cloud, answer.json["server"]["id"])
            assert server.image_properties == {"hw_vif_model": "e1000"}
            assert server.disks["gb"] == 4


KEPT_HERE = [
    ({"config_drive": True}, {}, "a config drive"),
    ({}, {"properties": {"hw_firmware_type": "uefi"}}, "UEFI variables"),
]


@pytest.fixture
def hosts(cloud):
    made = Hosts(cloud)
    yield made
    made.worker.pool.shutdown()


def test_what_would_be_lost_does_not_move(hosts):
    """A server with a disk that is not copied stays on its host: the refusal names what; evacuated it is made anew."""
    cloud = hosts.cloud
    add_flavor(cloud)
    add_flavor(cloud, "huge", disk_gb=2)
    add_flavor(cloud, "other", disk_gb=2, ephemeral_gb=9)
    for fields, image, text in KEPT_HERE:
        made = boot(cloud, add_image(cloud, **image), **fields)
        action, alive_only = f"{COMPUTE}/servers/{made}/action", "config_drive" in fields
        for body in (
            {"migrate": {}},
            {"os-migrateLive": {"host": None, "block_migration": True, "disk_over_commit": False}},
        ):
            if alive_only and "migrate" in body:
                continue
            version = "2.1" if "os-migrateLive" in body else "2.96"
            answer = cloud.post(action, body, user="admin", version=version)
            assert answer.status_code == 400, answer.text
            assert f"the server has {text}" in answer.text
            assert "not copied between hosts" in answer.text
    made = boot(cloud, add_image(cloud), flavorRef="big")
    action = f"{COMPUTE}/servers/{made}/action"
    for flavor, status in (("1", 400), ("other", 400), ("huge", 202)):
        answer = cloud.post(action, {"resize": {"flavorRef": flavor}}, version="2.96")
        assert answer.status_code == status, answer.text
        assert status == 202 or "Unable to change the ephemeral disk" in answer.text
    server = read_server(cloud, made)
    with cloud.database.read.begin() as session:
        used = sum(usage["disk_gb"] for usage in read_host_usage(session).values())
        move = session.scalar(select(Migration).where(Migration.server_id == made))
        # What was made of nothing but rows is made of them again.
        assert choose_destination(session, cloud.settings, server, Wish(over_network=False)) != server.host_id
    assert move.dest_host_id == move.source_host_id
    assert used == 1 + 1 + 5 + 2
    made = boot(cloud, add_image(cloud), config_drive=True)
    answer = cloud.post(f"{COMPUTE}/servers/{made}/action", {"migrate": {}}, user="admin", version="2.96")
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize("how", ["live", "cold", "resize"])
@pytest.mark.parametrize(
    ("fields", "image"), [({"flavorRef": "big"}, {}), ({}, {"disk_format": "iso", "virtual_size": None})]
)
def test_disks_beside_the_root_disk_move_with_it(hosts, how, fields, image):
    """Both hosts' documents have them, and the room for them is claimed on both."""
    cloud = hosts.cloud
    add_flavor(cloud)
    add_flavor(cloud, "huge", disk_gb=2, **({} if fields else {"ephemeral_gb": 0, "swap_mb": 0}))
    made = hosts.boot(imageRef=add_image(cloud, **image), **fields)
    before = next(row for row in hosts.fakes["a"].documents[-1]["servers"] if row["id"] == made)
    with cloud.database.read.begin() as session:
        used = {key: usage["disk_gb"] for key, usage in read_host_usage(session).items()}
    if how == "live":
        hosts.live(made)
    elif how == "cold":
        hosts.act(made, "migrate", {"host": "b"})
    else:
        hosts.set_host("a", observed={"host": {**FACTS, "disk_gb": 0}})
        hosts.act(made, "resize", {"flavorRef": "huge"})
    with cloud.database.read.begin() as session:
        more = sum(usage["disk_gb"] for usage in read_host_usage(session).values()) - sum(used.values())
        dest = session.get(Host, session.scalar(select(Migration.dest_host_id).where(Migration.server_id == made))).name
    assert more == (5 if fields else 1) + (how == "resize")
    hosts.settle()
    rows = [row for document in hosts.fakes[dest].documents for row in document["servers"] if row["id"] == made]
    for row in (rows[0], rows[-1]):
        for name in ("iso", "ephemeral_gb", "ephemeral_formats", "swap_mb"):
            assert row.get(name) == before.get(name), name
    assert "incoming" in rows[0]
    assert hosts.where(made)[:2] == (dest, "ACTIVE" if how == "live" else "VERIFY_RESIZE")
    assert hosts.fakes[dest].disks[made] == "what the guest wrote"
