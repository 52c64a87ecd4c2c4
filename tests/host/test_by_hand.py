"""An operator's own play: the example inventory's document, with no API, no database and no worker present."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventories" / "example"


def read_links() -> str:
    return subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout


def test_the_example_is_understood_in_check_mode_and_changes_nothing(libvirt_host, example_document):
    """--check --diff shows what it would do, object by object, and does none of it."""
    before = read_links()
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(EXAMPLE), "--limit", "compute1",
            "-e", "ansible_connection=local",
            "--check", "--diff", str(ROOT / "playbooks" / "apply_host.yml"),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "KUMO_CONFIG": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("networks", "routers", "servers"):
        for row in example_document[name]:
            if name == "networks" and row["home"] is None:
                continue  # an external network is the physical network's bridge
            assert row["id"] in done.stdout, f"{name} {row['id']} is not in what would be done"
    assert "changed=1" in done.stdout
    assert read_links() == before
    assert not Path(example_document["settings"]["state_dir"]).exists()
