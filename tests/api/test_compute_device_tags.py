"""Tags of NICs and disks: which versions have them, that each is once in a server, and where the document says them."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, add_network, boot, build_server, see_host
from sqlalchemy import select
from test_compute_interfaces import NETWORKING
from test_compute_states import build_server as build_document_server
from volume_calls import Storage

from web.desired import build_document, read_rows
from web.models import Flavor, Host

BLANK = {"source_type": "blank", "destination_type": "local"}


def post(cloud, body, version):
    return cloud.post(f"{COMPUTE}/servers", body, version=version)


def build(cloud, image, nic_tag=None, disk_tag=None) -> dict:
    nic = {"uuid": add_network(cloud), **({"tag": nic_tag} if nic_tag else {})}
    disk = {"source_type": "image", "destination_type": "local", "boot_index": 0, "uuid": image}
    disk |= {"tag": disk_tag} if disk_tag else {}
    return build_server(image, networks=[nic], block_device_mapping_v2=[disk])


@pytest.mark.parametrize(
    ("version", "nics", "disks"),
    [
        ("2.1", False, False), ("2.31", False, False), ("2.32", True, True), ("2.33", True, False),
        ("2.36", True, False), ("2.37", False, False), ("2.41", False, False), ("2.42", True, True),
        ("2.96", True, True),
    ],
)  # fmt: skip
def test_the_versions_that_have_them(cloud, version, nics, disks):
    image = add_image(cloud)
    for tags, known in (({"nic_tag": "lan"}, nics), ({"disk_tag": "root"}, disks), ({}, True)):
        answer = post(cloud, build(cloud, image, **tags), version)
        assert (answer.status_code == 202) == known, answer.text
        assert known or answer.status_code == 400


@pytest.mark.parametrize("tag", ["", "a,b", "a/b", "x" * 61, 7, None])
def test_wrong_ones(cloud, tag):
    image, net = add_image(cloud), add_network(cloud)
    body = build_server(image, networks=[{"uuid": net, "tag": tag}])
    assert post(cloud, body, "2.96").status_code == 400
    disk = {"source_type": "image", "destination_type": "local", "boot_index": 0, "uuid": image, "tag": tag}
    assert post(cloud, build_server(image, block_device_mapping_v2=[disk]), "2.96").status_code == 400


def test_one_device_each(cloud):
    image, net = add_image(cloud), add_network(cloud)
    twice = build_server(image, networks=[{"uuid": net, "tag": "a"}, {"uuid": net, "tag": "a"}])
    answer = post(cloud, twice, "2.96")
    assert answer.status_code == 400
    assert "networks/1/tag" in answer.text
    answer = post(cloud, build(cloud, image, "a", "a"), "2.96")
    assert answer.status_code == 400
    assert "Another device of this server has this tag" in answer.text


def test_they_are_in_the_document(cloud):
    """The NIC's with its port, the disks' with the server; a port that was there keeps the tag of its use."""
    image, net = add_image(cloud), add_network(cloud)
    with cloud.database.write.begin() as session:
        flavor = session.get(Flavor, "1")
        flavor.ephemeral_gb, flavor.swap_mb = 2, 64
    port = cloud.post(f"{NETWORKING}/ports", {"port": {"network_id": net}}).json["port"]["id"]
    root = {"source_type": "image", "destination_type": "local", "boot_index": 0, "uuid": image, "tag": "system"}
    blanks = [{**BLANK, "tag": "scratch"}, {**BLANK, "guest_format": "swap", "tag": "paging"}]
    nics = [{"uuid": net, "tag": "lan"}, {"port": port, "tag": "wan"}]
    server = boot(cloud, image, networks=nics, block_device_mapping_v2=[root, *blanks])
    row = build_document_server(cloud, server)
    assert row["disk_tags"] == {"root": "system", "ephemeral0": "scratch", "swap": "paging"}
    with cloud.database.read() as session:
        document = build_document(read_rows(session, session.scalar(select(Host))), cloud.settings, 1)
    assert sorted(one["tag"] for one in document["ports"]) == ["lan", "wan"]
    shown = cloud.get(f"{COMPUTE}/servers/{server}/os-interface", version="2.70").json["interfaceAttachments"]
    assert [one["tag"] for one in shown] == ["lan", "wan"]
    for tag, status in (("lan", 400), ("system", 400), ("dmz", 200)):
        body = {"interfaceAttachment": {"net_id": net, "tag": tag}}
        answer = cloud.post(f"{COMPUTE}/servers/{server}/os-interface", body, version="2.49")
        assert answer.status_code == status, answer.text
    path = f"{COMPUTE}/servers/{server}/os-interface/{port}"
    assert cloud.delete(path).status_code == 202
    see_host(cloud)
    body = {"interfaceAttachment": {"port_id": port, "tag": "wan"}}
    answer = cloud.post(f"{COMPUTE}/servers/{server}/os-interface", body, version="2.49")
    assert answer.status_code == 200, "free again with what had it"


def test_volumes_have_them_too(cloud):
    storage = Storage(cloud)
    storage.run()
    image = add_image(cloud)
    volume = storage.create()["id"]
    new = {"source_type": "blank", "destination_type": "volume", "volume_size": 1, "tag": "logs"}
    server = boot(
        cloud,
        image,
        see=False,
        block_device_mapping_v2=[
            {"source_type": "image", "destination_type": "local", "boot_index": 0, "uuid": image},
            new,
        ],
    )
    storage.run(5)
    path = f"{COMPUTE}/servers/{server}/os-volume_attachments"
    for tag, version, status in (("logs", "2.49", 400), ("data", "2.48", 400), ("data", "2.49", 200)):
        answer = cloud.post(path, {"volumeAttachment": {"volumeId": volume, "tag": tag}}, version=version)
        assert answer.status_code == status, answer.text
    storage.run(4)
    row = next(row for row in storage.host.documents[-1]["servers"] if row["id"] == server)
    assert [one["tag"] for one in row["volumes"]] == ["logs", "data"]
    shown = cloud.get(path, version="2.70").json["volumeAttachments"]
    assert [one["tag"] for one in shown] == ["logs", "data"]
