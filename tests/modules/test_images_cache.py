"""The image cache over time: what has changed is fetched again, what nothing uses goes, what a disk lies over stays."""

import hashlib
import os
import struct

import pytest
from ansible.module_utils.kumo import core, image_cache, images
from ansible.module_utils.kumo.errors import KumoError

I, J = (f"aaaaaaaa-0000-4000-8000-00000000000{number}" for number in (1, 2))  # noqa: E741
CONTENT = bytes(range(256)) * 16
DAY = 86400


class Host:
    """A host whose document has one raw image, and its cache."""

    def __init__(self, tmp_path):
        self.source, self.state = tmp_path / "source", tmp_path / "host"
        self.source.write_bytes(CONTENT)
        self.image = {
            "id": I, "checksum": "sha512:" + hashlib.sha512(CONTENT).hexdigest(), "size": len(CONTENT),
            "disk_format": "raw", "source": {"path": str(self.source)},
        }  # fmt: skip
        self.settings = {"state_dir": str(self.state)}
        self.document = {"version": 1, "settings": self.settings, "images": [self.image]}
        self.path = self.state / "images" / I

    def run(self, check=False):
        result = core.run_sections(self.document, ("images",), check_mode=check)
        return [action["verb"] for action in result["actions"]]

    def overwrite(self, content, keep_time):
        before = self.path.stat()
        self.path.chmod(0o600)
        self.path.write_bytes(content)
        if keep_time:
            os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = [
    ("size", lambda host: host.overwrite(CONTENT[:-1], keep_time=True)),
    ("time", lambda host: host.overwrite(CONTENT[::-1], keep_time=False)),
    ("asked", lambda host: host.image.update(fetch=1)),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_what_has_changed_is_fetched_again_once(tmp_path, name, change):
    host = Host(tmp_path)
    assert host.run() == ["fetch"]
    assert host.run() == []
    change(host)
    if name != "asked":
        with pytest.raises(KumoError, match="has changed"):
            images.read_image(core.parse_document(host.document), I)
    assert host.run(check=True) == ["fetch_again"]
    assert host.run() == ["fetch_again"]
    assert host.path.read_bytes() == CONTENT
    assert host.run() == []


def test_other_bytes_of_the_same_size_and_time_are_found_by_reading_them(tmp_path):
    """Bit rot: seen by `verify_images` alone, which is what `kumo verify --images` sets."""
    host = Host(tmp_path)
    host.run()
    host.overwrite(b"\1" + CONTENT[1:], keep_time=True)
    assert host.run() == []
    host.settings["verify_images"] = True
    assert host.run(check=True) == ["fetch_again"]
    assert host.path.read_bytes() != CONTENT
    assert host.run() == ["fetch_again"]
    assert host.path.read_bytes() == CONTENT
    assert host.run() == []


def build_cache(max_age_s=0, max_bytes=0, **found):
    """Cached images by name: (bytes, unused since, needed)."""
    names = ("bytes", "unused_since", "needed")
    rows = {name: dict(zip(names, values, strict=True)) for name, values in found.items()}
    return {"now": 10 * DAY, "max_age_s": max_age_s, "max_bytes": max_bytes, "images": rows}


PLANS = [
    ("no bounds, nothing is noted", build_cache(a=(5, None, False), b=(5, 1, True)), []),
    ("unused now", build_cache(DAY, a=(5, None, False)), ["note_unused a"]),
    ("unused for less than the age", build_cache(DAY, a=(5, 10 * DAY - 1, False)), []),
    ("unused for the age", build_cache(DAY, a=(5, 9 * DAY, False)), ["remove a"]),
    ("needed again", build_cache(DAY, a=(5, 1, True)), ["note_used a"]),
    ("needed", build_cache(DAY, a=(5, None, True)), []),
    ("the clock went back", build_cache(DAY, a=(5, 11 * DAY, False)), ["note_unused a"]),
    ("within the bytes", build_cache(0, 10, a=(5, 1, False), b=(5, 2, False)), []),
    ("the longest unused first", build_cache(0, 10, a=(5, 2, False), b=(5, 1, False), c=(5, 3, False)), ["remove b"]),
    ("unused only since now", build_cache(0, 4, a=(5, None, False)), ["remove a"]),
    ("what is needed stays", build_cache(DAY, 4, a=(50, None, True), b=(5, 10 * DAY, False)), ["remove b"]),
]


@pytest.mark.parametrize(("cache", "expected"), [plan[1:] for plan in PLANS], ids=[plan[0] for plan in PLANS])
def test_plan_cache(cache, expected):
    assert [f"{action.verb} {action.object_id}" for action in image_cache.plan_cache(cache)] == expected


def test_unused_ones_go_by_age_and_no_disk_loses_what_lies_below_it(tmp_path, monkeypatch):
    """Also a guest that is in no document keeps its image; what is half removed goes wholly."""
    host = Host(tmp_path)
    host.settings["image_cache_max_age_s"] = DAY
    now = [10 * DAY]
    monkeypatch.setattr(image_cache.time, "time", lambda: now[0])
    assert host.run() == ["fetch"]
    assert host.run() == []
    disk = host.state / "servers" / J / "disk"
    disk.parent.mkdir(parents=True)
    name = str(host.path).encode()
    disk.write_bytes(b"QFI\xfb" + struct.pack(">IQI", 3, 104, len(name)) + bytes(84) + name)
    host.document["images"] = []
    assert host.run() == []
    disk.unlink()
    assert host.run() == ["note_unused"]
    assert host.run() == []
    host.document["images"] = [host.image]
    assert host.run() == ["note_used"]
    host.document["images"] = []
    assert host.run() == ["note_unused"]
    now[0] += DAY
    assert host.run(check=True) == ["remove"]
    host.path.unlink()
    assert host.run() == ["remove"]
    assert list(host.path.parent.iterdir()) == []
    assert host.run() == []
