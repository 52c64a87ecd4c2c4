"""createImage of a server on volumes, and a server booted from that image: snapshots, mapping, volumes."""

from __future__ import annotations

import json

import pytest
from compute_cloud import COMPUTE, find_project, read_server
from sqlalchemy import select
from test_compute_volumes import boot, show, storage  # noqa: F401  (fixtures)

from web.models import Image, Quota, Snapshot, Volume

IMAGES = "/image/v2/images"


@pytest.fixture
def server(storage, boot):  # noqa: F811
    """A server on a volume of an image, with another one beside it."""
    storage.host.snapshot_in_use = True
    storage.run()
    entries = [
        {"source_type": "image", "destination_type": "volume", "uuid": boot.image, "volume_size": 2, "boot_index": 0,
         "delete_on_termination": True, "tag": "system"},
        {"source_type": "blank", "destination_type": "volume", "volume_size": 1, "boot_index": -1},
    ]  # fmt: skip
    return boot(imageRef=None, block_device_mapping_v2=entries)


def act(storage, server, action, body=None, status=202, **options):  # noqa: F811
    path = f"{COMPUTE}/servers/{server}/action"
    answer = storage.cloud.post(path, {action: body}, **{"version": "2.96", **options})
    assert answer.status_code == status, answer.text
    return answer


def create_image(storage, server, **body) -> str:  # noqa: F811
    return act(storage, server, "createImage", {"name": "golden", **body}).json["image_id"]


def read_image(storage, image: str) -> dict:  # noqa: F811
    return storage.cloud.get(f"{IMAGES}/{image}").json


def test_an_image_of_snapshots_and_a_server_of_it(storage, boot, server):  # noqa: F811
    image = create_image(storage, server, metadata={"purpose": "test"})
    shown = read_image(storage, image)
    assert (shown["status"], shown["size"], shown["visibility"]) == ("active", 0, "private")
    assert (shown["disk_format"], shown["container_format"]) == (None, None)
    assert (shown["purpose"], shown["image_type"], shown["instance_uuid"]) == ("test", "snapshot", server)
    assert (shown["base_image_ref"], shown["root_device_name"], shown["bdm_v2"]) == (boot.image, "/dev/vda", "True")
    mapping = json.loads(shown["block_device_mapping"])
    assert [(one["device_name"], one["boot_index"], one["volume_size"], one["tag"]) for one in mapping] == [
        ("/dev/vda", 0, 2, "system"),
        ("/dev/vdb", None, 1, None),
    ]
    assert [one["delete_on_termination"] for one in mapping] == [True, False]
    view = show(storage, server)
    assert (view["status"], view["OS-EXT-STS:task_state"]) == ("ACTIVE", "image_snapshot")
    act(storage, server, "os-stop", status=409)
    snapshots = storage.call("GET", "/snapshots/detail")["snapshots"]
    assert {one["id"] for one in snapshots} == {one["snapshot_id"] for one in mapping}
    assert {one["name"] for one in snapshots} == {"snapshot for golden"}
    storage.run(4)
    assert show(storage, server)["OS-EXT-STS:task_state"] is None
    assert {one["status"] for one in storage.call("GET", "/snapshots/detail")["snapshots"]} == {"available"}
    actions = storage.cloud.get(f"{COMPUTE}/servers/{server}/os-instance-actions", version="2.96").json
    [made] = [one for one in actions["instanceActions"] if one["action"] == "createImage"]
    assert made["message"] is None
    assert storage.cloud.get(f"{IMAGES}/{image}/file").status_code == 204

    other = boot(imageRef=image)
    assert show(storage, other)["status"] == "ACTIVE"
    row = next(row for row in storage.host.documents[-1]["servers"] if row["id"] == other)
    assert row["image"] is None
    assert [(one["device"], one["boot_index"], one["size_gb"]) for one in row["volumes"]] == [
        ("vda", 0, 2),
        ("vdb", None, 1),
    ]
    with storage.cloud.database.read() as session:
        of = {session.get(Volume, one["volume"]).snapshot_id for one in row["volumes"]}
    assert of == {one["snapshot_id"] for one in mapping}
    assert read_server(storage.cloud, other).image_properties["purpose"] == "test"
    storage.cloud.delete(f"{COMPUTE}/servers/{other}")
    storage.run(6)
    assert storage.read_status(row["volumes"][0]["volume"]) is None, "it went with its server, as the mapping says"
    assert storage.read_status(row["volumes"][1]["volume"]) == "available"


def test_the_image_outlives_its_server(storage, boot, server):  # noqa: F811
    """A volume that would go with its server stays for its snapshot, and the image still boots."""
    image = create_image(storage, server)
    storage.run(4)
    [root, _] = show(storage, server)["os-extended-volumes:volumes_attached"]
    assert root["delete_on_termination"]
    storage.cloud.delete(f"{COMPUTE}/servers/{server}")
    storage.run(6)
    assert storage.read_status(root["id"]) == "available"
    other = boot(imageRef=image)
    assert show(storage, other)["status"] == "ACTIVE"


def test_what_a_request_says_counts_more(storage, boot, server):  # noqa: F811
    """A device of the request is in place of the image's of that name; its root is the root."""
    image = create_image(storage, server)
    storage.run(4)
    blank = {"source_type": "blank", "destination_type": "volume", "volume_size": 5, "device_name": "/dev/vdb"}
    other = boot(imageRef=image, block_device_mapping_v2=[blank])
    row = next(row for row in storage.host.documents[-1]["servers"] if row["id"] == other)
    assert [(one["device"], one["size_gb"]) for one in row["volumes"]] == [("vda", 2), ("vdb", 5)]
    root = {"source_type": "image", "destination_type": "volume", "uuid": boot.image, "volume_size": 3, "boot_index": 0}
    third = boot(imageRef=image, block_device_mapping_v2=[root])
    row = next(row for row in storage.host.documents[-1]["servers"] if row["id"] == third)
    assert [(one["device"], one["size_gb"]) for one in row["volumes"]] == [("vda", 3), ("vdb", 1)]


def test_a_backend_that_needs_time_wants_the_guest_stopped(storage, server):  # noqa: F811
    storage.host.snapshot_in_use = False
    storage.run()
    answer = act(storage, server, "createImage", {"name": "x"}, status=400)
    assert f"stop instance {server} first" in answer.text
    act(storage, server, "os-stop")
    storage.run()
    image = create_image(storage, server)
    view = show(storage, server)
    assert (view["status"], view["OS-EXT-STS:task_state"]) == ("SHUTOFF", "image_snapshot")
    act(storage, server, "os-start", status=409)
    storage.run(4)
    assert any(one.get("resting") for sent in storage.host.documents for one in sent["snapshots"])
    assert not any("resting" in one for one in storage.host.documents[-1]["snapshots"])
    act(storage, server, "os-start")
    storage.run()
    assert show(storage, server)["status"] == "ACTIVE"
    assert read_image(storage, image)["status"] == "active"


def test_snapshots_that_fail_are_told(storage, boot, server):  # noqa: F811
    image = create_image(storage, server)
    with storage.cloud.database.read() as session:
        ids = list(session.scalars(select(Snapshot.id)))
    storage.host.fail = dict.fromkeys(ids, "no room")
    storage.run(6)
    assert show(storage, server)["OS-EXT-STS:task_state"] is None
    actions = storage.cloud.get(f"{COMPUTE}/servers/{server}/os-instance-actions", version="2.96").json
    [made] = [one for one in actions["instanceActions"] if one["action"] == "createImage"]
    assert made["message"] == "Error: no room"
    answer = boot(400, imageRef=image)
    assert "of the image is error" in answer["badRequest"]["message"]


def test_who_may_and_how_many(storage, server):  # noqa: F811
    act(storage, server, "createImage", {"name": "x"}, status=403, user="reader")
    act(storage, server, "createImage", {"name": "x"}, status=404, user="other")
    act(storage, server, "createBackup", {"name": "x", "backup_type": "d", "rotation": 1}, status=400)
    answer = act(storage, server, "createImage", {"name": "x"}, version="2.1")
    assert "/images/" in answer.headers["Location"]
    storage.run(4)
    with storage.cloud.database.write.begin() as session:
        session.add(Quota(project_id=find_project(storage.cloud), resource="snapshots", limit=3))
    answer = act(storage, server, "createImage", {"name": "x"}, status=403)
    assert "SnapshotLimitExceeded" in answer.text


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("no json", "is no list of devices"),
        ("{}", "is no list of devices"),
        ('["x"]', "is no list of devices"),
        ('[{"source_type": "snapshot", "destination_type": "volume", "boot_index": 0}]', "uuid"),
        ('[{"source_type": "snapshot", "destination_type": "volume", "boot_index": 0, "snapshot_id": 7}]', "uuid"),
        ('[{"source_type": "blank", "destination_type": "volume", "boot_index": 0, "volume_size": 1}]', "to boot"),
        ('[{"source_type": "tape"}]', "block_device_mapping_v2/0"),
        ("[]", "Boot sequence"),
        ('[{"source_type": "volume", "volume_id": "x", "boot_index": 0}]', "another project's"),
    ],
)  # fmt: skip
def test_anybody_may_write_properties(storage, boot, mapping, said):  # noqa: F811
    """What is in an image's mapping is checked as what is in a request."""
    properties = {"bdm_v2": "True", "block_device_mapping": mapping}
    with storage.cloud.database.write.begin() as session:
        image = Image(name="x", status="active", size=0, visibility="public", properties=properties)
        session.add(image)
        session.flush()
        image_id = image.id
    assert said in boot(400, imageRef=image_id)["badRequest"]["message"]
    answer = storage.cloud.post("/volume/v3/volumes", {"volume": {"size": 1, "imageRef": image_id}})
    assert answer.status_code == 400
    assert "has no bytes" in answer.text
