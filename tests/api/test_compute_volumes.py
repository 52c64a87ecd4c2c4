"""server_volumes and block_devices: volumes attached to servers, and servers on volumes; both hosts are one dict."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, add_network
from sqlalchemy import select
from volume_calls import Storage

from web.models import Host, Server, VolumeAttachment


@pytest.fixture
def storage(cloud):
    made = Storage(cloud)
    yield made
    made.worker.pool.shutdown()


@pytest.fixture
def boot(storage):
    """A function from fields to a new server's answer; by default of an image, on a network."""
    image, network = add_image(storage.cloud), add_network(storage.cloud)

    def create(status: int = 202, run: bool = True, version: str = "2.96", **body):
        base = {"name": "s1", "flavorRef": "1", "imageRef": image, "networks": [{"uuid": network}]}
        body = {key: value for key, value in {**base, **body}.items() if value is not None}
        answer = storage.cloud.post(f"{COMPUTE}/servers", {"server": body}, version=version)
        assert answer.status_code == status, answer.text
        if run:
            storage.run(5)
        return answer.get_json()["server"]["id"] if status == 202 else answer.get_json()

    create.image = image
    return create


def show(storage, server_id: str, version: str = "2.96") -> dict:
    return storage.cloud.get(f"{COMPUTE}/servers/{server_id}", version=version).get_json()["server"]


def attach(storage, server_id: str, volume_id: str, status: int = 200, version: str = "2.96", **more):
    body = {"volumeAttachment": {"volumeId": volume_id, **more}}
    answer = storage.cloud.post(f"{COMPUTE}/servers/{server_id}/os-volume_attachments", body, version=version)
    assert answer.status_code == status, answer.text
    return answer.get_json()


def detach(storage, server_id: str, volume_id: str, status: int = 202):
    path = f"{COMPUTE}/servers/{server_id}/os-volume_attachments/{volume_id}"
    answer = storage.cloud.delete(path, version="2.96")
    assert answer.status_code == status, answer.text


def last_server(storage) -> dict:
    return storage.host.documents[-1]["servers"][0]


def test_a_volume_comes_and_goes(storage, boot):
    server, volume = boot(), storage.create()["id"]
    made = attach(storage, server, volume, delete_on_termination=False)["volumeAttachment"]
    assert (made["device"], made["volumeId"], made["serverId"]) == ("/dev/vdb", volume, server)
    assert "id" not in made
    assert storage.read_status(volume) == "attaching"
    storage.run()
    assert storage.read_status(volume) == "in-use"
    wanted = last_server(storage)["volumes"][0]
    assert wanted["iqn"] == f"iqn.2026-11.cloud.kumo:{made['attachment_id']}"
    assert wanted["device"] == "vdb"
    shown = storage.show(volume)["attachments"][0]
    assert (shown["server_id"], shown["device"]) == (server, "/dev/vdb")
    listed = show(storage, server)["os-extended-volumes:volumes_attached"]
    assert listed == [{"id": volume, "delete_on_termination": False}]
    assert show(storage, server, "2.1")["os-extended-volumes:volumes_attached"] == [{"id": volume}]
    detach(storage, server, volume)
    assert storage.read_status(volume) == "detaching"
    detach(storage, server, volume)  # twice is once
    storage.run(4)
    assert storage.read_status(volume) == "available"
    assert show(storage, server)["os-extended-volumes:volumes_attached"] == []
    detach(storage, server, volume, 404)


def test_the_target_stays_open_until_the_guest_has_let_go(storage, boot):
    server, volume = boot(), storage.create()["id"]
    attach(storage, server, volume)
    storage.run()
    detach(storage, server, volume)
    storage.run(1)
    document = storage.host.documents[-1]
    assert "volumes" not in document["servers"][0]
    assert document["volumes"][0]["exports"] != []
    storage.run(2)
    assert storage.host.documents[-1]["volumes"][0]["exports"] == []


def test_what_cannot_be_attached_is_refused(storage, boot):
    server, volume = boot(), storage.create()["id"]
    attach(storage, server, "5ff1a6e2-9a2c-4c3b-a6d7-0a4f3f6b7d11", 404)
    attach(storage, server, volume, 400, device="/dev/x/y")
    attach(storage, server, volume)
    attach(storage, server, volume, 400)
    other = boot()
    attach(storage, other, volume, 400)
    second = storage.create()["id"]
    attach(storage, server, second, 409, device="/dev/vdb")
    assert attach(storage, server, second, device="/dev/vdd")["volumeAttachment"]["device"] == "/dev/vdd"


def test_s12_a_guests_attachment_cannot_be_deleted_through_the_volume_api(storage, boot):
    server, volume = boot(), storage.create()["id"]
    made = attach(storage, server, volume)["volumeAttachment"]
    storage.run()
    storage.call("DELETE", f"/attachments/{made['attachment_id']}", status=409, version="3.44")
    storage.call("DELETE", f"/volumes/{volume}", status=400)
    assert storage.read_status(volume) == "in-use"
    shown = storage.call("GET", f"/attachments/{made['attachment_id']}", version="3.44")["attachment"]
    assert shown["connection_info"] == {}  # nobody is told how to log in to a guest's disk


def test_a_deleted_server_lets_go_of_its_volumes(storage, boot):
    server = boot()
    kept, goes = storage.create()["id"], storage.create()["id"]
    attach(storage, server, kept)
    attach(storage, server, goes, delete_on_termination=True)
    storage.run()
    storage.cloud.delete(f"{COMPUTE}/servers/{server}")
    storage.run(6)
    assert storage.read_status(kept) == "available"
    assert storage.read_status(goes) is None
    with storage.cloud.database.read() as session:
        assert session.scalars(select(VolumeAttachment)).all() == []


def test_volumes_are_free_once_their_server_is_gone(storage, boot):
    """Available, attached to nothing, and may be deleted or attached anew; targets are closed before a volume goes."""
    server, other = boot(), boot()
    used, deleted, goes = (storage.create()["id"] for _ in range(3))
    for volume in (used, deleted):
        attach(storage, server, volume)
    attach(storage, server, goes, delete_on_termination=True)
    storage.run()
    storage.cloud.delete(f"{COMPUTE}/servers/{server}")
    for _ in range(6):
        if storage.cloud.get(f"{COMPUTE}/servers/{server}").status_code == 404:
            break
        storage.run(1)
    assert [storage.read_status(volume) for volume in (used, deleted, goes)] == ["available", "available", "deleting"]
    assert storage.show(used)["attachments"] == []
    assert storage.call("GET", "/attachments", version="3.44")["attachments"] == []
    storage.call("DELETE", f"/volumes/{deleted}", status=202)
    again = attach(storage, other, used)["volumeAttachment"]["attachment_id"]
    before = len(storage.host.documents)
    storage.run(4)
    assert storage.read_status(used) == "in-use"
    assert [storage.read_status(volume) for volume in (deleted, goes)] == [None, None]
    rows = [{row["id"]: row for row in one["volumes"]} for one in storage.host.documents[before:]]
    assert rows[0][deleted]["exports"] == rows[0][goes]["exports"] == []
    assert [export["id"] for export in rows[0][used]["exports"]] == [again]
    assert rows[1][deleted]["wanted"] == rows[1][goes]["wanted"] == "absent"
    with storage.cloud.database.read() as session:
        assert session.scalars(select(VolumeAttachment.id)).all() == [again]


def test_delete_on_termination_can_be_changed(storage, boot):
    server, volume = boot(), storage.create()["id"]
    attach(storage, server, volume)
    path = f"{COMPUTE}/servers/{server}/os-volume_attachments/{volume}"
    body = {"volumeAttachment": {"volumeId": volume, "delete_on_termination": True}}
    assert storage.cloud.put(path, body, version="2.85").status_code == 202
    assert storage.cloud.put(path, body, version="2.84").status_code == 404
    body["volumeAttachment"]["volumeId"] = storage.create()["id"]
    assert "Swapping" in storage.cloud.put(path, body, version="2.85").get_json()["badRequest"]["message"]
    assert show(storage, server)["os-extended-volumes:volumes_attached"][0]["delete_on_termination"] is True


def test_a_server_on_a_new_volume_waits_for_it(storage, boot):
    root = {"source_type": "image", "destination_type": "volume", "uuid": boot.image, "volume_size": 2}
    mapping = [{**root, "boot_index": 0, "delete_on_termination": True}]
    server = boot(imageRef=None, run=False, block_device_mapping_v2=mapping)
    storage.run(1)
    assert storage.host.documents[-1]["servers"] == []  # not before its disk is there
    assert show(storage, server)["status"] == "BUILD"
    storage.run(5)
    shown = show(storage, server)
    assert (shown["status"], shown["image"]) == ("ACTIVE", "")
    wanted = last_server(storage)
    assert wanted["image"] is None
    assert [(one["device"], one["boot_index"]) for one in wanted["volumes"]] == [("vda", 0)]
    volume = shown["os-extended-volumes:volumes_attached"][0]["id"]
    assert storage.show(volume)["volume_image_metadata"]["image_id"] == boot.image
    detach(storage, server, volume, 400)  # the root disk stays
    storage.cloud.delete(f"{COMPUTE}/servers/{server}")
    storage.run(6)
    assert storage.read_status(volume) is None


def test_a_server_on_an_existing_volume(storage, boot):
    volume = storage.create(imageRef=boot.image)["id"]
    data = storage.create()["id"]
    entries = [
        {"source_type": "volume", "destination_type": "volume", "uuid": volume, "boot_index": 0},
        {"source_type": "volume", "destination_type": "volume", "uuid": data, "boot_index": -1},
        {"source_type": "blank", "destination_type": "volume", "volume_size": 1, "boot_index": None},
    ]
    server = boot(imageRef="", block_device_mapping_v2=entries)
    assert show(storage, server)["status"] == "ACTIVE"
    assert [one["device"] for one in last_server(storage)["volumes"]] == ["vda", "vdb", "vdc"]
    storage.cloud.delete(f"{COMPUTE}/servers/{server}")
    storage.run(6)
    assert storage.read_status(volume) == "available"


@pytest.mark.parametrize(
    "mapping",
    [
        [{"source_type": "blank", "destination_type": "local", "boot_index": -1}],
        [{"source_type": "blank", "destination_type": "volume", "boot_index": 0, "volume_size": 1}],
        [{"source_type": "volume", "destination_type": "volume", "boot_index": 0}],
        [{"source_type": "volume", "destination_type": "volume", "boot_index": 0, "uuid": 7}],
        [{"source_type": "tape", "destination_type": "volume", "boot_index": 0, "uuid": "x"}],
        [{"source_type": "blank", "destination_type": "volume", "volume_size": "big"}],
        [{"source_type": "blank", "destination_type": "volume", "volume_size": 1, "colour": "red"}],
        [],
    ],
)
def test_a_wrong_mapping_is_refused_and_nothing_is_made(storage, boot, mapping):
    answer = boot(400, run=False, imageRef="", block_device_mapping_v2=mapping)
    assert "badRequest" in answer
    with storage.cloud.database.read() as session:
        assert session.scalars(select(Server)).all() == []
        assert session.scalars(select(VolumeAttachment)).all() == []


def test_two_roots_are_refused(storage, boot):
    volume = storage.create(imageRef=boot.image)["id"]
    entry = {"source_type": "volume", "destination_type": "volume", "uuid": volume, "boot_index": 0}
    boot(400, run=False, block_device_mapping_v2=[entry, entry])
    boot(400, run=False, imageRef="", block_device_mapping_v2=[entry, entry])
    # An image that is named beside a volume to boot from has to be there; the volume is what boots.
    unknown = "00000000-0000-4000-8000-000000000009"
    boot(400, run=False, imageRef=unknown, block_device_mapping_v2=[entry])
    boot(202, run=False, block_device_mapping_v2=[entry])
    with storage.cloud.database.read() as session:
        assert session.scalars(select(Server.image_id)).all() == [None]


def set_apart(storage):
    """The hypervisor's name, once the volumes are another host's."""
    with storage.cloud.database.write.begin() as session:
        hypervisor = session.scalar(select(Host))
        hypervisor.roles = ["hypervisor"]
        session.add(
            Host(
                name="storage1",
                roles=["storage"],
                settings={"storage": {"backend": "file", "portal": "192.0.2.7:3260"}},
                observed=hypervisor.observed,
                observed_at=hypervisor.observed_at,
            )
        )
        return hypervisor.name


def test_a_volume_on_another_storage_host(storage, boot):
    """The two hosts' documents are of two hosts: the hypervisor waits until the storage host exports."""
    name = set_apart(storage)
    server, volume = boot(), storage.create()["id"]
    attach(storage, server, volume)
    storage.run()
    by_host = {document["host"]: document for document in storage.host.documents}
    assert by_host["storage1"]["servers"] == []
    assert "volumes" not in by_host[name]
    assert by_host[name]["servers"][0]["volumes"][0]["volume"] == volume
    assert storage.read_status(volume) == "in-use"


def test_an_export_seen_makes_its_guests_host_due_at_once(storage, boot):
    name = set_apart(storage)
    server, volume = boot(), storage.create()["id"]
    storage.run(3)
    attach(storage, server, volume)
    with storage.cloud.database.read() as session:
        ids = {host.name: host.id for host in session.scalars(select(Host))}
    storage.worker.run_once(ids[name])
    assert "volumes" not in storage.host.documents[-1]["servers"][0]
    storage.worker.run_once(ids["storage1"])
    with storage.cloud.database.read() as session:
        assert session.get(Host, ids[name]).next_run_at is None
    storage.worker.run_once(ids[name])
    assert storage.read_status(volume) == "in-use"


def test_one_run_exports_and_attaches_where_both_are_one_host(storage, boot):
    server, volume = boot(), storage.create()["id"]
    storage.run(3)
    attach(storage, server, volume)
    storage.run(1)
    document = storage.host.documents[-1]
    wanted = document["servers"][0]["volumes"][0]
    assert document["volumes"][0]["exports"][0]["id"] == wanted["attachment"]
    assert storage.read_status(volume) == "in-use"
    storage.run(1)
    assert storage.host.documents[-1]["servers"][0]["volumes"] == [wanted]  # as predicted, so it is as seen
