"""The image cache: what is refused by its first bytes, what is fetched, and what the next run does after a failure."""

import hashlib
import http.server
import os
import struct
import threading
import time

import pytest
from ansible.module_utils.kumo import core, image_formats, images
from ansible.module_utils.kumo.errors import KumoError

I = "aaaaaaaa-0000-4000-8000-000000000001"  # noqa: E741
MIB = 1 << 20


def build_qcow2(size=MIB, backing=0, incompatible=0, encryption=0, extension=b"", version=3):
    """The header of a qcow2 image (docs/interop/qcow2.rst), padded to 64 KiB."""
    head = b"QFI\xfb" + struct.pack(">IQI", version, backing, 10 if backing else 0)
    head += struct.pack(">IQI", 16, size, encryption) + bytes(36)
    head += struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    return (head + extension).ljust(65536, b"\0")


@pytest.mark.parametrize(
    ("content", "disk_format", "outcome"),
    [
        (build_qcow2(), "qcow2", MIB),
        (build_qcow2(version=2), "qcow2", MIB),
        (b"\0" * 1024, "raw", 1024),
        (b"\xeb\x63" + b"\0" * 1022, "raw", 1024),
        (b"\0" * 32769 + b"CD001".ljust(1024, b"\0"), "iso", 33793),
        (b"", "raw", 0),
        (b"\0" * 1024, "qcow2", "content is raw"),
        (build_qcow2(), "vmdk", "its format is 'vmdk'"),
        (build_qcow2(encryption=1), "qcow2", "encrypted"),
        (build_qcow2(incompatible=1 << 20), "qcow2", "features"),
        (build_qcow2(version=9), "qcow2", "version"),
        (b"QFI\xfb", "qcow2", "not a qcow2"),
    ],
)
def test_read_virtual_size(tmp_path, content, disk_format, outcome):
    """Good images give their size, others the reason of their refusal."""
    _expect(tmp_path, content, disk_format, outcome)


def test_s01_backing_file(tmp_path):
    """OSSA-2024-002: a qcow2 image that names a backing file."""
    _expect(tmp_path, build_qcow2(backing=1024), "qcow2", "backing file")
    extension = struct.pack(">II", 0xE2792ACA, 5) + b"qcow2".ljust(8, b"\0")
    _expect(tmp_path, build_qcow2(extension=extension), "qcow2", "backing file")


def test_s02_data_file(tmp_path):
    """OSSA-2024-001: a qcow2 image whose data lie in another file."""
    _expect(tmp_path, build_qcow2(incompatible=4), "qcow2", "data file")
    extension = struct.pack(">II", 0x44415441, 4) + b"/etc".ljust(8, b"\0")
    _expect(tmp_path, build_qcow2(extension=extension), "qcow2", "data file")


@pytest.mark.parametrize(
    "content",
    [
        build_qcow2(),
        b"KDMV".ljust(1024, b"\0"),
        b"COWD".ljust(1024, b"\0"),
        b"# Disk DescriptorFile\n".ljust(1024, b"\0"),
        b"vhdxfile".ljust(1024, b"\0"),
        b"\0" * 1024 + b"conectix".ljust(512, b"\0"),
        b"\0" * 1024 + b"koly".ljust(512, b"\0"),
        (b"<<< Oracle VM VirtualBox Disk Image >>>".ljust(0x40, b"\0") + b"\x7f\x10\xda\xbe").ljust(1024, b"\0"),
        b"QED\0".ljust(1024, b"\0"),
        b"LUKS\xba\xbe".ljust(1024, b"\0"),
    ],
)
def test_s04_a_raw_image_that_is_none(tmp_path, content):
    """OSSA-2024-002: another format under the name of raw."""
    _expect(tmp_path, content, "raw", "content is")


def _expect(tmp_path, content, disk_format, outcome):
    path = tmp_path / "image"
    path.write_bytes(content)
    if isinstance(outcome, str):
        with pytest.raises(KumoError, match=outcome):
            image_formats.read_virtual_size(path, disk_format)
        assert path.read_bytes() == content
    else:
        assert image_formats.read_virtual_size(path, disk_format) == outcome


class Cache:
    """A document with one image, and calls with it."""

    def __init__(self, tmp_path, content, disk_format="raw", **changes):
        self.source, self.directory = tmp_path / "source", tmp_path / "host" / "images"
        self.source.write_bytes(content)
        checksum = "sha512:" + hashlib.sha512(content).hexdigest()
        self.image = {"id": I, "checksum": checksum, "size": len(content), "disk_format": disk_format}
        self.image |= {"source": {"path": str(self.source)}, **changes}
        self.document = {"version": 1, "settings": {"state_dir": str(tmp_path / "host")}, "images": [self.image]}

    def run(self):
        result = core.run_sections(self.document, ("images",))
        return [action["verb"] for action in result["actions"]], result["objects"]["images"][I]["error"], result


def test_fetch_and_again(tmp_path):
    """One fetch; then nothing; the cached file is read-only and whole; an unlisted image stays."""
    cache = Cache(tmp_path, os.urandom(3 * MIB))
    assert cache.run()[:2] == (["fetch"], None)
    assert (cache.directory / I).read_bytes() == cache.source.read_bytes()
    assert (cache.directory / I).stat().st_mode & 0o777 == 0o444
    verbs, error, result = cache.run()
    assert (verbs, error, result["changed"], result["pending"]) == ([], None, False, False)
    assert result["observed"]["images"][I]["state"] == "cached"
    cache.document["images"] = []
    core.run_sections(cache.document, ("images",))
    assert (cache.directory / I).exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"checksum": "sha256:" + "0" * 64}, "sha256 is"),
        ({"checksum": "crc32:00"}, "checksum must be"),
        ({"checksum": None}, "checksum must be"),
        ({"size": 5}, "were announced"),
        ({"disk_format": "vmdk"}, "disk_format"),
        ({"disk_format": "qcow2"}, "refused"),
        ({"source": {"path": "/nonexistent/image"}}, "cannot be read"),
        ({"source": {"path": "relative"}}, "absolute"),
        ({"source": {"url": "file:///etc/shadow"}}, "http or https"),
        ({"source": {}}, "http or https"),
        ({"size": 1 << 60}, "room"),
    ],
)
def test_what_cannot_be_fetched(tmp_path, changes, sentence):
    """The sentence says why, nothing is left behind, and the next run tries again."""
    cache = Cache(tmp_path, b"x" * 4096, **changes)
    for _ in range(2):
        _, error, result = cache.run()
        assert sentence in error
        assert I in error
        assert not result["pending"]
        assert list(cache.directory.glob("*") if cache.directory.exists() else []) == []
    cache.image.update(Cache(tmp_path, b"y" * 4096).image)
    assert cache.run()[:2] == (["fetch"], None)


def overwrite(path, content):
    """Other bytes in a cached file, which keeps its time of change."""
    before = path.stat()
    path.chmod(0o600)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_s04_already_in_the_cache(tmp_path):
    """What was cached as raw and now begins like another format is refused, and its bytes stay."""
    cache = Cache(tmp_path, b"\0" * 65536)
    cache.run()
    path = cache.directory / I
    overwrite(path, build_qcow2(backing=512))
    verbs, error, result = cache.run()
    assert verbs == []
    assert "refused" in error
    assert result["observed"]["images"][I]["state"] == "failed"
    assert path.read_bytes() == build_qcow2(backing=512)


def test_a_slow_fetch_goes_on_after_the_call(tmp_path, monkeypatch):
    """Pending with progress while it runs; leftovers of a killed one are removed and it is fetched again."""
    monkeypatch.setattr(images, "WAIT_S", 0.2)
    content = os.urandom(2 * MIB)
    gate = threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/gone"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:MIB])
            gate.wait(20)
            self.wfile.write(content[MIB:])

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    cache = Cache(tmp_path, content)
    try:
        cache.image["source"] = {"url": f"{address}/gone?key=hidden"}
        error = _settle(cache)
        assert "404" in error
        assert "hidden" not in error
        cache.image["source"] = {"url": f"http://127.0.0.1:{server.server_port}/image"}
        verbs, error, result = cache.run()
        assert (verbs, error, result["pending"]) == (["fetch"], None, True)
        assert result["observed"]["tasks"][0]["state"] == "running"
        assert cache.run()[0] == []
        [task] = images.tasks.read_tasks(core.parse_document(cache.document)).values()
        os.kill(task["pid"], 9)
        time.sleep(0.1)
        verbs, error, result = cache.run()
        assert verbs == ["discard"]
        assert "interrupted" in error
        gate.set()
        assert _settle(cache) is None
        assert (cache.directory / I).read_bytes() == content
    finally:
        gate.set()
        server.shutdown()


def _settle(cache):
    for _ in range(100):
        _, error, result = cache.run()
        if error or not result["pending"]:
            return error
        time.sleep(0.1)
    raise AssertionError("still pending")
