"""unstack.sh leaves the machine as it was, runs twice, on half an installation and after kill -9 of everything.

Takes the cloud away: run last. With KUMO_MACHINE_BEFORE (a snapshot by machine.py from before stack.sh)
the comparison is with that; without it these tests stack and unstack by themselves.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import machine
import pytest

ROOT = Path(__file__).resolve().parents[2]
STATE = Path("/var/lib/kumo/stack-state")


def run(*argv: str, timeout: float = 900) -> str:
    """Run a script of the project; its output, and a failed test with the end of it where it fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE", "OS_", "PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{' '.join(argv)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def unstack(*options: str) -> str:
    return run("./unstack.sh", *options)


def show(before: dict, after: dict) -> str:
    """All differences, a line for each: empty where the machine is as it was."""
    return "\n".join(machine.build_differences(before, after))


def kill_everything() -> None:
    """kill -9 of what runs the cloud: supervisor, services, libvirt if ours, guests, DHCP servers."""
    for _ in range(3):
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            ours = any(text.startswith(b"KUMO_SERVICE=") for text in environment)
            if ours or b"/etc/kumo/supervisord.conf" in line or b"/var/lib/kumo/host/" in line:
                try:
                    os.kill(int(entry.name), signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(0.3)


@pytest.fixture(scope="module")
def before() -> dict:
    """The machine without a cloud."""
    given = os.environ.get("KUMO_MACHINE_BEFORE")
    if given and Path(given).is_file():
        return json.loads(Path(given).read_text())
    unstack()
    return machine.read_machine()


def test_dry_run_changes_nothing(before):
    """--dry-run of a whole cloud only talks."""
    if not STATE.exists():
        run("./stack.sh")
    here = machine.read_machine()
    said = run("./unstack.sh", "--dry-run")
    assert "would remove the namespace kumo-r-" in said
    assert "would power off kumo-" in said
    assert show({**here, "files": {}}, {**machine.read_machine(), "files": {}}) == ""


class Foreign:
    """Another bridge, chain, namespace and cloud on this machine, which outlive stack and unstack."""

    CLOUDS = Path("/etc/openstack/clouds.yaml")
    MINE = "clouds:\n  lab: {auth: {auth_url: 'http://lab.example'}}  # mine\n"

    def __init__(self):
        self.had_folder = self.CLOUDS.parent.exists()
        self.had = self.CLOUDS.read_bytes() if self.CLOUDS.exists() else None
        self.CLOUDS.parent.mkdir(exist_ok=True)
        self.CLOUDS.write_text(self.MINE)
        subprocess.run(["ip", "link", "add", "kumote-br", "type", "bridge"], check=True)
        subprocess.run(["iptables", "-N", "not-of-kumo"], check=True)
        subprocess.run(["ip", "netns", "add", "not-of-kumo"], check=True)

    def check(self) -> None:
        assert self.CLOUDS.read_text() == self.MINE
        subprocess.run(["ip", "link", "show", "kumote-br"], check=True)
        subprocess.run(["iptables", "-S", "not-of-kumo"], check=True)
        subprocess.run(["ip", "netns", "exec", "not-of-kumo", "true"], check=True)

    def remove(self) -> None:
        """Safe to repeat."""
        subprocess.run(["ip", "link", "del", "kumote-br"], check=False)
        subprocess.run(["iptables", "-X", "not-of-kumo"], check=False)
        subprocess.run(["ip", "netns", "del", "not-of-kumo"], check=False)
        subprocess.run(["rmdir", "--ignore-fail-on-non-empty", "/run/netns"], check=False)
        if self.had is not None:
            self.CLOUDS.write_bytes(self.had)
            return
        self.CLOUDS.unlink(missing_ok=True)
        if not self.had_folder and self.CLOUDS.parent.exists():
            self.CLOUDS.parent.rmdir()


@pytest.fixture(scope="module")
def foreign():
    made = Foreign()
    yield made
    made.remove()


def test_keep_data(before, request):
    """--keep-data keeps database and images, and the next stack.sh goes on with them, the first server included."""
    if not STATE.exists():
        run("./stack.sh")
    client = ["/opt/kumo/client-venv/bin/openstack", "--os-cloud", "kumo", "server", "show", "first", "-f", "json"]
    server = json.loads(run(*client))
    unstack("--keep-data")
    assert Path("/var/lib/kumo/kumo.db").exists()
    left = show({**before, "files": {}}, {**machine.read_machine(), "files": {}})
    assert left.splitlines() == ["accounts: kumo is new", "accounts: kumo is new"]
    request.getfixturevalue("foreign")  # there before the next stack.sh, which has to live with it
    run("./stack.sh")
    assert "lab.example" in Foreign.CLOUDS.read_text()
    again = json.loads(run(*client))
    assert (again["id"], again["status"]) == (server["id"], "ACTIVE")


def test_whole_cloud(before, foreign):
    """Stacked with a server, unstacked: nothing is left and nothing is missing; a second unstack is as good."""
    if not STATE.exists():
        run("./stack.sh")
    for _ in range(2):
        unstack()
        foreign.check()
    foreign.remove()
    assert show(before, machine.read_machine()) == ""


def test_after_kill_of_everything_and_half_an_installation(before):
    """What a killed stack.sh and kill -9 of all processes leave is taken away too."""
    stack = subprocess.Popen(
        ["./stack.sh", "--no-first-server"], cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and stack.poll() is None:
        if Path("/run/kumo/supervisor.sock").exists():
            break
        time.sleep(0.5)
    os.killpg(stack.pid, signal.SIGKILL)
    stack.wait()
    kill_everything()
    unstack()
    assert show(before, machine.read_machine()) == ""
