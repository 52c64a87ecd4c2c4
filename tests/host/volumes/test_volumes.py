"""Volumes and their targets on this machine: a real backend, a real tgtd, QEMU's own iSCSI initiator."""

import json
import subprocess
import time

from ansible.module_utils.kumo import core, exports, tasks, tgt
from storage_lab import PATIENCE_S, apply, build_export, build_id, build_volume, qemu_io


def test_a_volume_is_made_offered_and_gone(storage, target, tmp_path):
    export = build_export(build_id())
    volume = build_volume(exports=[export])
    made = apply(storage(volumes=[volume]))
    assert made["objects"]["volumes"][volume["id"]] == {"ok": True, "error": None}
    assert made["observed"]["volumes"][volume["id"]]["state"] == "available"
    wanted = {"iqn": f"iqn.2026-11.cloud.kumo:{export['id']}", "portal": target[1], "lun": 1}
    assert made["observed"]["exports"] == {export["id"]: wanted}
    assert apply(storage(volumes=[volume]))["actions"] == []
    code, text = qemu_io(tmp_path, target[1], export, "write -P 7 1M 64k", "read -P 7 1M 64k", "read -P 0 2M 64k")
    assert code == 0, text

    gone = apply(storage(volumes=[build_volume(volume["id"], wanted="absent")]))
    assert volume["id"] not in gone["observed"]["volumes"]
    assert gone["observed"]["exports"] == {}
    assert qemu_io(tmp_path, target[1], export, "read 0 4k")[0] != 0


def test_s12_a_target_opens_only_with_its_own_credentials(storage, target, tmp_path):
    one, other = build_export(build_id()), build_export(build_id())
    apply(storage(volumes=[build_volume(exports=[one]), build_volume(exports=[other])]))
    assert qemu_io(tmp_path, target[1], one, "read 0 4k")[0] == 0
    wrong = qemu_io(tmp_path, target[1], one, "read 0 4k", password="not-the-password")
    assert wrong[0] != 0
    assert "Authentication failure" in wrong[1]
    others = qemu_io(tmp_path, target[1], one, "read 0 4k", user=other["username"], password=other["password"])
    assert others[0] != 0
    assert "Authentication failure" in others[1]


def test_s12_a_cut_session_finds_nothing_when_it_comes_back(storage, target, tmp_path):
    first, second = build_export(build_id()), build_export(build_id())
    volume = build_volume(exports=[first])
    apply(storage(volumes=[volume]))
    code, text = qemu_io(tmp_path, target[1], first, "write -P 5 0 4k")
    assert code == 0, text
    apply(storage(volumes=[build_volume(volume["id"], exports=[second])]))
    assert qemu_io(tmp_path, target[1], first, "read 0 4k")[0] != 0
    code, text = qemu_io(tmp_path, target[1], second, "read -P 5 0 4k")
    assert code == 0, text
    assert "failed" not in text


def test_a_read_only_export_refuses_to_be_written(storage, target, tmp_path):
    export = build_export(build_id(), read_only=True)
    apply(storage(volumes=[build_volume(exports=[export])]))
    assert qemu_io(tmp_path, target[1], export, "read 0 4k")[0] == 0
    assert qemu_io(tmp_path, target[1], export, "write 0 4k")[0] != 0


def test_an_extended_volume_is_larger_under_an_open_session(storage, target, tmp_path):
    export = build_export(build_id())
    volume = build_volume(exports=[export])
    apply(storage(volumes=[volume]))
    code, text = qemu_io(tmp_path, target[1], export, "write -P 3 0 4k")
    assert code == 0, text
    larger = apply(storage(volumes=[{**volume, "size_gb": 2}]))
    assert [one["verb"] for one in larger["actions"]] == ["extend", "grow"]
    assert larger["observed"]["volumes"][volume["id"]]["size_gb"] == 2
    code, text = qemu_io(
        tmp_path, target[1], export, "read -P 3 0 4k", "read -P 0 1G 64M", "write -P 4 1500M 4k", "read -P 4 1500M 4k"
    )
    assert code == 0, text
    assert "failed" not in text
    assert apply(storage(volumes=[{**volume, "size_gb": 2}]))["actions"] == []


def test_tgtd_that_forgot_everything_is_told_again(storage, target, tmp_path):
    export = build_export(build_id())
    document = storage(volumes=[build_volume(exports=[export])])
    apply(document)
    tids = [tid for tid, one in tgt.read_targets(target[0]).items() if one["iqn"].endswith(export["id"])]
    subprocess.run(["tgtadm", "-C", str(target[0]), "--lld", "iscsi", "--mode", "target", "--op", "delete", "--force",
                    "--tid", str(tids[0])], check=True)  # fmt: skip
    assert [one["verb"] for one in apply(document)["actions"]] == ["export"]
    assert qemu_io(tmp_path, target[1], export, "read 0 4k")[0] == 0


def test_targets_of_others_are_left_alone(storage, target):
    command = ["tgtadm", "-C", str(target[0]), "--lld", "iscsi", "--mode", "target"]
    for tid, name in (("900", "iqn.2001-04.example:theirs"), ("901", tgt.IQN + build_id())):
        subprocess.run([*command, "--op", "new", "--tid", tid, "--targetname", name], check=True)
    apply(storage(volumes=[build_volume(exports=[build_export(build_id())])]))
    apply(storage(volumes=[]))
    assert {900, 901} == set(tgt.read_targets(target[0])) & {900, 901}


def test_snapshots_and_copies_hold_what_was_there(storage, target, tmp_path):
    export = build_export(build_id())
    volume, snapshot = build_volume(exports=[export]), {"id": build_id(), "wanted": "present", "size_gb": 1}
    snapshot["volume"] = volume["id"]
    apply(storage(volumes=[volume]))
    code, text = qemu_io(tmp_path, target[1], export, "write -P 8 512M 1M")
    assert code == 0, text
    volume = {**volume, "exports": []}
    taken = apply(storage(volumes=[volume], snapshots=[snapshot]))
    assert taken["observed"]["snapshots"][snapshot["id"]]["state"] == "available", taken["objects"]

    volume = {**volume, "exports": [export]}
    apply(storage(volumes=[volume], snapshots=[snapshot]))
    code, text = qemu_io(tmp_path, target[1], export, "write -P 9 512M 1M")
    assert code == 0, text
    reader = build_export(build_id())
    copy = build_volume(size_gb=2, source={"snapshot": snapshot["id"]}, exports=[reader])
    made = apply(storage(volumes=sorted([volume, copy], key=lambda row: row["id"]), snapshots=[snapshot]))
    assert made["observed"]["volumes"][copy["id"]] == {
        "state": "available",
        "size_gb": 2,
        "progress": None,
        "error": None,
    }
    code, text = qemu_io(tmp_path, target[1], reader, "read -P 8 512M 1M", "read -P 0 1600M 1M")
    assert code == 0, text
    assert "failed" not in text


def test_a_copy_that_is_whole_before_its_run_ends_is_exported_too(storage, target, tmp_path, monkeypatch):
    plan = exports.plan_exports

    def plan_and_wait(document, observed):
        planned = plan(document, observed)
        for record in tasks.read_tasks(document).values():
            tasks.wait(document, record["kind"], record["object_id"], time.monotonic() + PATIENCE_S)
        return planned

    monkeypatch.setattr(exports, "plan_exports", plan_and_wait)
    first, export = build_volume(), build_export(build_id())
    apply(storage(volumes=[first]))
    copy = build_volume(source={"volume": first["id"]}, exports=[export])
    made = apply(storage(volumes=sorted([first, copy], key=lambda row: row["id"])))
    assert made["observed"]["volumes"][copy["id"]]["state"] == "available"
    code, text = qemu_io(tmp_path, target[1], export, "read -P 0 0 4k")
    assert code == 0, text


def test_a_snapshot_in_use_is_of_one_moment_or_refused(storage):
    volume = build_volume(exports=[build_export(build_id())])
    snapshot = {"id": build_id(), "volume": volume["id"], "wanted": "present", "size_gb": 1}
    apply(storage(volumes=[volume]))
    made = apply(storage(volumes=[volume], snapshots=[snapshot]))
    outcome = made["objects"]["volumes"][snapshot["id"]]
    if made["observed"]["host"]["storage"]["snapshot_in_use"]:
        assert outcome["ok"]
    else:
        assert "is in use" in outcome["error"]
        assert snapshot["id"] not in made["observed"]["snapshots"]


def test_a_volume_of_an_image_is_the_disk_in_it(storage, target, tmp_path):
    import hashlib

    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(b"\x21" * 65536 + bytes(1 << 20))
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, image], check=True)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    row = {"id": build_id(), "checksum": f"sha256:{digest}", "size": image.stat().st_size, "disk_format": "qcow2",
           "virtual_size": raw.stat().st_size, "source": {"path": str(image)}}  # fmt: skip
    export = build_export(build_id())
    volume = build_volume(source={"image": row["id"]}, exports=[export])
    made = apply(storage(images=[row], volumes=[volume]))
    assert made["observed"]["volumes"][volume["id"]]["state"] == "available", json.dumps(made["objects"])
    code, text = qemu_io(tmp_path, target[1], export, "read -P 33 0 64k", "read -P 0 64k 64k")
    assert code == 0, text
    assert "failed" not in text


def test_s05_what_a_guest_wrote_is_bytes_and_no_format(storage, target, tmp_path):
    """A guest's qcow2 header with the host's files behind it: the copy has the header's bytes, and nothing else."""
    evil = tmp_path / "evil.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", evil, "1M"]
    subprocess.run(command, check=True)
    export, reader = build_export(build_id()), build_export(build_id())
    volume = build_volume(exports=[export])
    apply(storage(volumes=[volume]))
    assert qemu_io(tmp_path, target[1], export, f"write -s {evil} 0 128k")[0] == 0
    volume = {**volume, "exports": []}
    copy = build_volume(source={"volume": volume["id"]}, exports=[reader])
    apply(storage(volumes=[volume]))
    apply(storage(volumes=sorted([volume, copy], key=lambda row: row["id"])))
    code, text = qemu_io(tmp_path, target[1], reader, "read -v 0 16")
    assert code == 0, text
    assert "51 46 49 fb" in text


def test_an_image_larger_than_the_volume_is_refused(storage, tmp_path):
    import hashlib

    image = tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "3G"], check=True)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    row = {"id": build_id(), "checksum": f"sha256:{digest}", "size": image.stat().st_size, "disk_format": "qcow2",
           "virtual_size": 3 << 30, "source": {"path": str(image)}}  # fmt: skip
    volume = build_volume(source={"image": row["id"]})
    made = apply(storage(images=[row], volumes=[volume]))
    assert "the volume has 1 GiB" in made["objects"]["volumes"][volume["id"]]["error"]


def test_nothing_is_made_above_the_watermark(storage):
    document = storage(volumes=[build_volume()])
    document["settings"]["storage"]["max_percent"] = 0
    made = apply(document)
    assert "nothing is made above 0 %" in made["objects"]["volumes"][document["volumes"][0]["id"]]["error"]
    assert made["observed"]["volumes"] == {}


def test_what_the_document_does_not_know_is_an_orphan_and_stays(storage):
    volume = build_volume()
    apply(storage(volumes=[volume]))
    left = apply(storage(volumes=[]))
    assert left["observed"]["orphans"]["volumes"] == [volume["id"]]
    assert apply(storage(volumes=[volume]))["observed"]["volumes"][volume["id"]]["state"] == "available"


def test_a_dead_tgtd_is_the_exports_error_and_the_volume_is_made(storage):
    export = build_export(build_id())
    document = storage(volumes=[build_volume(exports=[export])])
    document["settings"]["storage"]["control_port"] = 999
    made = core.run_sections(document)
    assert made["objects"]["volumes"][document["volumes"][0]["id"]]["ok"]
    assert "is it running?" in made["objects"]["exports"][export["id"]]["error"]
