"""Room for new servers: a project's quota and the hosts' candidates, both counted from rows, and a host chosen.

Counted in the transaction that creates the servers, under locks taken in one order (project, networks,
hosts), so that two requests cannot be given the same room. Next room: `web/scheduler.py`, which is pure.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import func, select

from ...errors import OverQuota
from ...http import Context
from ...models import Host, Project, Server, now, read_limit
from ...scheduler import Candidate, Demand, NoValidHost, Offer, choose_host, is_up

GIB = 1 << 30
COUNTED = ("instances", "cores", "ram")


def read_usage(session, project_id: str) -> dict[str, int]:
    """{"instances", "cores", "ram" (MiB)} of the project's servers that are not gone."""
    row = session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(Server.flavor["vcpus"].as_integer()), 0),
            func.coalesce(func.sum(Server.flavor["ram_mb"].as_integer()), 0),
        ).where(Server.project_id == project_id, Server.gone_at.is_(None))
    ).one()
    return dict(zip(COUNTED, (int(value) for value in row), strict=True))


def check_server_quota(ctx: Context, flavor, least: int, most: int) -> int:
    """How many servers of the flavor may be made, ``least`` to ``most``; OverQuota where not even ``least``.

    The project's other creations wait until this transaction ends.
    """
    project = ctx.project_id
    ctx.session.execute(select(Project.id).where(Project.id == project).with_for_update())
    used = read_usage(ctx.session, project)
    each = {"instances": 1, "cores": flavor.vcpus, "ram": flavor.ram_mb}
    possible = most
    over = []
    for resource in COUNTED:
        limit = read_limit(ctx.session, project, resource)
        if limit == -1 or not each[resource]:
            continue
        possible = min(possible, max(limit - used[resource], 0) // each[resource])
        if used[resource] + each[resource] * least > limit:
            over.append((resource, limit))
    if over:
        names = ", ".join(resource for resource, _ in over)
        asked = ", ".join(str(each[resource] * least) for resource, _ in over)
        have = ", ".join(f"{used[resource]}" for resource, _ in over)
        allowed = ", ".join(str(limit) for _, limit in over)
        raise OverQuota(f"Quota exceeded for {names}: Requested {asked}, but already used {have} of {allowed} {names}")
    return possible


def build_offer(settings) -> Offer:
    """The allocation ratios that the settings give."""
    compute = settings.compute
    return Offer(compute.cpu_allocation_ratio, compute.ram_allocation_percent, compute.disk_allocation_percent)


def read_host_usage(session, host_ids=None) -> dict[str, dict[str, int]]:
    """{host id: {"servers", "vcpus", "memory_mb", "disk_gb"}} of the guests each host has or is to have, one query."""
    statement = select(
        Server.host_id,
        func.count(),
        func.coalesce(func.sum(Server.flavor["vcpus"].as_integer()), 0),
        func.coalesce(func.sum(Server.flavor["ram_mb"].as_integer()), 0),
        func.coalesce(func.sum(Server.flavor["disk_gb"].as_integer()), 0),
    ).where(Server.gone_at.is_(None), Server.host_id.is_not(None))
    if host_ids is not None:
        statement = statement.where(Server.host_id.in_(host_ids))
    return {
        host_id: {"servers": count, "vcpus": int(vcpus), "memory_mb": int(memory), "disk_gb": int(disk)}
        for host_id, count, vcpus, memory, disk in session.execute(statement.group_by(Server.host_id))
    }


def read_candidates(ctx: Context) -> list[Candidate]:
    """Every host as the scheduler sees it; the rows are held until the transaction ends."""
    hosts = ctx.session.scalars(select(Host).order_by(Host.id).with_for_update()).all()
    usage = read_host_usage(ctx.session)
    at, sweep_s = now(), ctx.settings.worker.sweep_s
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


def build_demand(flavor, image, zone: str | None, host: str | None) -> Demand:
    """What a guest of the flavor needs; with a flavor of no disk, the disk its image needs."""
    disk_gb = flavor.disk_gb + flavor.ephemeral_gb
    if flavor.disk_gb == 0 and image is not None:
        disk_gb += -(-(image.virtual_size or image.size or 0) // GIB)
    return Demand(flavor.vcpus, flavor.ram_mb, disk_gb, zone, host)


def place(ctx: Context, demand: Demand, count: int) -> list[str | NoValidHost]:
    """For each of ``count`` guests the id of its host, or why there is none."""
    candidates = read_candidates(ctx)
    offer = build_offer(ctx.settings)
    chosen: list[str | NoValidHost] = []
    for _ in range(count):
        try:
            host_id = choose_host(candidates, demand, offer)
        except NoValidHost as refusal:
            chosen.append(refusal)
            continue
        chosen.append(host_id)
        candidates = [
            replace(
                one,
                used_vcpus=one.used_vcpus + demand.vcpus,
                used_memory_mb=one.used_memory_mb + demand.memory_mb,
                used_disk_gb=one.used_disk_gb + demand.disk_gb,
            )
            if one.id == host_id
            else one
            for one in candidates
        ]
    return chosen
