"""How long ./stack.sh takes to ssh into the first server, and what it puts on the disk. A part of `bench/run`, as root.

On a cloud that runs this is read from stack.sh's log; with ``anew`` the cloud is taken away and made again first.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .figures import Figure

ROOT = Path(__file__).resolve().parent.parent
LOG = Path("/var/log/kumo/stack.log")
PACKAGES = Path("/var/lib/kumo/stack-state/packages")
FOLDERS = ("/opt/kumo", "/usr/local/lib/kumo", "/etc/kumo", "/var/cache/kumo", "/var/lib/kumo/guest-image")
BEGIN = re.compile(r"^stack\.sh (\d{4}-\d\d-\d\d)T\S+$", re.MULTILINE)
DONE = re.compile(r"^\[ *(\d+) s\] Done$", re.MULTILINE)
FIRST = re.compile(r"\$ openstack .*\bserver create\b")


def parse_log(text: str) -> tuple[int, str] | None:
    """(seconds, date) of the last stack.sh in its log that made the first server; None where none did."""
    begins = list(BEGIN.finditer(text))
    for place in reversed(range(len(begins))):
        end = begins[place + 1].start() if place + 1 < len(begins) else len(text)
        session = text[begins[place].end() : end]
        done = DONE.search(session)
        if done and FIRST.search(session):
            return int(done[1]), begins[place][1]
    return None


def read_size(folder: str) -> int:
    """Bytes that a folder takes on the disk; files of several names count once."""
    seen, total = set(), 0
    for parent, _, names in os.walk(folder):
        for name in names:
            found = os.lstat(os.path.join(parent, name))
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total


def read_packages() -> tuple[int, int]:
    """(how many Debian packages came with stack.sh, their bytes by dpkg's count)."""
    names = PACKAGES.read_text().split() if PACKAGES.exists() else []
    if not names:
        return 0, 0
    words = ["dpkg-query", "--show", "--showformat", "${Installed-Size}\n", *names]
    sizes = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    return len(names), sum(map(int, sizes)) * 1024


def install_anew() -> None:
    """./unstack.sh, then ./stack.sh; CalledProcessError where one fails."""
    for script in ("unstack.sh", "stack.sh"):
        print(f"  ./{script}", file=sys.stderr, flush=True)
        subprocess.run([str(ROOT / script)], stdout=sys.stderr, check=True, timeout=1800)


def measure(rounds: int, anew: bool = False) -> list[Figure]:
    """The part's figures; once, whatever the rounds are. Without a log of a first server: the disk alone."""
    if anew:
        install_anew()
    packages, size = read_packages()
    figures = []
    found = parse_log(LOG.read_text(errors="replace")) if LOG.exists() else None
    came = f"{packages} Debian packages came with it" if packages else "all Debian packages were there before"
    if found:
        seconds, date = found
        figures.append(
            Figure(f"install, to ssh into the first server ({date}; {came})", seconds, "s", "400 s", most=240)
        )
    else:
        print(f"  {LOG} tells of no installation to the first server: not measured", file=sys.stderr, flush=True)
    megabytes = (size + sum(map(read_size, FOLDERS))) / 1024**2
    figures.append(Figure(f"its size on the disk ({came})", megabytes, "MB", "2.6 GB"))
    return figures
