"""The machine that was measured on: what it is, and whether it does anything else. Reads /proc; changes nothing."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROBE = Path("/var/lib/kumo/host/virt_type.json")
IDLE_PERCENT = 25.0  # of one core: a cloud at rest, and a guest or two that only wait, stay below


def read_busy_percent(seconds: float = 5.0) -> float:
    """How much of one core is busy meanwhile, in percent; all cores together, so it can be over 100."""

    def read() -> tuple[int, int]:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return sum(fields[:8]), fields[3] + fields[4]

    (all_before, idle_before) = read()
    time.sleep(seconds)
    all_after, idle_after = read()
    passed = max(1, all_after - all_before)
    return 100.0 * os.cpu_count() * (1 - (idle_after - idle_before) / passed)


def read_load() -> str:
    """The load averages over 1, 5 and 15 minutes."""
    return ", ".join(f"{load:.2f}" for load in os.getloadavg())


def _find_line(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.split(":", 1)[1].strip()
    return "unknown"


def read_virtualization() -> str:
    """Whether guests run under KVM here, as the cloud's own probe found by running one."""
    try:
        found = json.loads(PROBE.read_text())["virt_type"]
    except (OSError, ValueError, KeyError):
        return "no cloud's probe has looked whether KVM works"
    return "KVM works" if found == "kvm" else "KVM does not work (guests run under TCG)"


def read_revision() -> str:
    """The checkout's commit, marked where files differ from it; "unknown" where it is no checkout."""
    # The table itself is written by the command: a second run is of the same revision.
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def describe_machine() -> str:
    """One clause: cores, model, memory, system, kernel, KVM."""
    memory = int(_find_line("/proc/meminfo", "MemTotal").split()[0]) / 1024**2
    system = _read_release()
    return (
        f"{os.cpu_count()} cores ({_find_line('/proc/cpuinfo', 'model name')}), {memory:.1f} GiB of memory, {system}, "
        f"Linux {platform.release()}, {read_virtualization()}"
    )


def _read_release() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip('"')
    return "an unknown system"
