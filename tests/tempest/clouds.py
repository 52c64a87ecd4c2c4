"""The clouds that tempest is run against: that of ./stack.sh on this machine, and that of a lab (molecule/hosts).

Owns: how one is spoken to as its admin, and where the files of its guest image are. May not: know what tempest asks.
Next rooms: run.py; tests/multi_host/cloud_lab.py, which knows labs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv/bin/python"
CLOUDS = Path("/etc/openstack/clouds.yaml")
IMAGE_FILES = ("kumo-guest.qcow2", "kumo-guest.json")


@dataclass(frozen=True)
class Cloud:
    """``client``: the command `openstack`; ``clouds``: its clouds.yaml, with kumo-admin; ``settings``: kumo.conf.

    ``settings`` is None where no image can be fetched from where tempest runs, whatever it says.
    """

    client: Path
    clouds: Path
    guest_image: Path
    settings: Path | None

    def openstack(self, *words: str):
        """What a command of the client answers, parsed; ends the program with its words where it fails."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        done = subprocess.run(
            [str(self.client), "--os-cloud", "kumo-admin", *words],
            env={**environment, "OS_CLIENT_CONFIG_FILE": str(self.clouds)},
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"run.py: openstack {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
        return json.loads(done.stdout) if "json" in words else done.stdout

    def read_names(self, *words: str) -> set[str]:
        return {row["Name"] for row in self.openstack(*words, "-f", "json")}

    def read_login_user(self) -> str:
        """The guest image's account."""
        return json.loads((self.guest_image / "kumo-guest.json").read_text()).get("login_user", "cirros")

    def count_hypervisors(self) -> int:
        """How many are up and take guests."""
        rows = self.openstack("compute", "service", "list", "--service", "nova-compute", "-f", "json")
        return sum((row["State"], row["Status"]) == ("up", "enabled") for row in rows)


def is_in_lab() -> bool:
    """Whether this program is in a lab's network namespace (`lab.py run`)."""
    return "KUMO_LAB_FOLDER" in os.environ


def enter_lab(scenario: str) -> int:
    """This program again, in the lab's namespace, from where its API and floating addresses are reached."""
    lab = [str(PYTHON), str(ROOT / "molecule/hosts/lab.py"), "run", scenario, "--"]
    return subprocess.run([*lab, str(PYTHON), *sys.argv], check=False).returncode


def find_cloud() -> Cloud:
    """The lab's where we are in one, else this machine's; ends the program where there is none."""
    if is_in_lab():
        return _find_lab_cloud()
    if not CLOUDS.exists():
        sys.exit("run.py: there is no cloud on this machine; run ./stack.sh first")
    client, settings = Path("/opt/kumo/client-venv/bin/openstack"), Path("/etc/kumo/kumo.conf")
    return Cloud(client, CLOUDS, Path("/var/lib/kumo/guest-image"), settings)


def _find_lab_cloud() -> Cloud:
    """Passwords and guest image are read from the controller, by ssh."""
    sys.path.insert(0, str(ROOT / "tests/multi_host"))
    import cloud_lab

    if not (Path(os.environ["KUMO_LAB_FOLDER"]) / "id_ed25519").exists():
        sys.exit("run.py: the lab has no hosts; lab.py run SCENARIO_DIR -- molecule converge -s SCENARIO first")
    lab = cloud_lab.CloudLab()
    folder = lab.folder / "guest-image"
    folder.mkdir(exist_ok=True)
    for name in IMAGE_FILES:
        with (folder / name).open("wb") as stream:
            words = [*lab.ssh(lab.controller), f"cat {cloud_lab.GUEST_IMAGE}/{name}"]
            subprocess.run(words, stdout=stream, stdin=subprocess.DEVNULL, check=True, timeout=120)
    return Cloud(cloud_lab.OPENSTACK, lab.write_clouds(), folder, None)
