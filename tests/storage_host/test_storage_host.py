"""A storage host as the role made it, with a volume that an operator asked for by hand: no control plane is there."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

HOST, GROUP, POOL = "storage1", "kumo", "kumo"
PORTAL = "10.231.0.10:3260"
IQN = "iqn.2026-11.cloud.kumo:"
PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 600  # a whole kernel under emulation, on a busy machine


@pytest.fixture(scope="module")
def made(lab, tmp_path_factory):
    """A volume with one export, made by apply_host.yml as an operator would; gone afterwards."""
    export = {"id": str(uuid.uuid4()), "password": uuid.uuid4().hex[:16], "read_only": False}
    export["username"] = export["id"].replace("-", "")
    volume = {"id": str(uuid.uuid4()), "project_id": "p", "wanted": "present", "size_gb": 1, "source": None}
    folder = tmp_path_factory.mktemp("document")
    yield {"volume": volume["id"], "export": export, "result": apply(lab, folder, [{**volume, "exports": [export]}])}
    gone = {"id": volume["id"], "project_id": "p", "wanted": "absent"}
    apply(lab, folder, [gone])
    assert volume["id"] not in lab.run(HOST, "lvs --noheadings -o lv_name", root=True, timeout=PATIENCE_S)


def apply(lab, folder: Path, volumes: list[dict]) -> str:
    """What apply_host.yml prints for a document of the host's own settings and these volumes."""
    storage = {"backend": "lvm", "portal": PORTAL, "volume_group": GROUP}
    settings = {"hypervisor": False, "storage": storage}
    document = {"version": 1, "host": HOST, "settings": settings, "volumes": volumes, "snapshots": []}
    (folder / "document.json").write_text(json.dumps({"kumo_document": document}))
    play = [PLAYBOOK, "-i", lab.inventory, ROOT / "playbooks/apply_host.yml", "--become"]
    done = subprocess.run(
        [*play, "-e", f"@{folder}/document.json"],
        capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_iscsi(tmp_path, export: dict, *commands: str, **changed) -> tuple[int, str]:
    """What QEMU's own initiator, in the lab's namespace, says to commands of qemu-io."""
    told = {**export, **changed}
    words = (
        f"driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={PORTAL},file.lun=1,file.target={IQN}{told['id']}"
    )
    secret = []
    if told["password"]:
        (tmp_path / "secret").write_text(told["password"])
        words += f",file.user={told['username']},file.password-secret=s"
        secret = ["--object", f"secret,id=s,file={tmp_path}/secret"]
    asked = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", *secret, "--image-opts", words, *asked], capture_output=True, text=True, timeout=PATIENCE_S
    )
    return done.returncode, done.stdout + done.stderr


def test_the_pool_is_made_of_the_disk_that_was_named(lab):
    shown = lab.run(HOST, f"lvs --noheadings -o lv_name,lv_layout,zero {GROUP}", root=True, timeout=PATIENCE_S)
    assert shown.split() == [POOL, "thin,pool", "zero"]
    # The contract suite has a group of its own, on the disk that is for it.
    shown = lab.run(HOST, f"pvs --noheadings -o pv_name -S vg_name={GROUP}", root=True, timeout=PATIENCE_S)
    assert shown.split() == ["/dev/vdb"]


def test_the_target_daemon_listens_at_its_portal_and_nowhere_else(lab):
    lines = lab.run(HOST, "ss -Hltnp", root=True, timeout=PATIENCE_S).splitlines()
    assert [line.split()[3] for line in lines if "tgtd" in line] == [PORTAL]


def test_s12_a_volume_is_read_with_its_own_credentials_and_by_nobody_else(lab, made, tmp_path):
    export = made["export"]
    code, text = read_iscsi(tmp_path, export, "write -P 9 1M 64k", "read -P 9 1M 64k", "read -P 0 2M 64k")
    assert (code, "failed" in text) == (0, False), text
    for changed in ({"password": "another"}, {"username": "another"}, {"password": ""}):
        code, text = read_iscsi(tmp_path, export, "read 0 4k", **changed)
        assert code != 0
        assert "authentic" in text.lower() or "login" in text.lower(), text
    assert read_iscsi(tmp_path, export, "read 0 4k", id=str(uuid.uuid4()))[0] != 0


def test_s14_the_password_is_in_no_argument_and_no_log_of_the_host(lab, made):
    password = made["export"]["password"]
    assert password not in made["result"]
    shown = lab.run(
        HOST, "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'; journalctl --no-pager -q;"
        " cat /var/log/kumo/*; cat /var/lib/kumo/host/*.json /var/lib/kumo/host/tasks/* 2>/dev/null || true",
        root=True, timeout=PATIENCE_S, code=None,
    )  # fmt: skip
    assert "kumo-tgtd" in shown
    assert password not in shown


def test_the_same_document_again_changes_nothing(lab, made, tmp_path):
    volume = {"id": made["volume"], "project_id": "p", "wanted": "present", "size_gb": 1, "source": None}
    assert "changed=0" in apply(lab, tmp_path, [{**volume, "exports": [made["export"]]}])


def test_a_volume_is_there_with_its_data_after_a_reboot(lab, made, tmp_path):
    """Its target is not, for tgtd keeps nothing, and the next run makes it."""
    export = made["export"]
    assert read_iscsi(tmp_path, export, "write -P 17 8M 64k", "flush")[0] == 0
    before = lab.run(HOST, "cat /proc/sys/kernel/random/boot_id", timeout=PATIENCE_S)
    lab.run(HOST, "systemctl reboot", root=True, code=None, timeout=PATIENCE_S)
    wait_for_boot(lab, before)
    volume = {"id": made["volume"], "project_id": "p", "wanted": "present", "size_gb": 1, "source": None}
    apply(lab, tmp_path, [{**volume, "exports": [export]}])
    code, text = read_iscsi(tmp_path, export, "read -P 17 8M 64k")
    assert (code, "failed" in text) == (0, False), text


def wait_for_boot(lab, before: str) -> None:
    from cloud_lab import CommandFailed, wait_for

    def is_anew() -> bool:
        try:
            ask = "cat /proc/sys/kernel/random/boot_id; systemctl is-system-running --wait"
            shown = lab.run(HOST, ask, shared=False, timeout=120, both=False, code=None)
        except (CommandFailed, subprocess.TimeoutExpired):
            return False
        words = shown.split()
        return len(words) == 2 and words[0] != before.strip() and words[1] == "running"

    wait_for("the host to be back", is_anew, 2 * PATIENCE_S, pause=2)
