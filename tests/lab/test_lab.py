"""molecule/hosts/lab.py itself: what hosts.yml may say; a lab, killed at any moment, leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "molecule/hosts/lab.py"
sys.path.insert(0, str(ROOT / "molecule"))

from hosts.commands import find_processes  # noqa: E402
from hosts.inventory import LabError, read_lab  # noqa: E402

GOOD = {
    "vars": {"lab_networks": {"management": {"address": "10.231.0.1/24"}, "trunk": {"mtu": 1600}}},
    "hosts": {
        "one": {
            "ansible_host": "10.231.0.10",
            "lab_kind": "container",
            "lab_nics": [{"network": "management", "address": "10.231.0.10/24"}, {"network": "trunk"}],
        }
    },
}


def write_scenario(folder: Path, **changes) -> Path:
    """A scenario of one host, with changed variables of it."""
    host = {name: value for name, value in {**GOOD["hosts"]["one"], **changes}.items() if value is not None}
    folder.mkdir(exist_ok=True)
    text = yaml.safe_dump({"all": {"vars": GOOD["vars"], "children": {"group": {"hosts": {"one": host}}}}})
    (folder / "hosts.yml").write_text(text)
    return folder


def test_what_is_read(tmp_path):
    lab = read_lab(write_scenario(tmp_path / "good"))
    host = lab.hosts["one"]
    assert (host.kind, host.address) == ("container", "10.231.0.10")
    assert [(nic.network.name, nic.network.mtu, nic.address) for nic in host.nics] == [
        ("management", 1500, "10.231.0.10/24"),
        ("trunk", 1600, None),
    ]
    assert lab.namespace.startswith("kumo-lab-good")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lab_kind": "jail"}, "lab_kind is 'jail'"),
        ({"lab_kind": None}, "lab_kind is None"),
        ({"ansible_host": "10.231.0.99"}, "ansible_host '10.231.0.99'"),
        ({"lab_nics": [{"network": "office", "address": "10.231.0.10/24"}]}, "'office'"),
        ({"lab_disks_gb": [8]}, "a container has no disks"),
    ],
)
def test_what_is_refused(tmp_path, changes, says):
    with pytest.raises(LabError, match=says):
        read_lab(write_scenario(tmp_path / "bad", **changes))


def lab_command(action: str, scenario: Path, *command: str) -> list[str]:
    return [sys.executable, str(LAB), action, str(scenario), *command]


def run(action: str, scenario: Path, *command: str, code: int = 0) -> str:
    done = subprocess.run(
        lab_command(action, scenario, *command), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def find_remains(scenario: Path) -> list[str]:
    """What a lab has left on this machine: namespaces, mounts, folders, control groups, processes."""
    lab = read_lab(scenario)
    found = [str(path) for path in Path("/run/netns").glob(f"{lab.namespace}*")]
    found += [str(lab.folder)] if lab.folder.exists() else []
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {lab.folder}/" in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{lab.namespace}*")]
    found += [str(path) for path in Path("/run/systemd/nspawn/propagate").glob(f"{lab.name}-*")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"{lab.folder}/".encode() in path.read_bytes():
                found.append(f"process {path.parent.name}")
        except OSError:
            continue
    return found


@pytest.fixture
def scenario(tmp_path):
    """A scenario that nobody else has; its lab goes however the test ends."""
    folder = write_scenario(tmp_path / f"t{os.getpid()}")
    yield folder
    subprocess.run(lab_command("destroy", folder), check=False, capture_output=True, timeout=120)


def test_a_lab_from_create_to_destroy(scenario):
    outside = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    run("create", scenario)
    assert "answers" in run("status", scenario)
    assert subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout == outside
    routes = run("run", scenario, "--", "ip", "route")
    assert "default" not in routes, "nothing leads out of a lab"
    assert "10.231.0.0/24" in routes
    run("run", scenario, "--", "ping", "-c", "1", "-W", "2", "10.231.0.10")
    run("run", scenario, "--", "false", code=1)
    run("destroy", scenario)
    assert find_remains(scenario) == []
    run("destroy", scenario)
    assert "does not answer" in run("status", scenario, code=1)


@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.5, 3.0])
def test_a_killed_create_leaves_nothing_after_destroy(scenario, seconds):
    create = subprocess.Popen(
        lab_command("create", scenario), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(seconds)
    os.killpg(create.pid, signal.SIGKILL)
    create.wait(10)
    run("destroy", scenario)
    assert find_remains(scenario) == []


def test_a_container_whose_supervisor_was_killed(scenario):
    run("create", scenario)
    pids = find_processes(f"--directory={read_lab(scenario).folder}/hosts/one/root")
    (pid,) = (pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd-nspawn")
    os.kill(pid, signal.SIGKILL)
    run("destroy", scenario)
    assert find_remains(scenario) == []


def test_what_hosts_are_made_from_is_built_outside_of_the_namespace(tmp_path, monkeypatch):
    """A command among hosts that are not there may be what creates them; Debian's packages are out of its reach."""
    from hosts import lab as lab_module
    from hosts import machines

    made = read_lab(write_scenario(tmp_path / "prepared", lab_kind="machine", lab_memory_mb=512))
    order = []
    monkeypatch.setattr(machines, "prepare_memory", lambda host: order.append(("prepared", host.name)))
    monkeypatch.setattr(lab_module.networks, "create_namespace", lambda name: order.append(("entered", name)))
    monkeypatch.setattr(lab_module, "enter_namespace", lambda lab: [])
    monkeypatch.setattr(lab_module.networks, "destroy_bridges", lambda lab: None)
    assert lab_module.run_command(made, ["true"]) == 0
    assert order == [("prepared", "one"), ("entered", made.namespace)]
    order.clear()
    monkeypatch.setattr(machines, "is_up", lambda host, lab: True)
    assert lab_module.run_command(made, ["true"]) == 0
    assert order == [("entered", made.namespace)]  # hosts that run are left as they were made
