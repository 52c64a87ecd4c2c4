"""Imports: staged bytes and web addresses become images; what is refused, and what a killed worker leaves."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest
from sqlalchemy import update

from web import image_sources
from web.errors import Problem
from web.image_cleanup import remove_unneeded
from web.image_imports import Imports
from web.image_staging import build_staged, list_staged
from web.image_store import Upload, list_images
from web.models import Image, ImageTask, now

IMAGES = "/image/v2/images"
JSON = {"Accept": "application/json"}
BINARY = {"Content-Type": "application/octet-stream", "Accept": "application/json"}
WEB = {"method": {"name": "web-download", "uri": "http://mirror.example/i"}}
DIRECT = {"method": {"name": "glance-direct"}}
BYTES = b"bytes of an image" * 100


@pytest.fixture
def imports(cloud):
    one = Imports(cloud.settings, cloud.database, threading.Event(), lambda: None)
    yield one
    one.pool.shutdown()


@pytest.fixture
def web(cloud, monkeypatch):
    """A server on this machine under the name mirror.example, in a range that imports may use."""

    class Web(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answers.setdefault("asked", []).append(self.path)
            status, headers, body = answers[self.path.partition("?")[0]]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answers = {"/i": (200, {"Content-Length": str(len(BYTES))}, BYTES), "port": server.server_port}
    cloud.settings.image.import_ports = ["80", str(server.server_port)]
    cloud.settings.image.import_networks = ["127.0.0.0/8"]
    monkeypatch.setattr(image_sources, "resolve", lambda host, port: ["127.0.0.1"])
    yield answers
    server.shutdown()
    server.server_close()


def make(cloud, disk_format="raw", user="demo", **more):
    answer = cloud.post(IMAGES, {"disk_format": disk_format, "container_format": "bare", **more}, user=user)
    assert answer.status_code == 201, answer.text
    assert answer.headers["OpenStack-image-import-methods"] == "glance-direct,web-download"
    return answer.json["id"]


def stage(cloud, image_id, data=BYTES, **options):
    return cloud.call("PUT", f"{IMAGES}/{image_id}/stage", data, headers=BINARY, **options)


def ask(cloud, image_id, body, **options):
    return cloud.post(f"{IMAGES}/{image_id}/import", body, headers=JSON, **options)


def show(cloud, image_id):
    return cloud.get(f"{IMAGES}/{image_id}").json


def tasks(cloud, image_id):
    return cloud.get(f"{IMAGES}/{image_id}/tasks").json["tasks"]


def finish(imports):
    imports.step()
    for future in list(imports.active.values()):
        future.result(30)
    imports.step()


def test_staged_bytes_become_the_image(cloud, imports):
    image_id = make(cloud)
    assert ask(cloud, image_id, DIRECT).status_code == 409  # nothing is staged
    assert stage(cloud, image_id).status_code == 204
    image = show(cloud, image_id)
    assert (image["status"], image["size"]) == ("uploading", len(BYTES))
    assert cloud.get(f"{IMAGES}/{image_id}/file").status_code == 204
    assert stage(cloud, image_id).status_code == 409
    assert cloud.call("PUT", f"{IMAGES}/{image_id}/file", BYTES, headers=BINARY).status_code == 409
    assert ask(cloud, image_id, WEB).status_code == 409
    assert ask(cloud, image_id, {**DIRECT, "stores": ["files"]}).status_code == 202
    image = show(cloud, image_id)
    assert (image["status"], image["os_glance_importing_to_stores"]) == ("importing", "files")
    assert ask(cloud, image_id, DIRECT).status_code == 409
    assert remove_unneeded(cloud.database, cloud.settings.image.store_dir) == []
    finish(imports)
    image = show(cloud, image_id)
    assert (image["status"], image["os_hash_value"]) == ("active", hashlib.sha512(BYTES).hexdigest())
    assert image["stores"] == "files"
    assert (image["os_glance_importing_to_stores"], image["os_glance_failed_import"]) == ("", "")
    assert cloud.get(f"{IMAGES}/{image_id}/file").data == BYTES
    assert list_staged(cloud.settings.image.store_dir) == []
    (task,) = tasks(cloud, image_id)
    assert (task["status"], task["type"], task["result"]) == ("success", "api_image_import", {"image_id": image_id})


def test_a_web_address_becomes_the_image(cloud, imports, web):
    """Through a redirect; the name in the request is the address's own; the query is in no message."""
    port = web["port"]
    web["/first"] = (302, {"Location": f"http://mirror.example:{port}/i?key=hidden"}, b"")
    web["/loop"] = (302, {"Location": "/loop"}, b"")
    web["/short"] = (200, {"Content-Length": "99999"}, BYTES)
    web["/big"] = (200, {"Content-Length": str(1 << 50)}, b"")
    web["/packed"] = (200, {"Content-Encoding": "gzip"}, BYTES)
    web["/gone"] = (404, {}, b"")
    web["/inward"] = (302, {"Location": f"http://169.254.169.254:{port}/latest"}, b"")
    web["/file"] = (302, {"Location": "file:///etc/passwd"}, b"")
    web["/elsewhere"] = (302, {"Location": "http://mirror.example:22/"}, b"")
    web["/qcow2"] = (200, {}, b"QFI\xfb\x00\x00\x00\x03" + bytes(600))
    table = [
        ("i", None), ("first", None), ("loop", "redirects"), ("short", "ended after"), ("big", "larger"),
        ("packed", "encoding"), ("gone", "404"), ("inward", "public network"), ("file", "scheme"),
        ("elsewhere", "port"), ("qcow2", "refused as disk_format raw"),
    ]  # fmt: skip
    made = []
    for path, sentence in table:
        image_id = make(cloud)
        uri = f"http://mirror.example:{port}/{path}?key=hidden"
        assert ask(cloud, image_id, {"method": {"name": "web-download", "uri": uri}}).status_code == 202
        made.append((image_id, path, sentence))
    for _ in table:
        finish(imports)
    for image_id, path, sentence in made:
        image, (task,) = show(cloud, image_id), tasks(cloud, image_id)
        if sentence is None:
            assert (image["status"], image["size"], task["status"]) == ("active", len(BYTES), "success"), path
            continue
        assert (image["status"], image["os_glance_failed_import"], image["size"]) == ("queued", "files", None), path
        assert task["status"] == "failure", path
        assert sentence in task["message"], path
        assert "hidden" not in task["message"], path
    active = sorted(image_id for image_id, _, sentence in made if sentence is None)
    assert list_images(cloud.settings.image.store_dir) == active
    image_id = made[-1][0]  # what has failed can be tried again
    assert stage(cloud, image_id).status_code == 204
    assert ask(cloud, image_id, DIRECT).status_code == 202
    finish(imports)
    image = show(cloud, image_id)
    assert (image["status"], image["os_glance_failed_import"]) == ("active", "")


REFUSED = [
    ({}, 400, "method"),
    ({"method": {}}, 400, "name"),
    ({"method": {"name": "copy-image"}, "all_stores": True}, 400, "copy-image"),
    ({"method": {"name": "glance-download"}}, 400, "glance-download"),
    ({"method": {"name": "web-download"}}, 400, "URI"),
    ({**WEB, "stores": ["other"]}, 409, "other"),
    ({**WEB, "stores": ["files"], "all_stores": True}, 400, "stores"),
    ({**WEB, "more": 1}, 400, "more"),
    *(
        ({"method": {"name": "web-download", "uri": uri}}, 400, "filtering")
        for uri in (
            "file:///etc/passwd", "ftp://example.org/i", "http://example.org:22/i", "http:///i", "example.org/i",
            "http://user:word@example.org/i", "http://example.org:x/i", "http://127.0.0.1/i", "http://[::1]/i",
            "http://169.254.169.254/latest/meta-data", "http://[::ffff:10.0.0.1]/i", "http://example.org/a b",
        )
    ),
]  # fmt: skip


def test_what_is_refused_at_once(cloud):
    image_id = make(cloud)
    for body, status, named in REFUSED:
        answer = ask(cloud, image_id, body)
        assert answer.status_code == status, (body, answer.text)
        assert named in answer.json["message"], (body, answer.text)
    assert (show(cloud, image_id)["status"], tasks(cloud, image_id)) == ("queued", [])
    bare = cloud.post(IMAGES, {}).json["id"]
    assert "disk_format" in ask(cloud, bare, WEB).json["message"]
    for call in (stage, lambda cloud, image_id, **options: ask(cloud, image_id, DIRECT, **options)):
        assert call(cloud, image_id, user="other").status_code == 404
        assert call(cloud, image_id, user="reader").status_code == 403
    assert cloud.call("PUT", f"{IMAGES}/{image_id}/stage", BYTES, headers=JSON).status_code == 415
    cloud.settings.image.max_size_bytes = 10
    assert stage(cloud, image_id).status_code == 413
    assert show(cloud, image_id)["status"] == "queued"
    cloud.settings.image.import_methods = ["glance-direct"]
    assert ask(cloud, image_id, WEB).status_code == 400
    cloud.settings.image.import_methods = []
    assert ask(cloud, image_id, DIRECT).status_code == 404
    assert stage(cloud, image_id).status_code == 404


PRIVATE = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.24.4.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1",
    "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1", "2002:a00:1::1", "2001:db8::1",
]  # fmt: skip


def test_s24_addresses_that_are_nobodys_to_fetch_from(cloud, monkeypatch):
    """Whatever the notation, and though only one of a name's addresses is private; nothing is connected to."""
    connected = []
    monkeypatch.setattr(image_sources.socket, "create_connection", lambda address, timeout: connected.append(address))
    for address in PRIVATE:
        assert not image_sources.is_public(address), address
        monkeypatch.setattr(image_sources, "resolve", lambda host, port, one=address: ["9.9.9.9", one])
        with pytest.raises(Problem, match="public network"):
            list(image_sources.read_web("http://mirror.example/i", cloud.settings, 1000))
    for address in ("9.9.9.9", "2620:fe::fe", "::ffff:9.9.9.9", "64:ff9b::909:909"):
        assert image_sources.is_public(address), address
    monkeypatch.setattr(image_sources, "is_public", lambda address: True)
    with pytest.raises(Problem, match="public network"):  # an address of this machine itself
        list(image_sources.read_web("http://127.0.0.1/i", cloud.settings, 1000))
    assert connected == []


def test_s24_the_address_that_was_checked_is_the_one_that_is_used(cloud, web, monkeypatch):
    """A name that means something else at its second look-up: there is none."""
    looked = iter([["127.0.0.1"]])
    monkeypatch.setattr(image_sources, "resolve", lambda host, port: next(looked))
    uri = f"http://mirror.example:{web['port']}/i"
    assert b"".join(image_sources.read_web(uri, cloud.settings, 1 << 20)) == BYTES


def test_a_download_has_an_end(cloud, web, monkeypatch):
    """A server that drips is cut at the deadline, also where the body has no length."""
    cloud.settings.image.import_timeout_s = 0.3
    gate = threading.Event()

    web["/slow"] = (200, {}, b"")
    original = http.server.BaseHTTPRequestHandler.end_headers

    def end_headers(self):
        original(self)
        self.wfile.write(b"some")
        self.wfile.flush()
        gate.wait(10)

    monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "end_headers", end_headers)
    uri = f"http://mirror.example:{web['port']}/slow?key=hidden"
    with pytest.raises(Problem, match="longer than"):
        list(image_sources.read_web(uri, cloud.settings, 1 << 20))
    gate.set()


def test_a_killed_worker_leaves_nothing_half_made(cloud, imports):
    """The next look takes the import up again, and gives up after three; an orderly end is no attempt."""
    image_id = make(cloud)
    stage(cloud, image_id)
    assert ask(cloud, image_id, DIRECT).status_code == 202
    (task_id,) = [task["id"] for task in tasks(cloud, image_id)]
    imports.stopping.set()
    imports.run(task_id)
    imports.stopping.clear()

    def look():
        with cloud.database.read() as session:
            return session.get(ImageTask, task_id)

    assert (look().status, look().attempts, show(cloud, image_id)["status"]) == ("processing", 0, "importing")
    held = Upload(cloud.settings.image.store_dir, image_id, "somebody-else", "raw", 1 << 20)
    with cloud.database.write.begin() as session:
        session.execute(update(Image).where(Image.id == image_id).values(upload_id="somebody-else"))
    finish(imports)  # another worker is at it: nothing is done
    assert (look().attempts, show(cloud, image_id)["status"]) == (0, "importing")
    held._file.close()  # it is killed: its part file stays, unlocked
    with cloud.database.write.begin() as session:
        session.execute(update(ImageTask).values(attempts=2))
    finish(imports)
    assert (look().status, look().attempts, show(cloud, image_id)["status"]) == ("success", 3, "active")

    image_id = make(cloud)
    stage(cloud, image_id)
    ask(cloud, image_id, DIRECT)
    with cloud.database.write.begin() as session:
        session.execute(update(ImageTask).where(ImageTask.image_id == image_id).values(attempts=3))
    finish(imports)
    assert "3 times" in tasks(cloud, image_id)[0]["message"]
    assert show(cloud, image_id)["os_glance_failed_import"] == "files"
    assert not build_staged(cloud.settings.image.store_dir, image_id).exists()


def test_deleted_meanwhile(cloud, imports):
    """Staged bytes go with their image, and its import ends; tasks that ended go after two days."""
    image_id, other = make(cloud), make(cloud)
    for one in (image_id, other):
        stage(cloud, one)
    ask(cloud, image_id, DIRECT)
    for one in (image_id, other):
        assert cloud.delete(f"{IMAGES}/{one}").status_code == 204
    assert list_staged(cloud.settings.image.store_dir) == []
    finish(imports)
    found = cloud.get("/image/v2/tasks", user="admin").json["tasks"]
    assert [task["status"] for task in found] == ["failure"]
    shown = cloud.get(f"/image/v2/tasks/{found[0]['id']}", user="admin").json
    assert "deleted" in shown["message"]
    with cloud.database.write.begin() as session:
        session.execute(update(ImageTask).values(expires_at=now()))
    imports.prune()
    assert cloud.get("/image/v2/tasks", user="admin").json["tasks"] == []
    assert list_images(cloud.settings.image.store_dir) == []


def test_tasks(cloud, imports, web):
    """The older way to import, for admins: image and task at once."""
    given = {"disk_format": "raw", "container_format": "bare", "name": "t", "protected": "true"}
    body = {"type": "import", "input": {"import_from": f"http://mirror.example:{web['port']}/i",
                                        "import_from_format": "raw", "image_properties": given}}  # fmt: skip
    assert cloud.post("/image/v2/tasks", body).status_code == 403
    answer = cloud.post("/image/v2/tasks", body, user="admin")
    assert (answer.status_code, answer.json["status"], answer.json["result"]) == (201, "pending", None)
    finish(imports)
    task = cloud.get(f"/image/v2/tasks/{answer.json['id']}", user="admin").json
    assert task["status"] == "success"
    image = cloud.get(f"{IMAGES}/{task['result']['image_id']}", user="admin").json
    assert (image["name"], image["protected"], image["status"]) == ("t", True, "active")
    for query, number in (("?status=success", 1), ("?status=failure", 0), ("?type=import&limit=1", 1)):
        found = cloud.get(f"/image/v2/tasks{query}", user="admin").json
        assert (len(found["tasks"]), found["schema"]) == (number, "/v2/schemas/tasks"), query
    assert cloud.get("/image/v2/tasks").status_code == 403
    assert cloud.get("/image/v2/tasks/none", user="admin").status_code == 404
    for changes in ({"type": "export"}, {"input": {}}, {"input": {**body["input"], "import_from": "file:///x"}},
                    {"input": {**body["input"], "image_properties": {"disk_format": "floppy"}}}):  # fmt: skip
        assert cloud.post("/image/v2/tasks", {**body, **changes}, user="admin").status_code == 400, changes


def test_an_image_made_for_its_task_goes_where_that_fails(cloud, imports, web):
    web["/gone"] = (404, {}, b"")
    given = {"disk_format": "raw", "container_format": "bare", "name": "t", "visibility": "public"}
    asked = {"import_from": f"http://mirror.example:{web['port']}/gone", "image_properties": given}
    task_id = cloud.post("/image/v2/tasks", {"type": "import", "input": asked}, user="admin").json["id"]
    assert [one["name"] for one in cloud.get(IMAGES).json["images"]] == ["t"]
    finish(imports)
    task = cloud.get(f"/image/v2/tasks/{task_id}", user="admin").json
    assert (task["status"], task["result"]) == ("failure", None)
    assert "404" in task["message"]
    assert task["expires_at"] > task["updated_at"]
    assert cloud.get(IMAGES).json["images"] == []
    assert cloud.get("/image/v2/info/usage", user="admin").json["usage"]["image_count_total"]["usage"] == 0
