"""Images' bytes: in and out, what is refused by its content, and what is left after a failure."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import threading

import pytest
from sqlalchemy import select

from web.image_store import Upload, build_path, is_abandoned
from web.models import Flavor, Host, Image, Server, User, now
from web.resources.image.images import remove_unneeded

IMAGES = "/image/v2/images"
BINARY = {"Content-Type": "application/octet-stream", "Accept": "application/json"}


def make(cloud, disk_format="raw", **more):
    answer = cloud.post(IMAGES, {"name": "i", "disk_format": disk_format, "container_format": "bare", **more})
    assert answer.status_code == 201, answer.text
    return answer.json["id"]


def put(cloud, image_id, data, user="demo", **options):
    return cloud.call("PUT", f"{IMAGES}/{image_id}/file", data, user=user, headers=BINARY, **options)


def show(cloud, image_id):
    return cloud.get(f"{IMAGES}/{image_id}").json


def list_store(cloud):
    store = cloud.settings.image.store_dir
    return sorted(os.listdir(store)) if os.path.isdir(store) else []


@pytest.fixture
def build(tmp_path):
    """Bytes of an image made by qemu-img: ``build("qcow2", "-o", "data_file=…")``."""

    def run(disk_format, *options, size="1M"):
        path = tmp_path / f"made.{disk_format}"
        command = ["qemu-img", "create", "-q", "-f", disk_format, *options, str(path), size]
        subprocess.run(command, check=True, cwd=tmp_path, timeout=60)
        return path.read_bytes()

    return run


def test_round_trip(cloud, build):
    """Bytes out are bytes in, with sums and sizes; the file is the service's alone to write."""
    data = build("qcow2", size="64M")
    image_id = make(cloud, "qcow2")
    assert cloud.get(f"{IMAGES}/{image_id}/file").status_code == 204
    assert put(cloud, image_id, data).status_code == 204
    image = show(cloud, image_id)
    assert image["status"] == "active"
    assert image["size"] == len(data)
    assert image["virtual_size"] == 64 << 20
    assert image["checksum"] == hashlib.md5(data).hexdigest()
    assert image["os_hash_algo"] == "sha512"
    assert image["os_hash_value"] == hashlib.sha512(data).hexdigest()
    answer = cloud.get(f"{IMAGES}/{image_id}/file")
    assert answer.data == data
    assert answer.headers["Content-MD5"] == image["checksum"]
    assert answer.headers["Content-Length"] == str(len(data))
    assert answer.content_type == "application/octet-stream"
    assert list_store(cloud) == [image_id]
    mode = stat.S_IMODE(build_path(cloud.settings.image.store_dir, image_id).stat().st_mode)
    assert mode == 0o640
    assert put(cloud, image_id, data).status_code == 409
    assert cloud.get(f"{IMAGES}/{image_id}/file").data == data


def test_chunked(cloud):
    """A body of unknown length is taken whole."""
    image_id = make(cloud)
    data = os.urandom(3 << 20)
    options = {
        "input_stream": io.BytesIO(data),
        "environ_overrides": {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    }
    assert put(cloud, image_id, None, **options).status_code == 204
    assert cloud.get(f"{IMAGES}/{image_id}/file").data == data


RANGES = [
    ("bytes=0-9", 206, slice(0, 10), "bytes 0-9/1000"),
    ("bytes=990-", 206, slice(990, 1000), "bytes 990-999/1000"),
    ("bytes=-10", 206, slice(990, 1000), "bytes 990-999/1000"),
    ("bytes=990-5000", 206, slice(990, 1000), "bytes 990-999/1000"),
    ("bytes=1000-", 416, None, "bytes */1000"),
    ("bytes=0-1,3-4", 200, slice(None), None),
    ("lines=0-1", 200, slice(None), None),
]


@pytest.mark.parametrize(("given", "status", "part", "header"), RANGES)
def test_ranges(cloud, given, status, part, header):
    """RFC 9110: one range is served, several or unknown ones are ignored."""
    data = os.urandom(1000)
    image_id = make(cloud)
    put(cloud, image_id, data)
    answer = cloud.get(f"{IMAGES}/{image_id}/file", headers={"Range": given})
    assert answer.status_code == status
    assert answer.headers.get("Content-Range") == header
    if part is not None:
        assert answer.data == data[part]


def make_backing(build, tmp_path):
    (tmp_path / "base").write_bytes(bytes(1 << 20))
    return build("qcow2", "-F", "raw", "-b", str(tmp_path / "base"))


def make_data_file(build, tmp_path):
    return build("qcow2", "-o", f"data_file={tmp_path}/outside")


def make_flat(build, tmp_path):
    return b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 100 FLAT "/etc/passwd" 0\n'


def make_qcow2(build, tmp_path):
    return build("qcow2")


def make_short_qcow2(build, tmp_path):
    return build("qcow2")[:112]


def make_vmdk(build, tmp_path):
    return build("vmdk")


def make_zeros(build, tmp_path):
    return bytes(1 << 20)


def make_iso(build, tmp_path):
    return bytes(32768) + b"\x01CD001\x01" + bytes(4096)


HOSTILE = [
    ("s01", "qcow2", make_backing, "backing_file"),
    ("s02", "qcow2", make_data_file, "data_file"),
    ("s03", "vmdk", make_flat, "descriptor"),
    ("s04", "raw", make_qcow2, "qcow2"),
    ("s04", "raw", make_short_qcow2, "qcow2"),
    ("s04", "raw", make_vmdk, "vmdk"),
    ("s04", "raw", make_flat, "vmdk"),
    ("s04", "raw", make_iso, "iso"),
    ("s04", "ami", make_qcow2, "qcow2"),
    ("s04", "qcow2", make_zeros, "qcow2"),
    ("s04", "iso", make_qcow2, "iso"),
    ("s04", "vhd", make_qcow2, "vhd"),
]


@pytest.mark.parametrize(("case", "disk_format", "maker", "named"), HOSTILE)
def test_s01_s02_s03_s04_content_is_refused(cloud, build, tmp_path, case, disk_format, maker, named):
    """OSSA-2024-002, 2024-001, 2023-002: refused by content, nothing stays, and a good upload still works."""
    image_id = make(cloud, disk_format)
    answer = put(cloud, image_id, maker(build, tmp_path))
    assert answer.status_code == 415, answer.text
    assert named in answer.json["message"]
    assert show(cloud, image_id)["status"] == "queued"
    assert show(cloud, image_id)["size"] is None
    assert list_store(cloud) == []
    if disk_format == "qcow2":
        assert put(cloud, image_id, build("qcow2")).status_code == 204


def test_partition_tables_are_raw(cloud):
    """A disk with a partition table is what "raw" means."""
    disk = bytearray(1 << 20)
    disk[446:462] = bytes([0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 100, 0, 0, 0])
    disk[510:512] = b"\x55\xaa"
    assert put(cloud, make(cloud), bytes(disk)).status_code == 204
    assert put(cloud, make(cloud, "iso"), make_iso(None, None)).status_code == 204


def test_refusals(cloud):
    """No formats, a wrong media type, too many bytes: told apart, and the image stays queued."""
    bare = cloud.post(IMAGES, {"name": "x"}).json["id"]
    answer = put(cloud, bare, b"x")
    assert answer.status_code == 400
    assert "disk_format" in answer.json["message"]
    image_id = make(cloud)
    wrong = cloud.call("PUT", f"{IMAGES}/{image_id}/file", b"x", headers={"Content-Type": "application/json"})
    assert wrong.status_code == 415
    cloud.settings.image.max_size_bytes = 100
    assert put(cloud, image_id, bytes(101)).status_code == 413
    options = {"input_stream": io.BytesIO(bytes(101)), "environ_overrides": {"wsgi.input_terminated": True}}
    assert put(cloud, image_id, None, **options).status_code == 413
    assert show(cloud, image_id)["status"] == "queued"
    assert list_store(cloud) == []
    assert put(cloud, image_id, bytes(100)).status_code == 204


class Broken(io.RawIOBase):
    """A client that goes away half-way."""

    def __init__(self, error):
        self.left, self.error = 2, error

    def read(self, size=-1):
        self.left -= 1
        if self.left < 0:
            if self.error:
                raise self.error
            return b""
        return bytes(1000)


@pytest.mark.parametrize("error", [None, OSError("reset"), ValueError("bad chunk")])
def test_client_goes_away(cloud, error):
    """An upload that ends early is none: queued again, no part file, and it can be repeated."""
    image_id = make(cloud)
    environ = {"wsgi.input": Broken(error), "wsgi.input_terminated": True, "CONTENT_LENGTH": "10000"}
    assert put(cloud, image_id, None, environ_overrides=environ).status_code == 400
    assert show(cloud, image_id)["status"] == "queued"
    assert list_store(cloud) == []
    assert put(cloud, image_id, b"whole").status_code == 204


def test_killed_upload_returns_to_queued(cloud):
    """An upload whose process is gone holds no lock: the next look at the image frees it."""
    image_id, store = make(cloud), cloud.settings.image.store_dir
    upload = Upload(store, image_id, "gone", "raw", 1000)
    upload.write(b"half")
    with cloud.database.write.begin() as session:
        row = session.get(Image, image_id)
        row.status, row.upload_id = "saving", "gone"
    assert not is_abandoned(store, image_id, "gone")
    assert show(cloud, image_id)["status"] == "saving"
    assert put(cloud, image_id, b"x").status_code == 409
    upload._file.close()  # what the kernel does for a killed process
    os.utime(upload.part, (0, 0))
    assert show(cloud, image_id)["status"] == "queued"
    assert list_store(cloud) == []
    assert put(cloud, image_id, b"whole").status_code == 204
    assert cloud.get(f"{IMAGES}/{image_id}/file").data == b"whole"


class Gated(io.RawIOBase):
    """A body whose end waits until it is let through."""

    def __init__(self, data):
        self.chunks, self.started, self.gate = [data, b""], threading.Event(), threading.Event()

    def read(self, size=-1):
        if len(self.chunks) == 1:
            self.started.set()
            assert self.gate.wait(30)
        return self.chunks.pop(0)


def start_upload(cloud, image_id, data):
    """(thread, body, answers) of an upload that waits in its middle."""
    body, answers = Gated(data), []
    token = cloud.login("demo")

    def run():
        answers.append(
            cloud.app.test_client().put(
                f"{IMAGES}/{image_id}/file",
                headers={**BINARY, "X-Auth-Token": token},
                environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True},
            )
        )

    thread = threading.Thread(target=run)
    thread.start()
    assert body.started.wait(30)
    return thread, body, answers


def test_two_uploads_cannot_both_win(cloud):
    image_id = make(cloud)
    thread, body, answers = start_upload(cloud, image_id, b"first")
    second = put(cloud, image_id, b"second")
    body.gate.set()
    thread.join(30)
    assert second.status_code == 409
    assert answers[0].status_code == 204
    assert cloud.get(f"{IMAGES}/{image_id}/file").data == b"first"
    assert list_store(cloud) == [image_id]


def test_delete_during_an_upload(cloud):
    """The image is gone, the upload is told so, and no bytes stay."""
    image_id = make(cloud)
    thread, body, answers = start_upload(cloud, image_id, b"first")
    assert cloud.delete(f"{IMAGES}/{image_id}").status_code == 204
    body.gate.set()
    thread.join(30)
    assert answers[0].status_code == 410
    assert cloud.get(f"{IMAGES}/{image_id}").status_code == 404
    assert list_store(cloud) == []


def test_bytes_outlive_the_image_while_a_server_needs_them(cloud):
    """A server that was never seen built keeps the file of a deleted image until it is built or gone."""
    image_id = make(cloud)
    put(cloud, image_id, b"data")
    with cloud.database.write.begin() as session:
        user, flavor = session.scalar(select(User)), session.scalar(select(Flavor))
        server = Server(
            project_id="0" * 32,
            user_id=user.id,
            reservation_id="r-1",
            name="s",
            hostname="s",
            flavor_id=flavor.id,
            flavor={},
            image_id=image_id,
        )
        session.add(server)
    assert cloud.delete(f"{IMAGES}/{image_id}").status_code == 204
    assert cloud.get(f"{IMAGES}/{image_id}").status_code == 404
    store = cloud.settings.image.store_dir
    assert list_store(cloud) == [image_id]
    assert remove_unneeded(cloud.database, store) == []
    with cloud.database.write.begin() as session:
        session.scalar(select(Server)).built_at = now()
        other = Host(name="other", roles=["hypervisor"])
        session.add(other)
    assert remove_unneeded(cloud.database, store) == []  # it may have to be made anew there
    with cloud.database.write.begin() as session:
        session.delete(session.scalar(select(Host).where(Host.name == "other")))
    assert remove_unneeded(cloud.database, store) == [image_id]
    assert list_store(cloud) == []


def test_delete_removes_bytes(cloud):
    image_id = make(cloud)
    put(cloud, image_id, b"data")
    assert cloud.delete(f"{IMAGES}/{image_id}").status_code == 204
    assert list_store(cloud) == []


def test_deactivated(cloud):
    """Its owner stops an image, and starts it again; nobody but admins downloads it meanwhile."""
    image_id = make(cloud)
    put(cloud, image_id, b"data")
    actions = f"{IMAGES}/{image_id}/actions"
    assert cloud.post(f"{actions}/deactivate", user="reader").status_code == 403
    assert cloud.post(f"{actions}/deactivate", user="other").status_code == 404
    assert cloud.post(f"{actions}/deactivate").status_code == 204
    assert show(cloud, image_id)["status"] == "deactivated"
    assert cloud.get(f"{IMAGES}/{image_id}/file").status_code == 403
    assert cloud.get(f"{IMAGES}/{image_id}/file", user="admin").data == b"data"
    assert cloud.post(f"{actions}/reactivate", user="reader").status_code == 403
    assert cloud.post(f"{actions}/reactivate").status_code == 204
    assert cloud.get(f"{IMAGES}/{image_id}/file").data == b"data"


def test_formats_are_fixed_once_there_are_bytes(cloud):
    """What was inspected as one format never becomes another (security case 4)."""
    image_id = make(cloud)
    put(cloud, image_id, b"data")
    headers = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    change = '[{"op": "replace", "path": "/disk_format", "value": "qcow2"}]'
    assert cloud.call("PATCH", f"{IMAGES}/{image_id}", change, headers=headers).status_code == 403


def test_the_one_store(cloud):
    """An upload goes where it is wanted or nowhere; the only copy of an image is not taken away from it."""
    image_id = make(cloud)
    elsewhere = {**BINARY, "X-Image-Meta-Store": "tape"}
    answer = cloud.call("PUT", f"{IMAGES}/{image_id}/file", b"data", headers=elsewhere)
    assert (answer.status_code, "tape" in answer.text) == (400, True)
    path = f"/image/v2/stores/files/{image_id}"
    assert "stores" not in show(cloud, image_id)
    assert cloud.delete(path, user="admin").status_code == 404  # it has no bytes
    here = {**BINARY, "X-Image-Meta-Store": "files"}
    assert cloud.call("PUT", f"{IMAGES}/{image_id}/file", b"data", headers=here).status_code == 204
    assert show(cloud, image_id)["stores"] == "files"
    assert cloud.delete(path).status_code == 403
    assert cloud.delete(path, user="admin").status_code == 403
    assert cloud.delete(f"/image/v2/stores/tape/{image_id}", user="admin").status_code == 404
    assert cloud.get(f"{IMAGES}/{image_id}/file").data == b"data"
