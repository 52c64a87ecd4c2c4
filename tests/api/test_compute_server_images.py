"""Images and backups of servers: what is refused, how one comes about, how it ends badly, and who may put its bytes."""

from __future__ import annotations

import threading
from datetime import timedelta

import jsonschema
import pytest
from ansible.module_utils.kumo.errors import KumoError
from ansible.module_utils.kumo.server_images import send
from compute_cloud import COMPUTE, find_project, read_server
from move_calls import Hosts, build_qcow2
from sqlalchemy import func, select, update
from werkzeug.serving import make_server

from web.desired.document import SCHEMA
from web.models import Host, Image, Quota, ServerImage, Volume, VolumeAttachment, now
from web.models.host_images import HEADER, build_signature, read_host_key

IMAGES = "/image/v2/images"
IMAGE = {"name": "copy"}
BACKUP = {"name": "copy", "backup_type": "daily", "rotation": 2}


@pytest.fixture
def hosts(cloud):
    return Hosts(cloud)


@pytest.fixture
def server(hosts):
    return hosts.boot()


def show(hosts, image: str) -> dict | None:
    answer = hosts.cloud.get(f"{IMAGES}/{image}", user="admin")
    return answer.json if answer.status_code == 200 else None


def ask(hosts, server: str, action: str = "createImage", body=None, **options) -> str:
    body = body or {"createImage": IMAGE, "createBackup": BACKUP}[action]
    answer = hosts.act(server, action, body, **options)
    assert answer.status_code == 202
    return answer.json["image_id"]


def count_rows(hosts) -> int:
    with hosts.cloud.database.read() as session:
        return session.scalar(select(func.count()).select_from(ServerImage))


def read_order(hosts, name: str = "a") -> dict | None:
    return hosts.fakes[name].documents[-1]["servers"][0].get("snapshot")


def put(hosts, order: dict, data: bytes | None = None, **headers):
    path = order["url"].removeprefix(hosts.cloud.settings.api.hosts_url)
    headers = {**order["headers"], "Content-Type": "application/octet-stream", **headers}
    return hosts.cloud.call("PUT", path, data or build_qcow2("x"), user=None, headers=headers)


def test_an_image_of_a_running_server(hosts, server):
    """Queued at once, made by the host step for step, active with the disk's bytes; the server goes on."""
    with hosts.cloud.database.write.begin() as session:
        session.get(Image, hosts.image).properties = {"os_distro": "cirros", "image_type": "x", "a": "base"}
        session.get(Image, hosts.image).min_ram = 64
    image = ask(hosts, server, body={"name": "copy", "metadata": {"a": "given", "b": "2", "image_type": "test"}})
    seen = show(hosts, image)
    project = find_project(hosts.cloud, "admin")
    assert {key: seen[key] for key in ("name", "status", "visibility", "owner", "disk_format", "container_format")} == {
        "name": "copy", "status": "queued", "visibility": "private", "owner": project, "disk_format": "qcow2",
        "container_format": "bare",
    }  # fmt: skip
    assert (seen["min_disk"], seen["min_ram"]) == (1, 64)
    assert {name: seen[name] for name in ("image_type", "image_location", "instance_uuid", "base_image_ref")} == {
        "image_type": "test", "image_location": "snapshot", "instance_uuid": server, "base_image_ref": hosts.image,
    }  # fmt: skip
    assert (seen["os_distro"], seen["a"], seen["b"], seen["owner_id"]) == ("cirros", "given", "2", project)
    assert hosts.where(server) == ("a", "ACTIVE", "image_snapshot_pending")
    hosts.act(server, "os-stop", expected=409)
    hosts.act(server, "createImage", IMAGE, expected=409)
    hosts.turn("a")
    jsonschema.validate(hosts.fakes["a"].documents[-1], SCHEMA)
    assert read_order(hosts)["image"] == image
    assert hosts.where(server) == ("a", "ACTIVE", "image_snapshot")
    hosts.fakes["a"].holding = {"uploaded"}
    hosts.turn("a")
    assert hosts.where(server) == ("a", "ACTIVE", "image_uploading")
    assert hosts.read_actions(server)[-1] == ("createImage", False, None)
    hosts.fakes["a"].holding = set()
    hosts.settle()
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert hosts.read_actions(server)[-1] == ("createImage", True, None)
    seen = show(hosts, image)
    assert (seen["status"], seen["virtual_size"], len(seen["os_hash_value"])) == ("active", 1 << 30, 128)
    assert b"what the guest wrote" in hosts.cloud.get(f"{IMAGES}/{image}/file", user="admin").data
    assert (count_rows(hosts), hosts.fakes["a"].snapshots) == (0, {})
    other = hosts.boot(imageRef=image)
    assert read_server(hosts.cloud, other).image_id == image


def test_other_states(hosts, server):
    """A stopped server stays SHUTOFF; a paused one PAUSED; in states that the reference does not name it is 409."""
    hosts.act(server, "os-stop")
    hosts.act(server, "createImage", IMAGE, expected=409)
    hosts.settle()
    image = ask(hosts, server)
    assert hosts.where(server) == ("a", "SHUTOFF", "image_snapshot_pending")
    hosts.act(server, "os-start", expected=409)
    hosts.settle()
    assert show(hosts, image)["status"] == "active"
    assert hosts.where(server) == ("a", "SHUTOFF", None)
    hosts.act(server, "os-start")
    hosts.settle()
    with hosts.cloud.database.write.begin() as session:
        session.execute(update(Host).values(next_run_at=now() + timedelta(hours=1)))
    for columns, status in (
        ({"vm_state": "paused"}, 202),
        ({"vm_state": "error"}, 409),
        ({"vm_state": "resized"}, 409),
    ):
        other = hosts.boot()
        with hosts.cloud.database.write.begin() as session:
            row = session.merge(read_server(hosts.cloud, other))
            row.vm_state = columns["vm_state"]
        hosts.act(other, "createImage", IMAGE, expected=status)
        hosts.act(other, "createBackup", BACKUP, expected=409)


def test_requests(hosts, server):
    """Versions, fields, other projects, locks, quotas: each refusal leaves nothing behind."""
    demo = hosts.boot()
    with hosts.cloud.database.write.begin() as session:
        session.merge(read_server(hosts.cloud, demo)).project_id = find_project(hosts.cloud)
    many = {"createImage": {"name": "x", "metadata": {f"k{n}": "" for n in range(129)}}}
    cases = [
        ({"createImage": {}}, {}, 400, "name"),
        ({"createImage": {"name": ""}}, {}, 400, "name"),
        ({"createImage": {"name": "x" * 256}}, {}, 400, "name"),
        ({"createImage": {"name": "x", "metadata": {"a": 1}}}, {}, 400, "metadata"),
        ({"createImage": {"name": "x", "metadata": {"id": "1"}}}, {}, 400, "metadata"),
        ({"createImage": {"name": "x", "metadata": {"os_glance_x": "1"}}}, {}, 400, "metadata"),
        ({"createImage": {"name": "x", "rotation": 1}}, {}, 400, "rotation"),
        (many, {"version": "2.38"}, 403, "metadata"),
        (many, {"version": "2.39"}, 400, "metadata"),
        ({"createBackup": {"name": "x", "backup_type": "daily"}}, {}, 400, "rotation"),
        ({"createBackup": {**BACKUP, "rotation": -1}}, {}, 400, "rotation"),
        ({"createBackup": {**BACKUP, "rotation": "x"}}, {}, 400, "rotation"),
        ({"createBackup": {"name": "x", "rotation": 1}}, {}, 400, "backup_type"),
        ({"createImage": IMAGE}, {"user": "other"}, 404, "could not be found"),
        ({"createBackup": BACKUP}, {"user": "other"}, 404, "could not be found"),
        ({"createImage": IMAGE}, {"user": "reader"}, 403, "create_image"),
        ({"createBackup": BACKUP}, {"user": "reader"}, 403, "create_backup"),
    ]  # fmt: skip
    for body, options, status, said in cases:
        answer = hosts.cloud.post(f"{COMPUTE}/servers/{demo}/action", body, **{"version": "2.96", **options})
        assert (answer.status_code, said in answer.text) == (status, True), (body, answer.text)
    hosts.act(demo, "lock", {})
    for action, body in (("createImage", IMAGE), ("createBackup", BACKUP)):
        hosts.act(demo, action, body, user="demo", expected=409)
    hosts.act(demo, "unlock")
    with hosts.cloud.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 1
    with hosts.cloud.database.write.begin() as session:
        session.add(Quota(project_id=find_project(hosts.cloud), resource="image", limit=0))
    assert "image" in hosts.act(demo, "createImage", IMAGE, user="demo", expected=403).text
    # Until 2.44 the image is named by a header alone.
    for number, (action, body) in enumerate((("createImage", IMAGE), ("createBackup", BACKUP))):
        answer = hosts.act(server, action, body, version="2.44" if number else "2.1", expected=202)
        where = answer.headers["Location"]
        assert not answer.data
        assert where.startswith(f"{hosts.cloud.settings.api.public_url}/image/v2/images/")
        assert show(hosts, where.rsplit("/", 1)[1])["status"] == "queued"
        hosts.settle()
    answer = hosts.act(server, "createBackup", {**BACKUP, "rotation": 0}, version="2.44", expected=202)
    assert "Location" not in answer.headers


def test_a_guest_on_a_volume_is_refused(hosts, server):
    with hosts.cloud.database.write.begin() as session:
        volume = Volume(project_id="p", user_id="u", size_gb=1)
        session.add(volume)
        session.flush()
        row = VolumeAttachment(
            volume_id=volume.id, project_id="p", server_id=server, boot_index=0, username="u", password="p"
        )
        session.add(row)
    assert "volume" in hosts.act(server, "createImage", IMAGE, expected=400).text
    assert "Backup is not supported" in hosts.act(server, "createBackup", BACKUP, expected=400).text


def test_backups_rotate(hosts, server):
    """The oldest of the type go once the newest is whole; other types, servers, and protected ones stay."""
    made = {}
    for name, kind in (("w", "weekly"), ("1", "daily"), ("2", "daily"), ("3", "daily")):
        made[name] = ask(hosts, server, "createBackup", {"name": name, "backup_type": kind, "rotation": 2})
        assert hosts.where(server)[2] == "image_backup"
        hosts.settle()
    assert [bool(show(hosts, made[name])) for name in "w123"] == [True, False, True, True]
    assert {show(hosts, made["3"])[name] for name in ("image_type", "backup_type")} == {"backup", "daily"}
    hosts.cloud.patch(
        f"{IMAGES}/{made['2']}", [{"op": "replace", "path": "/protected", "value": True}], user="admin",
        headers={"Content-Type": "application/openstack-images-v2.1-json-patch"},
    )  # fmt: skip
    none = ask(hosts, server, "createBackup", {"name": "0", "backup_type": "daily", "rotation": 0})
    hosts.settle()
    assert [bool(show(hosts, image)) for image in (made["w"], made["2"], made["3"], none)] == [True, True, False, False]


def test_failures_are_tried_again_and_then_told(hosts, server):
    """One failure is made good by the next attempt; four end it: no image, and the action says why."""
    fake, image = hosts.fakes["a"], ask(hosts, server)
    fake.broken = {"uploaded": "no route to host"}
    hosts.turn("a")
    hosts.turn("a")
    fake.broken = {}
    hosts.settle()
    assert show(hosts, image)["status"] == "active"
    assert fake.documents[-2]["servers"][0]["snapshot"]["attempt"] == 2
    fake.broken = {"copying": "no space left"}
    image = ask(hosts, server)
    hosts.settle()
    assert show(hosts, image) is None
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert hosts.read_actions(server)[-1] == ("createImage", True, "Error: no space left")
    assert (count_rows(hosts), fake.snapshots) == (0, {})


def test_it_ends_with_its_deadline_its_image_its_server_or_its_server_s_place(hosts):
    """Whatever takes its ground away, it ends, and nothing is left of it."""
    fake = hosts.fakes["a"]
    fake.holding = {"uploaded"}

    def begin():
        server = hosts.boot()
        image = ask(hosts, server)
        hosts.turn("a")
        hosts.turn("a")
        assert hosts.where(server)[2] == "image_uploading"
        return server, image

    def ended(server, message):
        assert (count_rows(hosts), read_server(hosts.cloud, server).image_task) == (0, None)
        assert hosts.read_actions(server)[1][:2] == ("createImage", True)
        assert message in hosts.read_actions(server)[1][2]
        hosts.settle()
        assert fake.snapshots == {}

    server, image = begin()
    with hosts.cloud.database.write.begin() as session:
        session.execute(update(ServerImage).values(progressed_at=now() - timedelta(hours=1)))
    fake.down = "unreachable"
    hosts.worker.run_once(hosts.read_hosts()["a"].id)
    fake.down = None
    ended(server, "deadline")
    assert show(hosts, image) is None

    server, image = begin()
    assert hosts.cloud.delete(f"{IMAGES}/{image}", user="admin").status_code == 204
    ended(server, "Error")

    server, image = begin()
    order = next(row["snapshot"] for row in fake.documents[-1]["servers"] if row["id"] == server)
    assert hosts.cloud.delete(f"{COMPUTE}/servers/{server}", user="admin").status_code == 204
    assert show(hosts, image) is None
    assert put(hosts, order).status_code == 404
    ended(server, "deleted")

    server, image = begin()
    with hosts.cloud.database.write.begin() as session:
        session.merge(read_server(hosts.cloud, server)).host_id = session.scalar(
            select(Host.id).where(Host.name == "b")
        )
    hosts.worker.run_once(hosts.read_hosts()["b"].id)
    assert show(hosts, image) is None
    assert "another host" in hosts.read_actions(server)[1][2]


def test_who_may_put_its_bytes(hosts, server):
    """Only its host, with the upload's own signature, and only while it waits; what is no qcow2 is no image."""
    fake, image = hosts.fakes["a"], ask(hosts, server)
    fake.holding = {"uploaded"}
    hosts.turn("a")
    order = read_order(hosts)
    key = read_host_key(hosts.cloud.settings)
    host = hosts.read_hosts()["a"].id
    other = hosts.read_hosts()["b"].id
    assert put(hosts, order, **{HEADER: build_signature(key, host, image)}).status_code == 404
    assert put(hosts, order, **{HEADER: ""}).status_code == 404
    assert put(hosts, {**order, "url": order["url"].replace(host, other)}).status_code == 404
    assert put(hosts, {**order, "url": order["url"].replace(image, hosts.image)}).status_code == 404
    get = hosts.cloud.get(
        order["url"].removeprefix(hosts.cloud.settings.api.hosts_url), user=None, headers=order["headers"]
    )
    assert get.status_code == 404
    assert put(hosts, order, b"no image at all" * 100).status_code == 415
    bad = build_qcow2("x")
    bad = bad[:8] + (512).to_bytes(8, "big") + (11).to_bytes(4, "big") + bad[20:]
    assert put(hosts, order, bad[:512] + b"/etc/shadow" + bad[523:]).status_code == 415, "a backing file"
    assert show(hosts, image)["status"] == "queued"
    assert hosts.where(server)[2] == "image_snapshot"
    assert put(hosts, order).status_code == 204
    assert show(hosts, image)["status"] == "active"
    assert hosts.where(server) == ("a", "ACTIVE", None), "known at once, before the host's next run"
    assert put(hosts, order).status_code == 404
    hosts.settle()
    assert fake.snapshots == {}


def test_the_host_s_own_code_sends_it(hosts, server, tmp_path):
    """Over a real socket: what `module_utils` puts is what the API takes; and the API's reason reaches the host."""
    image = ask(hosts, server)
    hosts.fakes["a"].holding = {"copying"}
    hosts.turn("a")
    order, path = read_order(hosts), tmp_path / "copy"
    path.write_bytes(build_qcow2("x" * (3 << 20)))
    http = make_server("127.0.0.1", 0, hosts.cloud.app, threaded=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        base = f"http://127.0.0.1:{http.server_port}"
        order = {**order, "url": order["url"].replace(hosts.cloud.settings.api.hosts_url, base)}
        (tmp_path / "bad").write_bytes(b"no image at all" * 1000)
        with pytest.raises(KumoError, match=r"answered 415.*qcow2"):
            send(order, tmp_path / "bad", lambda *_: None)
        send(order, path, lambda *_: None)
    finally:
        http.shutdown()
        http.server_close()
        thread.join(10)
    assert show(hosts, image)["size"] == path.stat().st_size
    assert hosts.where(server)[2] is None
