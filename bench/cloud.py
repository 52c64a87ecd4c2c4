"""The cloud of ./stack.sh as the parts see it: by the unmodified SDK, and what a server is made of there.

Measures nothing. Needs /opt/kumo/client-venv's Python; next rooms: `servers.py`, `network.py`, `volumes.py`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import openstack

RUNS = Path("/var/lib/kumo/runs")
READY = "KUMO-GUEST-READY"  # the guest image's last word: its name and keys are there, sshd answers
BEGUN = "kumo: root is up"  # the first word of its own init
POLL_S = 0.05


class Missing(Exception):
    """What was waited for did not come, in words."""


def say(text: str) -> None:
    """One line of progress."""
    print(f"  {text}", file=sys.stderr, flush=True)


def call(*command: str, **options) -> str:
    """What a command prints; CalledProcessError where it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, **options).stdout


def timed(function) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def wait_for(look, what: str, seconds: float = 120, every: float = POLL_S):
    """What ``look`` returns once it is true; Missing where that does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(every)
    raise Missing(f"{what}: not within {seconds:.0f} s")


def wait_until_quiet() -> None:
    """No run for 1.5 s: what a delete leaves to be tidied is not the next step's to pay for; a minute at most."""
    deadline, quiet_since = time.monotonic() + 60, time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - quiet_since < 1.5:
        if any(RUNS.glob("run-*")):
            quiet_since = time.monotonic()
        time.sleep(POLL_S)


def wait_for_line(console: Path, line: str, seconds: float = 120) -> None:
    """Until a guest has said it on its serial port; read where libvirt writes it, as root."""
    wait_for(
        lambda: console.exists() and line in console.read_text(errors="replace"),
        f"{line!r} in {console}",
        seconds,
        0.02,
    )


def find_console(server) -> Path:
    """Where the host keeps what a server says on its serial port."""
    return Path("/var/lib/kumo/host/servers", server.id, "console.log")


def wait_status(cloud, volume, status: str) -> None:
    """Until a volume has that status; Missing where it has an error."""

    def look() -> bool:
        seen = cloud.block_storage.get_volume(volume.id).status
        if seen.startswith("error"):
            raise Missing(f"volume {volume.id} is {seen}")
        return seen == status

    wait_for(look, f"volume {volume.id} {status}")


class Cloud:
    """A connection as a member of a project, and the image, flavor and network that servers are made of."""

    def __init__(self, name: str = "kumo"):
        self.sdk = openstack.connect(cloud=name)
        self.image = self.sdk.image.find_image("kumo-guest", ignore_missing=False)
        self.flavor = self.sdk.compute.find_flavor("m1.nano", ignore_missing=False)
        self.network = self.sdk.network.find_network("private", ignore_missing=False)
        self.public = self.sdk.network.find_network("public", ignore_missing=False)

    def post_server(self, name: str, **wanted):
        """What POST /servers answers."""
        return self.sdk.compute.create_server(
            name=name, image_id=self.image.id, flavor_id=self.flavor.id, networks=[{"uuid": self.network.id}], **wanted
        )

    def is_active(self, server) -> bool:
        """Whether it is; Missing where it is in ERROR."""
        seen = self.sdk.compute.get_server(server.id)
        if seen.status == "ERROR":
            raise Missing(f"server {server.id} is in ERROR: {seen.fault}")
        return seen.status == "ACTIVE"

    def wait_until_active(self, server) -> None:
        """Until it is ACTIVE; Missing where it is in ERROR."""
        wait_for(lambda: self.is_active(server), f"server {server.id} ACTIVE", every=0.1)

    def delete_server(self, server) -> None:
        """DELETE, and until nothing of it is found."""
        self.sdk.compute.delete_server(server.id)
        wait_for(lambda: self.sdk.compute.find_server(server.id) is None, f"server {server.id} gone")
