"""Where a running guest's consoles are connected to on its host: TCP ports of 127.0.0.1, chosen anew at each start.

Read from libvirt's live XML (VNC) and from /proc (the serial port, which the kernel chose when QEMU asked for port 0):
no question to QEMU's monitor, which one that hangs would not answer. Changes nothing. Sources:
https://libvirt.org/formatdomain.html ("TCP client/server"), proc_pid_net(5).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

from . import files

PIDS = Path("/run/libvirt/qemu")
ADDRESS = "127.0.0.1"
LISTENING = "0A"  # include/net/tcp_states.h
LOOPBACK = "0100007F"  # 127.0.0.1 as /proc has it on a little-endian machine


def read_ports(name: str, live: ElementTree.Element) -> dict[str, int | None]:
    """{"vnc": port or None, "serial": port or None} of the running domain of that name; ``live`` is its tree."""
    graphics = live.find("devices/graphics[@type='vnc']")
    found = int(graphics.get("port") or 0) if graphics is not None else 0
    vnc = found if found > 0 else None
    if live.find("devices/serial[@type='tcp']/source[@mode='bind']") is None:
        return {"vnc": vnc, "serial": None}  # defined before there were serial consoles to connect to
    pid = files.read_text(PIDS / f"{name}.pid").strip()
    listening = read_listening(Path("/proc", pid)) if pid.isdigit() else []
    return {"vnc": vnc, "serial": choose_serial(listening, vnc)}


def choose_serial(listening: list[int], vnc: int | None) -> int | None:
    """The serial port among those that QEMU listens on; None where it cannot be told from another."""
    others = [port for port in listening if port != vnc]
    return others[0] if len(others) == 1 else None


def read_listening(process: Path) -> list[int]:
    """The ports of 127.0.0.1 that a process (its /proc folder) listens on; empty where it is gone."""
    sockets = set()
    try:
        for entry in os.scandir(process / "fd"):
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry.path))
            except FileNotFoundError:
                continue  # closed meanwhile
            if found:
                sockets.add(found[1])
        return parse_listening(files.read_text(process / "net/tcp"), sockets)
    except OSError:
        return []  # the process has ended


def parse_listening(table: str, sockets: set[str]) -> list[int]:
    """The ports of 127.0.0.1 in /proc/PID/net/tcp that are listened on by one of the sockets (inodes)."""
    ports = []
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == LISTENING and words[9] in sockets:
            address, _, port = words[1].partition(":")
            if address == LOOPBACK:
                ports.append(int(port, 16))
    return sorted(ports)
