"""What each host's guests use, counted from rows, and the hosts as the scheduler sees them.

A guest that moves counts on both hosts until its move has ended: one of them has it, the other is to have it or must
be able to take it back. Next rooms: `scheduler.py`, which is pure; `resources/compute/placement.py` and `moves.py`,
which place guests in their own transactions.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .models import Host, Migration, Server, now
from .scheduler import Candidate, Offer, is_up

SIZES = {"vcpus": "vcpus", "memory_mb": "ram_mb", "disk_gb": "disk_gb"}  # of a host: of a flavor


def build_offer(settings) -> Offer:
    """The allocation ratios that the settings give."""
    compute = settings.compute
    return Offer(compute.cpu_allocation_ratio, compute.ram_allocation_percent, compute.disk_allocation_percent)


def read_open_moves(session: Session, *conditions) -> list[tuple[Migration, Server]]:
    """Migrations that have not ended, the oldest first, with their servers; gone ones too."""
    statement = select(Migration, Server).join(Server, Server.id == Migration.server_id)
    statement = statement.where(Migration.phase != "ended", *conditions).order_by(Migration.id)
    return [(migration, server) for migration, server in session.execute(statement)]


def read_local_gb(server) -> int:
    """GiB of a server's disks beside its root disk that are no volumes. Pure."""
    return (server.disks or {}).get("gb", 0)


def build_claim(migration, server) -> tuple[str | None, dict[str, int]]:
    """(host id, {"vcpus", "memory_mb", "disk_gb"}) that a move needs beside what its server counts where it is. Pure.

    On one host the two flavors share vCPUs and memory, since only one of them runs; both disks are kept.
    """
    away = migration.source_host_id if server.host_id == migration.dest_host_id else migration.dest_host_id
    if migration.source_host_id != migration.dest_host_id:
        flavor = migration.old_flavor if away == migration.source_host_id else migration.new_flavor
        claim = {name: flavor[key] for name, key in SIZES.items()}
        claim["disk_gb"] += read_local_gb(server)
        return away, claim
    flavors = (migration.old_flavor, migration.new_flavor)
    claim = {name: max(one[key] for one in flavors) - server.flavor[key] for name, key in SIZES.items()}
    claim["disk_gb"] = sum(one["disk_gb"] for one in flavors) - server.flavor["disk_gb"]
    return away, claim


def read_host_usage(session: Session, host_ids=None) -> dict[str, dict[str, int]]:
    """{host id: {"servers", "vcpus", "memory_mb", "disk_gb"}} of the guests each host has or is to have."""
    local = func.coalesce(Server.disks["gb"].as_integer(), 0)  # ephemeral disks and swap
    statement = select(
        Server.host_id,
        func.count(),
        func.coalesce(func.sum(Server.flavor["vcpus"].as_integer()), 0),
        func.coalesce(func.sum(Server.flavor["ram_mb"].as_integer()), 0),
        func.coalesce(func.sum(Server.flavor["disk_gb"].as_integer() + local), 0),
    ).where(Server.gone_at.is_(None), Server.host_id.is_not(None))
    if host_ids is not None:
        statement = statement.where(Server.host_id.in_(host_ids))
    usage = {
        host_id: {"servers": count, "vcpus": int(vcpus), "memory_mb": int(memory), "disk_gb": int(disk)}
        for host_id, count, vcpus, memory, disk in session.execute(statement.group_by(Server.host_id))
    }
    for migration, server in read_open_moves(session):
        host_id, claim = build_claim(migration, server)
        if host_ids is None or host_id in host_ids:
            used = usage.setdefault(host_id, {"servers": 0, "vcpus": 0, "memory_mb": 0, "disk_gb": 0})
            for name, size in claim.items():
                used[name] += size
    return usage


def read_hosts(session: Session) -> list[Host]:
    """Every host's row, held until the transaction ends: whoever places guests waits for the others."""
    statement = select(Host).order_by(Host.id).with_for_update().execution_options(populate_existing=True)
    return list(session.scalars(statement))


def read_candidates(session: Session, settings, hosts: list[Host] | None = None) -> list[Candidate]:
    """Every host as the scheduler sees it; the rows are held until the transaction ends."""
    hosts = read_hosts(session) if hosts is None else hosts
    usage = read_host_usage(session)
    at, sweep_s = now(), settings.worker.sweep_s
    candidates = []
    for host in hosts:
        facts = (host.observed or {}).get("host") or {}
        used = usage.get(host.id, {"vcpus": 0, "memory_mb": 0, "disk_gb": 0})
        candidates.append(
            Candidate(
                id=host.id,
                name=host.name,
                zone=host.zone,
                enabled=host.enabled,
                up=bool(facts) and is_up(host.observed_at, host.forced_down, at, sweep_s, host.failures),
                vcpus=facts.get("vcpus", 0),
                memory_mb=facts.get("memory_mb", 0),
                disk_gb=facts.get("disk_gb", 0),
                used_vcpus=used["vcpus"],
                used_memory_mb=used["memory_mb"],
                used_disk_gb=used["disk_gb"],
                hypervisor="hypervisor" in host.roles,
            )
        )
    return candidates
