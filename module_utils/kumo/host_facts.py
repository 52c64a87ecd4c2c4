"""What a host tells about itself: size, load and the CPU its guests may have.

Only reads. ``cpu_info`` has the keys OpenStack's hypervisor resource has (arch, model, vendor, topology, features).
"""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path

from . import domain_xml
from .core import state_path
from .libvirt_connection import call

GIB = 1 << 30
_cpu: dict = {}


def read_host(document: dict, connection, running: int, virt_type: str | None) -> dict:
    """The ``host`` part of the observed state of a hypervisor: read_machine's, and what libvirt tells."""
    return {
        **read_machine(document),
        "hypervisor_type": "QEMU",
        "hypervisor_version": call("the hypervisor's version cannot be read", connection.getVersion),
        "virt_type": virt_type,
        "cpu_info": _read_cpu(connection),
        "running_vms": running,
    }


def read_machine(document: dict) -> dict:
    """What any host tells of itself; sizes in MiB and GiB, ``host_time`` in ISO 8601 (UTC)."""
    memory = _read_meminfo()
    place = state_path(document)
    while not place.exists():
        place = place.parent
    room = os.statvfs(place)
    return {
        "hostname": socket.gethostname(),
        "vcpus": os.cpu_count(),
        "memory_mb": memory["MemTotal"] // 1024,
        "memory_free_mb": memory["MemAvailable"] // 1024,
        "disk_gb": room.f_blocks * room.f_frsize // GIB,
        "disk_free_gb": room.f_bavail * room.f_frsize // GIB,
        "uptime_s": int(float(Path("/proc/uptime").read_text().split()[0])),
        "load": [round(value, 2) for value in os.getloadavg()],
        "host_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _read_meminfo() -> dict:
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows}


def _read_cpu(connection) -> dict:
    """The host's CPU as libvirt sees it; asked once in a call, since it does not change."""
    if not _cpu:
        text = call("the host's capabilities cannot be read", connection.getCapabilities)
        cpu = domain_xml.parse_xml(text).find("host/cpu")
        topology = cpu.find("topology")
        _cpu.update(
            arch=cpu.findtext("arch") or platform.machine(),
            model=cpu.findtext("model") or "",
            vendor=cpu.findtext("vendor") or "",
            topology={
                name: int(topology.get(name) or 1) if topology is not None else 1
                for name in ("sockets", "cores", "threads")
            },
            features=sorted(feature.get("name") for feature in cpu.findall("feature")),
        )
    return dict(_cpu)
