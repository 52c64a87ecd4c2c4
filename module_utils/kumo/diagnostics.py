"""Figures of a guest that runs: what its CPUs, disks, NICs and memory have done, as libvirt counts it.

The order is a number in the document, and the answer {seq, figures}; ``figures`` is None of a guest that does not run,
and {error} of one that says nothing.
Changes nothing. Source: https://libvirt.org/html/libvirt-libvirt-domain.html. Next room: ``servers.py``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from . import domain_xml
from .deadlines import run_with_deadline
from .errors import KumoError
from .libvirt_connection import libvirt

DEADLINE_S = 5.0  # a QEMU that hangs answers no monitor command
SAMPLE_S = 0.2
NIC_COUNTS = ("octets", "packets", "errors", "drop")
PIDS = Path("/run/libvirt/qemu")


def read_answer(row: dict, seen: dict, domain) -> dict | None:
    """The answer to the order of a server's row; None where there is none, or where the guest does not say a word."""
    order = row.get("diagnostics") or {}
    if order.get("wanted") is None:
        return None
    figures = None
    if domain is not None and seen["state"] == "running":
        try:
            figures = run_with_deadline(DEADLINE_S, "no answer", lambda: read_figures(domain))
        except (KumoError, libvirt.libvirtError, OSError) as problem:  # it ended meanwhile, or hangs
            figures = {"error": str(problem)}
    return {"seq": order["wanted"], "figures": figures}


def read_figures(domain) -> dict:
    """{hypervisor, uptime_s, num_cpus, memory_mb, memory_used_mb, memory {name: KiB}, cpus, nics, disks} of a guest.

    ``cpus`` [{id, time_ns, utilisation}], in percent of one CPU over a moment; ``nics`` [{mac, tap, rx_octets …}];
    ``disks`` [{device, read_bytes, read_requests, write_bytes, write_requests, errors}].
    """
    tree = domain_xml.parse_xml(domain.XMLDesc(0))
    _, maximum_kib, given_kib, count, _ = domain.info()
    memory = {name: int(value) for name, value in domain.memoryStats().items()}
    used_kib = given_kib
    if "available" in memory and "unused" in memory:  # the guest's own word, where its balloon driver gives it
        used_kib = memory["available"] - memory["unused"]
    return {
        "hypervisor": tree.get("type"),
        "uptime_s": read_uptime(domain.name()),
        "num_cpus": count,
        "memory_mb": maximum_kib // 1024,
        "memory_used_mb": max(0, used_kib) // 1024,
        "memory": memory,
        "cpus": _read_cpus(domain),
        "nics": [_read_nic(domain, nic) for nic in tree.findall("devices/interface")],
        "disks": [_read_disk(domain, disk) for disk in tree.findall("devices/disk") if disk.get("device") != "cdrom"],
    }


def _read_cpus(domain) -> list[dict]:
    before, at = {cpu[0]: cpu[2] for cpu in domain.vcpus()[0]}, time.monotonic()
    time.sleep(SAMPLE_S)
    after, passed_ns = domain.vcpus()[0], (time.monotonic() - at) * 1e9
    return [
        {
            "id": number,
            "time_ns": spent,
            "utilisation": min(100, max(0, round(100 * (spent - before.get(number, spent)) / passed_ns))),
        }
        for number, _, spent, _ in after
    ]


def _read_nic(domain, nic) -> dict:
    tap = nic.find("target").get("dev")
    counts = domain.interfaceStats(tap)
    names = [f"{way}_{name}" for way in ("rx", "tx") for name in NIC_COUNTS]
    return {"mac": nic.find("mac").get("address"), "tap": tap, **dict(zip(names, counts, strict=True))}


def _read_disk(domain, disk) -> dict:
    device = disk.find("target").get("dev")
    names = ("read_requests", "read_bytes", "write_requests", "write_bytes", "errors")
    return {"device": device, **dict(zip(names, domain.blockStats(device), strict=True))}


def read_uptime(domain_name: str) -> int | None:
    """Seconds since the guest's QEMU began; None where nobody knows its process."""
    try:
        pid = int((PIDS / f"{domain_name}.pid").read_text())
        began = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        up_s = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return max(0, int(up_s - began / os.sysconf("SC_CLK_TCK")))
