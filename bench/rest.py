"""The cloud while nobody asks for anything: how many processes, how much memory, how much CPU. A part of `bench/run`.

Memory is PSS: what processes share is counted once. It grows with what the API has served since it began.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .figures import Figure

# libvirtd and the guests are not ours; nor is what this benchmark or a user runs out of the client's venv.
OURS = re.compile(r"/opt/kumo|/usr/local/lib/kumo|/etc/kumo/|kumo-tgtd|dnsmasq.*kumo")
OTHERS = re.compile(r"qemu-system|client-venv|bench\.part")
REST_S = 60  # the worker looks at a host once a minute: one such look is in it


def find_ours() -> Iterator[tuple[Path, str]]:
    """(folder in /proc, command line) of each of Kumo's processes."""
    here = os.readlink("/proc/self/ns/pid")  # a lab's hosts run Kumo in containers, which are seen from here, too
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "ns/pid") == here:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if OURS.search(line) and not OTHERS.search(line):
                    yield entry, line


def read_memory() -> list[tuple[float, str]]:
    """(PSS in MB, command line) of each, largest first."""
    found = []
    for entry, line in find_ours():
        with contextlib.suppress(OSError):
            match = re.search(r"^Pss:\s+(\d+)", (entry / "smaps_rollup").read_text(), re.MULTILINE)
            found.append((int(match[1]) / 1024, line))
    return sorted(found, reverse=True)


def read_cpu() -> float:
    """Seconds of CPU that they have used, with those of their children that have ended."""
    ticks = 0
    for entry, _ in find_ours():
        with contextlib.suppress(OSError):
            ticks += sum(map(int, (entry / "stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(rounds: int) -> list[Figure]:
    """The part's figures; one look, whatever the rounds are."""
    before, started = read_cpu(), time.monotonic()
    print(f"  {REST_S} s in which nothing is asked for", file=sys.stderr, flush=True)
    time.sleep(REST_S)
    share = 100 * (read_cpu() - before) / (time.monotonic() - started)
    memory = read_memory()
    if not memory:
        raise SystemExit("no process of Kumo's runs here; ./stack.sh makes a cloud")
    profile = "\n".join(f"{megabytes:6.1f} MB  {line[:100]}" for megabytes, line in memory)
    return [
        Figure("processes at rest", len(memory), "", "64", most=12),
        Figure("their memory (PSS)", sum(size for size, _ in memory), "MB", "4.8 GB", most=250, profile=profile),
        Figure("their share of one core at rest", share, "%", most=1.0),
    ]
