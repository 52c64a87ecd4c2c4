"""A volume imaged anew: nothing of the old content is left, nobody reads it meanwhile, nothing cuts it short."""

import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ansible.module_utils.kumo import core, disk_copies, files, tasks, volumes
from storage_lab import GIB, MIB, apply, build_export, build_id, build_volume, fill, open_volume, qemu_io, read_contents


@pytest.fixture
def build_image(tmp_path):
    """A function that makes a qcow2 image of ``size_mb`` whose first MiB is all ``byte``: its row of a document."""

    def build(byte: int, size_mb: int = 8) -> dict:
        raw, image = tmp_path / "raw", tmp_path / f"image-{byte}-{size_mb}"
        raw.write_bytes(bytes([byte]) * MIB)
        os.truncate(raw, size_mb * MIB)
        subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, image], check=True)
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        return {"id": build_id(), "checksum": f"sha256:{digest}", "size": image.stat().st_size, "disk_format": "qcow2",
                "virtual_size": size_mb * MIB, "source": {"path": str(image)}}  # fmt: skip

    return build


def order(image: dict, wanted: int = 1, idle: bool = True) -> dict:
    return {"wanted": wanted, "image": image["id"], "idle": idle}


def read_at(path: Path, offset: int, size: int = 4096) -> bytes:
    with open(path, "rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def see(result: dict, volume: dict) -> dict:
    return result["observed"]["volumes"][volume["id"]]


def test_s11_nothing_of_the_old_content_is_left_behind_the_image(storage, build_image, target, tmp_path):
    """In this order: in use and looked at; given up by its guest; made; offered under another name. Snapshots stay."""
    image, first, second = build_image(7), build_export(build_id()), build_export(build_id())
    volume = build_volume(exports=[first])
    snapshot = {"id": build_id(), "volume": volume["id"], "wanted": "present", "size_gb": 1, "resting": True}
    apply(storage(volumes=[volume]))
    old = bytes([0xAB]) * 4096
    fill(open_volume(storage(), volume["id"]), 0xAB, 96 * MIB)
    apply(storage(volumes=[volume], snapshots=[snapshot]))

    looked = apply(
        storage(images=[image], volumes=[{**volume, "reimage": order(image, idle=False)}], snapshots=[snapshot])
    )
    assert [one["verb"] for one in looked["actions"] if one["section"] == "volumes"] == ["check_image"]
    assert (see(looked, volume)["state"], see(looked, volume)["reimage_done"]) == ("available", 0)
    assert read_at(open_volume(storage(), volume["id"]), 0) == old

    idle = {**volume, "reimage": order(image), "exports": []}
    made = apply(storage(images=[image], volumes=[idle], snapshots=[snapshot]))
    assert made["objects"]["volumes"][volume["id"]] == {"ok": True, "error": None}
    assert (see(made, volume)["state"], see(made, volume)["reimage_done"], made["observed"]["exports"]) == (
        "available", 1, {},
    )  # fmt: skip
    assert qemu_io(tmp_path, target[1], first, "read 0 4k")[0] != 0, "its old name leads nowhere"
    path = open_volume(storage(), volume["id"])
    assert read_at(path, 0, MIB) == bytes([7]) * MIB
    for offset in (MIB, 8 * MIB, 64 * MIB, 96 * MIB - 4096, GIB - 4096):
        assert read_at(path, offset) == bytes(4096), offset
    assert read_contents(storage())["objects"][volume["id"]]["size"] == GIB

    assert apply(storage(images=[image], volumes=[idle], snapshots=[snapshot]))["actions"] == []
    offered = apply(storage(volumes=[{**volume, "exports": [second]}], snapshots=[snapshot]))
    assert list(offered["observed"]["exports"]) == [second["id"]]
    code, text = qemu_io(tmp_path, target[1], second, "read -P 7 0 4k", "read -P 0 64M 4k")
    assert (code, "failed" in text) == (0, False), text
    copy = build_volume(source={"snapshot": snapshot["id"]})
    rows = sorted([{**volume, "exports": [second]}, copy], key=lambda row: row["id"])
    apply(storage(volumes=rows, snapshots=[snapshot]))
    assert read_at(open_volume(storage(), copy["id"]), 64 * MIB) == old


@pytest.mark.parametrize("moment", ["begun", "copying", "copied", "replaced", "the old one gone"])
def test_killed_at_any_moment_it_goes_on(storage, build_image, monkeypatch, moment):
    image, volume = build_image(9), build_volume()
    apply(storage(volumes=[volume]))
    fill(open_volume(storage(), volume["id"]), 0xAB, 16 * MIB)
    backend = volumes.BACKENDS[storage()["settings"]["storage"]["backend"]]

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    make, replace = disk_copies.apply_copy, backend.apply_replace
    with monkeypatch.context() as patch:
        if moment == "begun":
            patch.setattr(disk_copies, "apply_copy", die)
        elif moment == "copying":
            patch.setattr(disk_copies, "apply_copy", lambda *words: make(*words[:-1], die))
        elif moment == "copied":
            patch.setattr(backend, "apply_replace", die)
        elif moment == "replaced":
            patch.setattr(backend, "apply_replace", lambda *words: (replace(*words), die()))
        else:
            patch.setattr(backend, "apply_finish", die)
        document = storage(images=[image], volumes=[{**volume, "reimage": order(image)}])
        result = core.run_sections(document)
        while not result["objects"]["volumes"][volume["id"]]["error"]:
            assert see(result, volume)["reimage_done"] == 0
            time.sleep(0.05)
            result = core.run_sections(document)
    assert "interrupted" in result["objects"]["volumes"][volume["id"]]["error"]
    assert see(result, volume)["state"] == "creating"
    made = apply(document)
    assert made["objects"]["volumes"][volume["id"]] == {"ok": True, "error": None}
    assert (see(made, volume)["state"], see(made, volume)["reimage_done"]) == ("available", 1)
    path = open_volume(storage(), volume["id"])
    assert (read_at(path, 0), read_at(path, 8 * MIB)) == (bytes([9]) * 4096, bytes(4096))
    assert read_contents(storage())["unfinished"] == set()
    assert apply(document)["actions"] == []


def test_killed_after_its_last_word_it_is_done(storage, build_image, monkeypatch):
    """Its record alone is left, and is forgotten."""
    image, volume = build_image(9), build_volume()
    apply(storage(volumes=[volume]))
    document = storage(images=[image], volumes=[{**volume, "reimage": order(image)}])
    keep = files.apply_json

    def keep_and_die(path, value):
        keep(path, value)
        if "done" in value:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(files, "apply_json", keep_and_die)
        apply(document)
    apply(storage(volumes=[volume]))
    assert tasks.read_tasks(document) == {}
    assert see(apply(document), volume)["reimage_done"] == 1


def test_what_does_not_fit_is_refused_before_anything_is_touched(storage, build_image):
    image, volume = build_image(7, size_mb=1025), build_volume()
    apply(storage(volumes=[volume]))
    fill(open_volume(storage(), volume["id"]), 0xAB, MIB)
    for idle in (False, True):
        result = apply(storage(images=[image], volumes=[{**volume, "reimage": order(image, idle=idle)}]))
        assert "the volume has 1 GiB" in result["objects"]["volumes"][volume["id"]]["error"]
    gone = {**image, "id": build_id(), "source": {"path": "/nonexistent"}}
    result = apply(storage(images=[gone], volumes=[{**volume, "reimage": order(gone, idle=False)}]))
    assert "waits for images" in result["objects"]["volumes"][volume["id"]]["error"]
    assert read_at(open_volume(storage(), volume["id"]), 0) == bytes([0xAB]) * 4096


def test_deleted_while_it_is_made(storage, build_image, monkeypatch, state_dir):
    """The task ends, and nothing is left of either content, nor of what was known of it."""
    image, volume = build_image(9), build_volume()
    apply(storage(volumes=[volume]))
    apply(storage(images=[image], volumes=[{**volume, "reimage": order(image)}]))
    make = disk_copies.apply_copy
    with monkeypatch.context() as patch:
        patch.setattr(disk_copies, "apply_copy", lambda *words: (make(*words), time.sleep(60)))
        document = storage(images=[image], volumes=[{**volume, "reimage": order(image, 2)}])
        result = core.run_sections(document)
    assert (result["pending"], see(result, volume)["state"]) == (True, "creating")
    (record,) = [one for one in tasks.read_tasks(document).values() if one["kind"] == "reimage"]
    apply(storage(volumes=[{"id": volume["id"], "wanted": "absent"}]))
    until = time.monotonic() + 10
    while tasks.read_start_ticks(record["pid"]) is not None:
        assert time.monotonic() < until, "its process is still there"
        time.sleep(0.02)
    assert (read_contents(storage())["objects"], read_contents(storage())["unfinished"]) == ({}, set())
    assert list((state_dir / "reimaged").iterdir()) == []
