"""What docs/storage-backends.md asks of any backend: data, moments, interruptions, room, several at once."""

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from ansible.module_utils.kumo import core, disk_copies, tasks, volumes
from storage_lab import (
    GIB,
    MIB,
    apply,
    build_document,
    build_export,
    build_id,
    build_volume,
    fill,
    open_volume,
    qemu_io,
    read_contents,
)  # fmt: skip

CHUNK = 64 << 10  # a thin pool's, unless its maker said otherwise


def build_snapshot(volume: dict) -> dict:
    return {"id": build_id(), "volume": volume["id"], "wanted": "present", "size_gb": 1}


def by_id(*rows: dict) -> list[dict]:
    return sorted(rows, key=lambda row: row["id"])


def check_all(result: dict) -> dict:
    """Every object is as wanted."""
    assert {one["error"] for section in result["objects"].values() for one in section.values()} <= {None}, result
    return result


def read_at(path: Path, offset: int, size: int) -> bytes:
    with open(path, "rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def test_s11_a_blank_volume_reads_zeros_where_another_volumes_data_was(storage):
    """Half of what there is is filled and given back; then each block of a new volume is touched and read."""
    old, new = build_volume(), build_volume()
    check_all(apply(storage(volumes=[old])))
    fill(open_volume(storage(), old["id"]), 0xAB, 256 * MIB)
    check_all(apply(storage(volumes=[{**old, "wanted": "absent"}])))
    assert old["id"] not in read_contents(storage())["objects"]
    check_all(apply(storage(volumes=[new])))
    path = open_volume(storage(), new["id"])
    with open(path, "r+b", buffering=0) as stream:
        for offset in range(0, 256 * MIB, CHUNK):
            os.pwrite(stream.fileno(), b"\x01", offset)
        os.fsync(stream.fileno())
    subprocess.run(["sysctl", "-qw", "vm.drop_caches=3"], check=False, capture_output=True)
    wanted = (b"\x01" + bytes(CHUNK - 1)) * (MIB // CHUNK)
    for offset in range(0, 256 * MIB, MIB):
        assert read_at(path, offset, MIB) == wanted
    assert read_at(path, 256 * MIB, 64 * MIB) == bytes(64 * MIB)
    assert read_at(path, GIB - MIB, 2 * MIB) == bytes(MIB)


def test_s11_a_removed_snapshot_is_gone_and_its_volume_stays(storage):
    volume = build_volume()
    check_all(apply(storage(volumes=[volume])))
    fill(open_volume(storage(), volume["id"]), 0x11, 8 * MIB)
    snapshot = build_snapshot(volume)
    check_all(apply(storage(volumes=[volume], snapshots=[snapshot])))
    fill(open_volume(storage(), volume["id"]), 0x22, 4 * MIB)
    check_all(apply(storage(volumes=[volume], snapshots=[{**snapshot, "wanted": "absent"}])))
    assert set(read_contents(storage())["objects"]) == {volume["id"]}
    path = open_volume(storage(), volume["id"])
    assert read_at(path, 0, 9 * MIB) == b"\x22" * (4 * MIB) + b"\x11" * (4 * MIB) + bytes(MIB)


def test_copies_do_not_share_what_is_written_later(storage):
    """volume -> snapshot -> copy -> copy of the copy; each is then written to, and none is seen in another."""
    first = build_volume()
    snapshot = build_snapshot(first)
    second = build_volume(source={"snapshot": snapshot["id"]})
    third = build_volume(source={"volume": second["id"]}, size_gb=2)
    check_all(apply(storage(volumes=[first])))
    fill(open_volume(storage(), first["id"]), 0x0A, 4 * MIB)
    check_all(apply(storage(volumes=[first], snapshots=[snapshot])))
    fill(open_volume(storage(), first["id"]), 0x0B, MIB)
    check_all(apply(storage(volumes=by_id(first, second), snapshots=[snapshot])))
    fill(open_volume(storage(), second["id"]), 0x0C, 2 * MIB)
    check_all(apply(storage(volumes=by_id(first, second, third), snapshots=[snapshot])))
    fill(open_volume(storage(), third["id"]), 0x0D, 3 * MIB)
    found = {
        number: read_at(open_volume(storage(), volume["id"]), 0, 5 * MIB)
        for number, volume in (("1", first), ("2", second), ("3", third))
    }
    parts = {"1": [0xB, 0xA, 0xA, 0xA, 0], "2": [0xC, 0xC, 0xA, 0xA, 0], "3": [0xD, 0xD, 0xD, 0xA, 0]}
    assert {number: list(data[MIB // 2 :: MIB]) for number, data in found.items()} == parts
    assert read_at(open_volume(storage(), third["id"]), GIB, 16 * MIB) == bytes(16 * MIB)
    assert read_contents(storage())["objects"][third["id"]]["size"] == 2 * GIB
    # What a copy was made from may go first.
    gone = [{**row, "wanted": "absent"} for row in (first, second)]
    check_all(apply(storage(volumes=by_id(*gone, third), snapshots=[{**snapshot, "wanted": "absent"}])))
    assert list(read_at(open_volume(storage(), third["id"]), 0, 5 * MIB)[MIB // 2 :: MIB]) == parts["3"]


def test_a_volume_that_nobody_writes_to_can_be_copied_although_it_is_exported(storage, target):
    """Of a guest that is off: the control plane says so, and starts it no sooner."""
    volume = build_volume(exports=[build_export(build_id())])
    check_all(apply(storage(volumes=[volume])))
    fill(open_volume(storage(), volume["id"]), 0x6B, MIB)
    snapshot = {**build_snapshot(volume), "resting": True}
    check_all(apply(storage(volumes=[volume], snapshots=[snapshot])))
    assert read_contents(storage())["objects"][snapshot["id"]]["kind"] == "snapshot"
    copy = build_volume(source={"snapshot": snapshot["id"]})
    check_all(apply(storage(volumes=by_id(volume, copy), snapshots=[snapshot])))
    assert read_at(open_volume(storage(), copy["id"]), 0, 2 * MIB) == b"\x6b" * MIB + bytes(MIB)


def test_a_snapshot_under_a_writer_is_of_one_moment(storage, target, tmp_path):
    """Where the backend can: two places written in turn, over iSCSI; the later one is never without the earlier."""
    export, reader = build_export(build_id()), build_export(build_id())
    volume = build_volume(exports=[export])
    made = check_all(apply(storage(volumes=[volume])))
    if not made["observed"]["host"]["storage"]["snapshot_in_use"]:
        outcome = apply(storage(volumes=[volume], snapshots=[build_snapshot(volume)]))["objects"]["volumes"]
        assert any("is in use" in (one["error"] or "") for one in outcome.values())
        return
    ended, written = threading.Event(), []

    def write() -> None:
        value = 0
        while not ended.is_set() and value < 250:
            value += 1
            words = [f"write -P {value} 0 4k", "flush", f"write -P {value} 512M 4k", "flush"]
            written.append(qemu_io(tmp_path, target[1], export, *words)[0])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        snapshots = []
        for _ in range(3):
            before = len(written)
            until = time.monotonic() + 60
            while len(written) < before + 2 and time.monotonic() < until:
                time.sleep(0.01)
            snapshots.append(build_snapshot(volume))
            check_all(apply(storage(volumes=[volume], snapshots=by_id(*snapshots))))
    finally:
        ended.set()
        writer.join()
    assert set(written) == {0}
    copies = [build_volume(source={"snapshot": one["id"]}, exports=[]) for one in snapshots]
    copies[0]["exports"] = [reader]
    check_all(apply(storage(volumes=by_id(volume, *copies), snapshots=by_id(*snapshots))))
    seen = []
    for copy in copies:
        path = open_volume(storage(), copy["id"])
        first, second = read_at(path, 0, 4096), read_at(path, GIB // 2, 4096)
        assert len(set(first)) == len(set(second)) == 1
        assert first[0] - second[0] in (0, 1)
        seen.append(first[0])
    assert seen == sorted(seen)
    assert seen[0] >= 1
    code, text = qemu_io(tmp_path, target[1], reader, f"read -P {seen[0]} 0 4k")
    assert (code, "failed" in text) == (0, False)


@pytest.mark.parametrize("delay", [0.02, 0.1, 0.3, 0.8, 2.0, 5.0])
def test_a_run_that_is_killed_is_taken_up(storage, tmp_path, delay):
    """SIGKILL to the run and all it has started, at some moment; the next run makes everything whole."""
    base = build_volume()
    check_all(apply(storage(volumes=[base])))
    fill(open_volume(storage(), base["id"]), 0x5A, 4 * MIB)
    snapshot = build_snapshot(base)
    rows = [build_volume(), build_volume(source={"volume": base["id"]}, size_gb=2), {**base, "size_gb": 2}]
    document = storage(volumes=by_id(*rows), snapshots=[snapshot])

    _run_and_kill(document, delay)
    result = check_all(apply(document))
    assert {one["state"] for one in result["observed"]["volumes"].values()} == {"available"}
    assert result["observed"]["snapshots"][snapshot["id"]]["state"] == "available"
    contents = read_contents(storage())
    assert contents["unfinished"] == set()
    assert contents["objects"][base["id"]]["size"] == contents["objects"][rows[1]["id"]]["size"] == 2 * GIB
    for volume_id in (base["id"], rows[1]["id"]):
        assert read_at(open_volume(storage(), volume_id), 0, 5 * MIB) == b"\x5a" * (4 * MIB) + bytes(MIB)
    assert apply(document)["actions"] == []

    gone = [{**row, "wanted": "absent"} for row in rows]
    document = storage(volumes=by_id(*gone), snapshots=[{**snapshot, "wanted": "absent"}])
    _run_and_kill(document, delay)
    check_all(apply(document))
    assert read_contents(storage())["objects"] == {}


def _run_and_kill(document: dict, delay: float) -> None:
    child = multiprocessing.get_context("fork").Process(target=core.run_sections, args=(document,))
    child.start()
    os.setpgid(child.pid, child.pid)
    child.join(delay)
    if child.is_alive():
        os.killpg(child.pid, signal.SIGKILL)
    child.join()
    # A task that was being started holds the lock until it has closed what it inherited.
    with open(Path(document["settings"]["state_dir"], "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def test_a_copy_that_ends_while_a_run_looks_is_not_begun_again(storage, monkeypatch):
    """Its part was still there when the disks were read, its task no longer when the tasks were."""
    backend = volumes.BACKENDS[storage()["settings"]["storage"]["backend"]]
    base = build_volume()
    check_all(apply(storage(volumes=[base])))
    copy = build_volume(source={"volume": base["id"]})
    document = storage(volumes=by_id(base, copy))
    make, read = disk_copies.apply_copy, backend.read_contents
    monkeypatch.setattr(disk_copies, "apply_copy", lambda *words: (time.sleep(2), make(*words)))
    check_all(core.run_sections(document))

    def read_slowly(settings: dict) -> dict:
        contents, until = read(settings), time.monotonic() + 20
        while tasks.read_tasks(document) and time.monotonic() < until:
            time.sleep(0.02)
        return contents

    monkeypatch.setattr(backend, "read_contents", read_slowly)
    assert core.run_sections(document)["actions"] == []
    assert read(volumes.parse_storage(document))["unfinished"] == set()


@pytest.mark.parametrize("kind", ["blank", "copy"])
def test_what_was_begun_and_left_is_made_anew_or_discarded(storage, kind):
    backend = volumes.BACKENDS[storage()["settings"]["storage"]["backend"]]
    settings = volumes.parse_storage(storage())
    base, stranger = build_volume(), build_id()
    check_all(apply(storage(volumes=[base])))
    volume = build_volume(source={"volume": base["id"]} if kind == "copy" else None)
    for object_id in (volume["id"], stranger):
        part = backend.apply_begin(settings, object_id, GIB)
        fill(part, 0x77, MIB)
    assert read_contents(storage())["unfinished"] == {volume["id"], stranger}
    check_all(apply(storage(volumes=by_id(base, volume))))
    contents = read_contents(storage())
    assert (set(contents["objects"]), contents["unfinished"]) == ({base["id"], volume["id"]}, set())
    assert read_at(open_volume(storage(), volume["id"]), 0, 2 * MIB) == bytes(2 * MIB)


def test_each_step_may_be_repeated(storage):
    backend = volumes.BACKENDS[storage()["settings"]["storage"]["backend"]]
    settings = volumes.parse_storage(storage())
    volume, another, snapshot, clone = (build_id() for _ in range(4))
    for _ in range(2):
        backend.apply_begin(settings, volume, GIB)
    backend.apply_finish(settings, "volume", volume)
    backend.apply_create(settings, another, GIB)
    for _ in range(2):
        backend.apply_extend(settings, volume, 2 * GIB)
    if backend.apply_snapshot(settings, snapshot, volume):
        backend.apply_snapshot(settings, snapshot, volume)
        backend.apply_clone(settings, clone, "snapshot", snapshot, 2 * GIB)
    assert read_contents(storage())["objects"][volume] == {"kind": "volume", "size": 2 * GIB}
    for _ in range(2):
        for object_id in (clone, snapshot, another, volume):
            backend.apply_delete(settings, object_id)
    contents = read_contents(storage())
    assert (contents["objects"], contents["unfinished"]) == ({}, set())


def test_several_runs_at_once_make_all_that_each_is_asked_for(target, state_dir, storage):
    """Three state directories, one place below: each run makes volumes and copies, and none spoils another's."""
    documents = []
    for number in range(3):
        directory = state_dir / f"host{number}"
        directory.mkdir()
        base = build_volume()
        copies = [build_volume(source={"volume": base["id"]}) for _ in range(2)]
        documents.append(build_document(directory, *target, volumes=by_id(base, build_volume(), *copies)))
    try:
        with multiprocessing.get_context("fork").Pool(len(documents)) as pool:
            results = pool.map(apply, documents)
        for document, result in zip(documents, results, strict=True):
            states = {key: one["state"] for key, one in apply(document)["observed"]["volumes"].items()}
            assert states == {row["id"]: "available" for row in document["volumes"]}, result["objects"]
            assert set(read_contents(document)["objects"]) == set(states)
    finally:
        for document in documents:
            apply({**document, "volumes": [{"id": row["id"], "wanted": "absent"} for row in document["volumes"]]})
            assert read_contents(document)["objects"] == {}


def test_s14_a_password_is_in_no_argument_no_environment_and_no_file(storage, state_dir):
    export = build_export(build_id())
    volume = build_volume(exports=[export])
    secret, seen, ended = export["password"].encode(), [], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and int(process.name) != os.getpid():
                    for name in ("cmdline", "environ"):
                        try:
                            seen.append(secret in (process / name).read_bytes())
                        except OSError:
                            continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = apply(storage(volumes=[volume]))
        apply(storage(volumes=[{**volume, "exports": []}]))
    finally:
        ended.set()
        watcher.join()
    assert len(seen) > 100
    assert not any(seen)
    assert export["password"] not in json.dumps(result)
    files = [path for path in state_dir.rglob("*") if path.is_file() and path.stat().st_size < MIB]
    assert files
    assert not any(secret in path.read_bytes() for path in files)


def test_s12_a_number_that_is_used_again_shows_nothing_of_before(storage, target, tmp_path):
    """tgtd gives a new target the number of an ended one: whoever had that one gets in nowhere."""
    first, second = build_export(build_id()), build_export(build_id())
    victim, other = build_volume(exports=[first]), build_volume(exports=[second])
    check_all(apply(storage(volumes=[victim])))
    assert qemu_io(tmp_path, target[1], first, "write -P 66 0 64k")[0] == 0
    check_all(apply(storage(volumes=[{**victim, "wanted": "absent", "exports": []}])))
    check_all(apply(storage(volumes=[other])))
    code, text = qemu_io(tmp_path, target[1], second, "read -P 0 0 64k")
    assert (code, "failed" in text) == (0, False)
    assert qemu_io(tmp_path, target[1], first, "read 0 4k")[0] != 0
    stolen = {**second, "username": first["username"], "password": first["password"]}
    assert "Authentication failure" in qemu_io(tmp_path, target[1], stolen, "read 0 4k")[1]
