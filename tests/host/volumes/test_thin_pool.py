"""What only the backend lvm has: a pool that fills, labels that guests write, other people's logical volumes."""

import os
import re
import subprocess
from pathlib import Path

from storage_lab import MIB, STORAGE, apply, build_id, build_volume, fill, open_volume, read_contents
from test_contract import check_all, read_at

GROUP, POOL = STORAGE["volume_group"], STORAGE.get("thin_pool", "kumo")


def lvm(*words: str) -> str:
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def read_percent(storage) -> float:
    return read_contents(storage())["pool"]["used_percent"]


def test_a_pool_that_fills_refuses_until_something_goes(storage):
    volume, more = build_volume(), build_volume()
    before = read_percent(storage)
    check_all(apply(storage(volumes=[volume])))
    size = int(
        lvm("lvs", "--noheadings", "--units", "m", "--nosuffix", "-o", "lv_size", f"{GROUP}/{POOL}").split(".")[0]
    )
    fill(open_volume(storage(), volume["id"]), 0x99, size * MIB // 4)
    full = read_percent(storage)
    assert full > before + 20
    document = storage(volumes=[volume, more])
    document["settings"]["storage"]["max_percent"] = int(full) - 5
    refused = apply(document)["objects"]["volumes"][more["id"]]["error"]
    assert "the pool's data is" in refused
    assert f"nothing is made above {int(full) - 5} %" in refused
    assert apply(document)["objects"]["volumes"][volume["id"]]["ok"]
    check_all(apply(storage(volumes=[{**volume, "wanted": "absent"}])))
    assert read_percent(storage) < before + 1
    document["volumes"] = [more]
    check_all(apply(document))


def test_s11_a_pool_that_does_not_zero_is_refused(storage):
    volume = build_volume()
    lvm("lvchange", "--yes", "--zero", "n", f"{GROUP}/{POOL}")
    try:
        outcome = apply(storage(volumes=[volume]))
        assert "gives out blocks as they were" in outcome["objects"]["volumes"][volume["id"]]["error"]
        assert "--zero y" in outcome["observed"]["host"]["storage"]["problem"]
        assert read_contents(storage())["objects"] == {}
    finally:
        lvm("lvchange", "--yes", "--zero", "y", f"{GROUP}/{POOL}")
    check_all(apply(storage(volumes=[volume])))


def test_s05_a_guests_own_lvm_labels_are_not_the_hosts(storage):
    """A guest writes the very label of the host's disk on its volume: the host goes on with its own."""
    volume, other = build_volume(), build_volume()
    check_all(apply(storage(volumes=[volume])))
    path = open_volume(storage(), volume["id"])
    disk = lvm("pvs", "--noheadings", "-o", "pv_name", "-S", f"vg_name={GROUP}").strip()
    with open(path, "r+b") as stream:
        stream.write(read_at(Path(disk), 0, MIB))
        stream.flush()
        os.fsync(stream.fileno())
    check_all(apply(storage(volumes=[volume, other])))
    # What the label does where volumes are looked into: LVM finds one disk twice, and has to choose.
    looked = subprocess.run(
        ["pvs", "--config", "devices { scan_lvs = 1 }"], capture_output=True, text=True, timeout=120
    )
    assert re.search("duplicate|prefers device", looked.stdout + looked.stderr)
    check_all(apply(storage(volumes=[{**volume, "wanted": "absent"}, other])))


def test_a_missing_volume_group_is_each_volumes_error_and_nothing_is_taken_for_gone(storage):
    volume = build_volume()
    check_all(apply(storage(volumes=[volume])))
    document = storage(volumes=[{**volume, "wanted": "absent"}])
    document["settings"]["storage"]["volume_group"] = "nosuch"
    outcome = apply(document)
    assert 'Volume group "nosuch" not found' in outcome["objects"]["volumes"][volume["id"]]["error"]
    assert volume["id"] in read_contents(storage())["objects"]


def test_logical_volumes_of_others_are_left_alone(storage):
    name = f"kumo-volume-{build_id()}"
    lvm("lvcreate", "--yes", "--type", "thin", "-V", "64m", "--thinpool", f"{GROUP}/{POOL}", "-n", name, GROUP)
    try:
        result = check_all(apply(storage(volumes=[])))
        assert result["observed"]["orphans"]["volumes"] == []
        gone = {"id": name.removeprefix("kumo-volume-"), "wanted": "absent"}
        check_all(apply(storage(volumes=[gone])))
        assert name in lvm("lvs", "--noheadings", "-o", "lv_name", GROUP)
    finally:
        lvm("lvremove", "--yes", f"{GROUP}/{name}")


def test_a_volume_that_is_not_active_is_made_so_when_it_is_needed(storage):
    """After the host was started with automatic activation turned off."""
    volume = build_volume()
    check_all(apply(storage(volumes=[volume])))
    fill(open_volume(storage(), volume["id"]), 0x31, MIB)
    lvm("lvchange", "--activate", "n", f"{GROUP}/kumo-volume-{volume['id']}")
    assert read_at(open_volume(storage(), volume["id"]), 0, 2 * MIB) == b"\x31" * MIB + bytes(MIB)


def test_a_removed_volume_is_discarded_on_the_disks_below(storage):
    """The machine's disk is a sparse file whose discards are holes: the disk's own count of what is in use falls."""
    volume = build_volume()
    check_all(apply(storage(volumes=[volume])))
    fill(open_volume(storage(), volume["id"]), 0x42, 64 * MIB)
    device = lvm("pvs", "--noheadings", "-o", "pv_name", "-S", f"vg_name={GROUP}").split()[0].rsplit("/", 1)[1]
    before = read_discarded(device)
    check_all(apply(storage(volumes=[{**volume, "wanted": "absent"}])))
    assert read_discarded(device) - before >= 60 * MIB


def read_discarded(device: str) -> int:
    """Bytes of the disk that were discarded since it was started (Documentation/block/stat.rst, field 14)."""
    with open(f"/sys/block/{device}/stat") as stream:
        return int(stream.read().split()[13]) * 512
