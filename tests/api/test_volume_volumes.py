"""The Block Storage API: volumes, snapshots, types and attachments, with a storage host made of a dict."""

from __future__ import annotations

import jsonschema
import pytest
from compute_cloud import add_image
from sqlalchemy import select
from volume_calls import VOLUME, Storage

from web.app import create_app
from web.desired import build_document, read_rows
from web.desired.document import SCHEMA
from web.models import Host, Quota, Volume, VolumeAttachment

CONNECTOR = {"initiator": "iqn.1993-08.org.debian:01:abc", "host": "elsewhere", "ip": "192.0.2.9"}


@pytest.fixture
def storage(cloud):
    made = Storage(cloud)
    yield made
    made.worker.pool.shutdown()


def test_a_volume_is_made_shown_and_gone(storage):
    asked = storage.create(run=False, name="data", description="of one", metadata={"a": "b"})["volume"]
    assert (asked["status"], asked["size"], asked["name"]) == ("creating", 1, "data")
    storage.run()
    volume = storage.show(asked["id"])
    assert volume["status"] == "available"
    assert volume["metadata"] == {"a": "b"}
    assert volume["volume_type"] == "__DEFAULT__"
    assert volume["bootable"] == "false"
    assert [one["id"] for one in storage.call("GET", "/volumes")["volumes"]] == [volume["id"]]
    storage.call("DELETE", f"/volumes/{volume['id']}", status=202)
    assert storage.read_status(volume["id"]) == "deleting"
    storage.call("DELETE", f"/volumes/{volume['id']}", status=202)  # twice is once
    storage.run()
    assert storage.read_status(volume["id"]) is None
    assert storage.host.volumes == {}


def test_the_document_of_a_storage_host_is_valid(storage):
    volume = storage.create()
    storage.call("POST", "/snapshots", {"snapshot": {"volume_id": volume["id"]}}, 202)
    with storage.cloud.database.read() as session:
        document = build_document(read_rows(session, session.scalar(select(Host))), storage.cloud.settings)
    jsonschema.validate(document, SCHEMA)
    assert [row["id"] for row in document["volumes"]] == [volume["id"]]
    assert document["settings"]["storage"] == {"backend": "file", "portal": "127.0.0.1:3260"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"size": 0}, "size"),
        ({"size": "big"}, "size"),
        ({"size": None}, "size"),
        ({"sise": 1}, "sise"),
        ({"name": "n" * 256}, "name"),
        ({"metadata": {"k": "v" * 256}}, "metadata"),
        ({"multiattach": True}, "multiattach"),
        ({"availability_zone": "nowhere"}, "nowhere"),
        ({"imageRef": "5ff1a6e2-9a2c-4c3b-a6d7-0a4f3f6b7d11"}, "image"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(storage, body, words):
    answer = storage.cloud.post(f"{VOLUME}/volumes", {"volume": {"size": 1, **body}})
    assert answer.status_code == 400
    assert words in answer.get_json()["badRequest"]["message"]


def test_what_does_not_exist_is_404(storage):
    nothing = "5ff1a6e2-9a2c-4c3b-a6d7-0a4f3f6b7d11"
    for path in (f"/volumes/{nothing}", f"/snapshots/{nothing}", f"/types/{nothing}"):
        storage.call("GET", path, status=404)
    for body in ({"snapshot_id": nothing}, {"source_volid": nothing}, {"volume_type": "none"}):
        storage.call("POST", "/volumes", {"volume": {"size": 1, **body}}, 404)


def test_another_projects_volume_is_not_there(storage):
    volume = storage.create()
    for method in ("GET", "DELETE"):
        storage.call(method, f"/volumes/{volume['id']}", status=404, user="other")
    storage.call("POST", f"/volumes/{volume['id']}/action", {"os-extend": {"new_size": 2}}, 404, user="other")
    storage.call("POST", "/snapshots", {"snapshot": {"volume_id": volume["id"]}}, 404, user="other")
    attachment = {"attachment": {"volume_uuid": volume["id"], "connector": CONNECTOR}}
    storage.call("POST", "/attachments", attachment, 404, user="other", version="3.27")
    assert storage.call("GET", "/volumes", user="other")["volumes"] == []
    assert len(storage.call("GET", "/volumes?all_tenants=1", user="admin")["volumes"]) == 1


def test_quotas_are_counted_from_rows(storage):
    project = storage.show(storage.create()["id"])["os-vol-tenant-attr:tenant_id"]
    with storage.cloud.database.write.begin() as session:
        session.add(Quota(project_id=project, resource="volumes", limit=2))
        session.add(Quota(project_id=project, resource="gigabytes", limit=5))
    refused = storage.cloud.post(f"{VOLUME}/volumes", {"volume": {"size": 5}})
    assert refused.status_code == 403
    assert "gigabytes" in refused.get_json()["forbidden"]["message"]
    volume = storage.create(size=2)
    storage.create(status=403)
    storage.call("POST", f"/volumes/{volume['id']}/action", {"os-extend": {"new_size": 9}}, 403)
    storage.call("DELETE", f"/volumes/{volume['id']}", status=202)
    storage.run()
    storage.create()
    used = storage.call("GET", "/limits")["limits"]["absolute"]
    assert (used["totalVolumesUsed"], used["totalGigabytesUsed"]) == (2, 2)


def test_a_volume_of_an_image_waits_for_its_copy(storage):
    image = add_image(storage.cloud, name="tiny", virtual_size=3 << 30)
    storage.create(imageRef=image, size=2, status=400)
    made = storage.create(run=False, imageRef=image, size=3)["volume"]
    storage.host.copying.add(made["id"])
    storage.run()
    assert storage.read_status(made["id"]) == "downloading"
    storage.host.copying.clear()
    storage.run()
    volume = storage.show(made["id"])
    assert (volume["status"], volume["bootable"]) == ("available", "true")
    assert volume["volume_image_metadata"]["image_id"] == image
    sent = storage.host.documents[-1]
    assert sent["images"] == []  # it is whole: the image is needed no more
    assert any(row["id"] == image for document in storage.host.documents for row in document["images"])


def test_a_host_that_cannot_is_an_error_that_heals(storage):
    made = storage.create(run=False)["volume"]
    storage.host.fail[made["id"]] = "no space left on the pool"
    storage.run(5)
    assert storage.read_status(made["id"]) == "error"
    storage.host.fail.clear()
    storage.run()
    assert storage.read_status(made["id"]) == "available"


def test_a_volume_that_fits_nowhere_is_an_error_and_can_be_deleted(storage):
    with storage.cloud.database.write.begin() as session:
        project = session.scalar(select(Host))
        project.enabled = False
    made = storage.create(run=False)["volume"]
    assert made["status"] == "error"
    with storage.cloud.database.read() as session:
        assert "it is disabled" in session.get(Volume, made["id"]).fault_message
    storage.call("DELETE", f"/volumes/{made['id']}", status=202)
    assert storage.read_status(made["id"]) is None


def test_extend(storage):
    volume = storage.create()
    action = f"/volumes/{volume['id']}/action"
    storage.call("POST", action, {"os-extend": {"new_size": 1}}, 400)
    storage.call("POST", action, {"os-extend": {"new_size": 3}}, 202)
    assert storage.read_status(volume["id"]) == "extending"
    storage.call("POST", action, {"os-extend": {"new_size": 4}}, 400)
    storage.run()
    assert (storage.read_status(volume["id"]), storage.show(volume["id"])["size"]) == ("available", 3)


def test_snapshots_and_volumes_of_them(storage):
    volume = storage.create(size=2)
    body = {"snapshot": {"volume_id": volume["id"], "name": "s"}}
    snapshot = storage.call("POST", "/snapshots", body, 202)["snapshot"]
    assert snapshot["status"] == "creating"
    storage.create(snapshot_id=snapshot["id"], status=400)  # not before it is whole
    storage.run()
    assert storage.call("GET", f"/snapshots/{snapshot['id']}")["snapshot"]["status"] == "available"
    storage.create(snapshot_id=snapshot["id"], size=1, status=400)
    copy = storage.create(snapshot_id=snapshot["id"], size=None)
    assert (copy["size"], copy["status"]) == (2, "available")
    storage.call("DELETE", f"/volumes/{volume['id']}", status=400)  # it has a snapshot
    storage.call("DELETE", f"/volumes/{volume['id']}?cascade=true", status=202)
    storage.run()
    assert storage.read_status(volume["id"]) is None
    storage.call("GET", f"/snapshots/{snapshot['id']}", status=404)
    assert storage.read_status(copy["id"]) == "available"


def test_a_copy_of_a_volume(storage):
    volume = storage.create(size=2)
    copy = storage.create(source_volid=volume["id"], size=3)
    assert (copy["size"], copy["source_volid"]) == (3, volume["id"])
    wanted = [row for document in storage.host.documents for row in document["volumes"] if row["id"] == copy["id"]]
    assert wanted[0]["source"] == {"volume": volume["id"]}
    assert wanted[-1]["source"] is None  # once it is whole nobody looks at its source again


def test_an_attachment_for_a_host_outside(storage):
    volume = storage.create()
    body = {"attachment": {"volume_uuid": volume["id"], "connector": CONNECTOR}}
    storage.call("POST", "/attachments", body, 404, version="3.26")
    running = storage.run_meanwhile()
    made = storage.call("POST", "/attachments", body, version="3.44")["attachment"]
    running.join()
    info = made["connection_info"]
    assert info["target_iqn"] == f"iqn.2026-11.cloud.kumo:{made['id']}"
    assert (info["auth_method"], info["target_portal"], info["target_lun"]) == ("CHAP", "127.0.0.1:3260", 1)
    assert 12 <= len(info["auth_password"]) <= 16
    assert storage.read_status(volume["id"]) == "attaching"
    path = f"/attachments/{made['id']}"
    storage.call("POST", f"{path}/action", {"os-complete": None}, 204, version="3.44")
    assert storage.read_status(volume["id"]) == "in-use"
    storage.call("DELETE", f"/volumes/{volume['id']}", status=400)
    again = {"attachment": {"volume_uuid": volume["id"], "connector": CONNECTOR}}
    storage.call("POST", "/attachments", again, 400, version="3.44")
    assert storage.call("DELETE", path, version="3.44") == {"attachments": []}
    assert storage.read_status(volume["id"]) == "detaching"
    storage.run()
    assert storage.read_status(volume["id"]) == "available"
    storage.call("GET", path, status=404, version="3.44")


def test_a_volume_in_use_is_copied_where_that_is_of_one_moment(storage):
    volume = storage.create()
    running = storage.run_meanwhile()
    body = {"attachment": {"volume_uuid": volume["id"], "connector": CONNECTOR}}
    made = storage.call("POST", "/attachments", body, version="3.44")["attachment"]
    running.join()
    storage.call("POST", f"/attachments/{made['id']}/action", {"os-complete": None}, 204, version="3.44")
    refused = storage.create(source_volid=volume["id"], status=400)
    assert "must be available to be copied, is in-use" in refused["badRequest"]["message"]
    storage.host.snapshot_in_use = True
    storage.run()
    assert storage.create(source_volid=volume["id"])["status"] == "available"


def test_s14_credentials_are_of_one_attachment(storage):
    volume = storage.create()
    passwords = set()
    for _ in range(2):
        running = storage.run_meanwhile()
        body = {"attachment": {"volume_uuid": volume["id"], "connector": CONNECTOR}}
        made = storage.call("POST", "/attachments", body, version="3.44")["attachment"]
        running.join()
        passwords.add(made["connection_info"]["auth_password"])
        storage.call("DELETE", f"/attachments/{made['id']}", version="3.44")
        storage.run()
    assert len(passwords) == 2
    with storage.cloud.database.read() as session:
        assert session.scalars(select(VolumeAttachment)).all() == []


def test_a_reader_sees_no_credentials(storage):
    volume = storage.create()
    running = storage.run_meanwhile()
    body = {"attachment": {"volume_uuid": volume["id"], "connector": CONNECTOR}}
    made = storage.call("POST", "/attachments", body, version="3.44")["attachment"]
    running.join()
    storage.call("GET", f"/attachments/{made['id']}", status=403, user="reader", version="3.44")
    storage.call("GET", "/attachments/detail", status=403, user="reader", version="3.44")
    listed = storage.call("GET", "/attachments", user="reader", version="3.44")["attachments"]
    assert listed == [{"attachment_id": made["id"], "volume_id": volume["id"], "instance": None}]


def test_types(storage):
    body = {"volume_type": {"name": "fast", "extra_specs": {"volume_backend_name": "lvm"}}}
    storage.call("POST", "/types", body, 403)
    made = storage.call("POST", "/types", body, user="admin")["volume_type"]
    storage.call("POST", "/types", body, 409, user="admin")
    assert made["extra_specs"] == {"volume_backend_name": "lvm"}
    assert "extra_specs" not in storage.call("GET", f"/types/{made['id']}")["volume_type"]
    volume = storage.create(run=False, volume_type="fast")["volume"]
    assert volume["status"] == "error"  # no storage host has that backend
    storage.call("DELETE", f"/types/{made['id']}", status=400, user="admin")
    storage.call("DELETE", f"/volumes/{volume['id']}", status=202)
    storage.call("DELETE", f"/types/{made['id']}", status=202, user="admin")
    assert storage.call("GET", "/types/default")["volume_type"]["name"] == "__DEFAULT__"


def test_views_of_a_type_have_what_the_reference_s_have(storage):
    """A creation tells whose it is, a change not even that; QoS is told where a type is looked at."""
    shown = {"id", "name", "description", "is_public", "extra_specs"}
    made = storage.call("POST", "/types", {"volume_type": {"name": "seen"}}, user="admin")["volume_type"]
    assert set(made) == shown | {"os-volume-type-access:is_public"}
    one, body = f"/types/{made['id']}", {"volume_type": {"description": "words"}}
    assert set(storage.call("PUT", one, body, user="admin")["volume_type"]) == shown
    assert set(storage.call("GET", one, user="admin")["volume_type"]) == set(made) | {"qos_specs_id"}


def test_a_private_type_is_for_whom_it_is_granted(storage):
    body = {"volume_type": {"name": "ours", "os-volume-type-access:is_public": False}}
    made = storage.call("POST", "/types", body, user="admin")["volume_type"]
    storage.create(volume_type="ours", status=404)
    project = storage.show(storage.create()["id"])["os-vol-tenant-attr:tenant_id"]
    action = f"/types/{made['id']}/action"
    storage.call("POST", action, {"addProjectAccess": {"project": project}}, 202, user="admin")
    assert storage.create(volume_type="ours")["volume_type"] == "ours"
    assert "ours" not in [one["name"] for one in storage.call("GET", "/types", user="other")["volume_types"]]


def test_services_zones_and_pools(storage):
    service = storage.call("GET", "/os-services", user="admin")["services"][0]
    assert (service["binary"], service["state"], service["status"]) == ("cinder-volume", "up", "enabled")
    body = {"host": service["host"], "binary": "cinder-volume", "disabled_reason": "disks"}
    storage.call("PUT", "/os-services/disable-log-reason", body, user="admin")
    assert storage.call("GET", "/os-services", user="admin")["services"][0]["disabled_reason"] == "disks"
    assert storage.create(run=False)["volume"]["status"] == "error"
    storage.call("PUT", "/os-services/enable", {"host": service["host"]}, user="admin")
    zones = storage.call("GET", "/os-availability-zone")["availabilityZoneInfo"]
    assert zones == [{"zoneName": "nova", "zoneState": {"available": True}}]
    pool = storage.call("GET", "/scheduler-stats/get_pools?detail=True", user="admin")["pools"][0]
    assert pool["capabilities"]["total_capacity_gb"] == 100


def test_paging_sorting_and_filters(storage):
    for number in range(3):
        storage.create(run=False, name=f"v{number}")
    page = storage.call("GET", "/volumes?limit=2&sort=name:asc")
    assert [one["name"] for one in page["volumes"]] == ["v0", "v1"]
    marker = page["volumes_links"][0]["href"].partition("?")[2]
    assert [one["name"] for one in storage.call("GET", f"/volumes?{marker}")["volumes"]] == ["v2"]
    page = storage.call("GET", "/volumes?offset=1&limit=1&sort=name:asc")
    assert [one["name"] for one in page["volumes"]] == ["v1"]
    marker = page["volumes_links"][0]["href"].partition("?")[2]
    assert [one["name"] for one in storage.call("GET", f"/volumes?{marker}")["volumes"]] == ["v2"]
    storage.call("GET", "/volumes?offset=-1", status=400)
    assert len(storage.call("GET", "/volumes/detail?name=v1")["volumes"]) == 1
    storage.call("GET", "/volumes?sort=colour:asc", status=400)
    summary = storage.call("GET", "/volumes/summary", version="3.12")["volume-summary"]
    assert (summary["total_count"], summary["total_size"]) == (3, 3)


def test_the_volume_service_works_alone(storage):
    """`kumo serve --services identity,volume`: the same rows, no compute beside it."""
    alone = create_app(storage.cloud.settings, ["identity", "volume"], storage.cloud.database)
    storage.cloud.http = alone.test_client()
    with storage.cloud.database.write.begin() as session:
        session.scalar(select(Host)).roles = ["storage"]
    volume = storage.create()
    assert volume["status"] == "available"
    assert storage.host.documents[-1]["settings"]["hypervisor"] is False
    assert storage.cloud.get("/compute/v2.1/servers").status_code == 404


def test_there_are_no_extensions(storage):
    assert storage.call("GET", "/extensions") == {"extensions": []}


def test_versions_are_told_without_a_token(storage):
    for path in ("/volume/", "/volume/v3/"):
        version = storage.cloud.get(path, user=None).get_json()["versions"][0]
        assert (version["min_version"], version["version"]) == ("3.0", "3.44")
    assert storage.cloud.get(f"{VOLUME}/volumes", version="3.45").status_code == 406


def test_flags_and_image_metadata(storage):
    volume = storage.create()
    path = f"/volumes/{volume['id']}"
    storage.call("POST", f"{path}/action", {"os-set_bootable": {"bootable": True}})
    storage.call("POST", f"{path}/action", {"os-update_readonly_flag": {"readonly": True}}, 202)
    storage.call("POST", f"{path}/action", {"os-set_image_metadata": {"metadata": {"os": "debian"}}})
    shown = storage.show(volume["id"])
    assert (shown["bootable"], shown["metadata"]["readonly"]) == ("true", "True")
    assert shown["volume_image_metadata"] == {"os": "debian"}
    storage.call("POST", f"{path}/action", {"os-unset_image_metadata": {"key": "os"}})
    storage.call("POST", f"{path}/action", {"os-unset_image_metadata": {"key": "os"}}, 400)
    storage.call("POST", f"{path}/action", {"os-migrate": {}}, 400)
    storage.call("PUT", path, {"volume": {"name": "new", "description": None}})
    storage.call("POST", f"{path}/metadata", {"metadata": {"k": "v"}})
    assert storage.call("GET", f"{path}/metadata/k") == {"meta": {"k": "v"}}
    storage.call("DELETE", f"{path}/metadata/k")
    storage.call("DELETE", f"{path}/metadata/k", status=404)


def test_an_admin_resets_and_forces(storage):
    made = storage.create(run=False)["volume"]
    storage.host.fail[made["id"]] = "broken"
    storage.run(5)
    path = f"/volumes/{made['id']}/action"
    storage.call("POST", path, {"os-reset_status": {"status": "available"}}, 403)
    storage.call("POST", path, {"os-reset_status": {"status": "available"}}, 202, user="admin")
    assert storage.read_status(made["id"]) == "creating"  # computed, not set: it is not there
    storage.call("POST", path, {"os-force_delete": {}}, 202, user="admin")
    storage.host.fail.clear()
    storage.run()
    assert storage.read_status(made["id"]) is None
