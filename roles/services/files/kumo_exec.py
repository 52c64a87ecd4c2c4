#!/usr/bin/python3
"""Begin a service where supervisor runs it: end what is left of its previous life, then become the command.

Owns nothing that lasts. After ``kill -9`` of supervisord its children live on and hold ports and
sockets; they are known by KUMO_SERVICE in their environment, and this ends them. With
``--unless-running EXECUTABLE`` it ends nothing: it waits while anyone's process of that executable
lives, and takes over once it is gone (libvirtd started by hand or by the distribution is left alone).
Under systemd nothing of this is needed: units have control groups. Next room: the role's templates.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

GRACE_S = 10
LOOK_S = 1


def read_processes() -> list[Path]:
    """The folders in /proc of this machine's processes; not those of a container on it, which is another machine."""
    here, found = os.readlink("/proc/self/ns/pid"), []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "ns/pid") == here:
                found.append(entry)
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
    return found


def read_left_overs(name: str, part: bytes = b"") -> list[int]:
    """Process ids of this service's earlier life: same KUMO_SERVICE, ``part`` in the command line, not this process."""
    mine = {os.getpid(), os.getppid(), 1}
    wanted = f"KUMO_SERVICE={name}".encode()
    found = []
    for entry in read_processes():
        if int(entry.name) in mine:
            continue
        try:
            named = wanted in (entry / "environ").read_bytes().split(b"\0")
            if named and part in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def read_running(executable: str) -> list[int]:
    """Process ids that run ``executable`` (a path; what an upgrade has replaced counts too)."""
    names = {executable, os.path.realpath(executable), f"{os.path.realpath(executable)} (deleted)"}
    found = []
    for entry in read_processes():
        try:
            if os.readlink(entry / "exe") in names:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def end_left_overs(name: str, part: bytes = b"") -> None:
    """TERM, then KILL after GRACE_S, to what read_left_overs names; bounded by twice that."""
    deadline = time.monotonic() + GRACE_S
    for signum in (signal.SIGTERM, signal.SIGKILL):
        while found := read_left_overs(name, part):
            for pid in found:
                print(f"kumo_exec: {name}: ending pid {pid}, left by an earlier run", flush=True)
                try:
                    os.kill(pid, signum)
                except OSError:
                    continue
            time.sleep(0.2)
            if time.monotonic() > deadline:
                break
        deadline += GRACE_S


def main() -> None:
    """Wait or clear the way, then replace this process by the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unless-running", metavar="EXECUTABLE", help="wait while a process of this executable lives")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    name = os.environ.get("KUMO_SERVICE")
    if arguments.unless_running:
        if name:  # an earlier one that still waits; never the daemon itself, which guests hang on
            end_left_overs(name, b"kumo_exec.py")
        said = None
        while found := read_running(arguments.unless_running):
            if found != said:
                print(f"kumo_exec: {arguments.unless_running} runs as pid {found}; waiting for it to end", flush=True)
                said = found
            time.sleep(LOOK_S)
    elif name:
        end_left_overs(name)
    sys.stdout.flush()
    os.execv(arguments.command[0], arguments.command)


if __name__ == "__main__":
    main()
