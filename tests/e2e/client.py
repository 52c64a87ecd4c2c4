"""The unmodified `openstack` command, as these tests call it; waiting, and processes by what they are."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

OPENSTACK = "/opt/kumo/client-venv/bin/openstack"
KEY = "/var/lib/kumo/first-server/id_ed25519"
QUIET = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")


def openstack(words: str, cloud: str = "kumo", code: int = 0, timeout: float = 240) -> str:
    """Standard output of one command, its words as a user types them; both outputs where it is to fail."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
    environment["OS_CLOUD"] = cloud
    done = subprocess.run(
        [OPENSTACK, *words.split()], env=environment, capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == code, (
        f"openstack {words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    )
    return done.stdout if code == 0 else done.stdout + done.stderr


def ask(words: str, cloud: str = "kumo", **options):
    """What a command answers, parsed."""
    return json.loads(openstack(f"{words} -f json", cloud, **options))


def wait_for(what: str, condition, seconds: float = 60, pause: float = 0.3):
    """The first true value of ``condition``; a failed test that says what was waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(pause)
    raise AssertionError(f"waited {seconds} s for {what}")


def pings(address: str) -> bool:
    return subprocess.run(["ping", "-c", "1", "-W", "1", address], capture_output=True, check=False).returncode == 0


def ssh(address: str, command: str, key: str = KEY) -> str:
    """Standard output of a command in a guest."""
    done = subprocess.run(
        ["ssh", "-i", key, *QUIET, "-o", "ConnectTimeout=5", "-o", "BatchMode=yes", f"cirros@{address}", command],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers_ssh(address: str, key: str = KEY) -> bool:
    try:
        return ssh(address, "true", key) == ""
    except (AssertionError, subprocess.TimeoutExpired):
        return False


def find_pids(*patterns: str) -> set[int]:
    """Processes whose command line has all the patterns."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if all(pattern in line for pattern in patterns):
                found.add(int(entry.name))
    return found


def domain_exists(server_id: str) -> bool:
    done = subprocess.run(
        ["virsh", "-c", "qemu:///system", "domuuid", f"kumo-{server_id}"], capture_output=True, check=False
    )
    return done.returncode == 0


def find_remains(server_id: str, ports: list[str]) -> list[str]:
    """What a deleted server has left on this host: domain, files, QEMU, taps, chains, metadata."""
    remains = [f"domain kumo-{server_id}"] if domain_exists(server_id) else []
    folder = Path("/var/lib/kumo/host/servers") / server_id
    remains += [str(folder)] if folder.exists() else []
    remains += [f"process {pid}" for pid in find_pids("qemu-system", server_id)]
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    for port in ports:
        short = port.replace("-", "")[:11]
        remains += [f"link of port {port}"] if short in links else []
        remains += [f"rules of port {port}"] if short in rules else []
    return remains
