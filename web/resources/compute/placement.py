"""Room for new servers: a project's quota and the hosts' candidates, both counted from rows, and a host chosen.

Counted in the transaction that creates the servers, under locks taken in one order (project, networks,
hosts), so that two requests cannot be given the same room. Next room: `web/scheduler.py`, which is pure.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import func, select

from ...capacity import build_offer, read_candidates, read_hosts, read_open_moves
from ...errors import OverQuota
from ...http import Context
from ...models import Project, Server, read_limit
from ...models.quotas import read_user_limit
from ...scheduler import Demand, NoValidHost, choose_host
from ...server_groups import read_company
from .scheduler_hints import Hints, build_avoid

GIB = 1 << 30
COUNTED = ("instances", "cores", "ram")


def read_usage(session, project_id: str, user_id: str | None = None) -> dict[str, int]:
    """{"instances", "cores", "ram" (MiB)} of the project's servers that are not gone; with ``user_id`` of that user's.

    A server that is resized counts with the larger of its two flavors until that is over; one whose deletion may be
    taken back does not count.
    """
    mine = [Server.project_id == project_id, Server.soft_deleted_at.is_(None)]
    if user_id is not None:
        mine.append(Server.user_id == user_id)
    row = session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(Server.flavor["vcpus"].as_integer()), 0),
            func.coalesce(func.sum(Server.flavor["ram_mb"].as_integer()), 0),
        ).where(*mine, Server.gone_at.is_(None))
    ).one()
    usage = dict(zip(COUNTED, (int(value) for value in row), strict=True))
    for migration, server in read_open_moves(session, *mine):
        if server.gone_at is None and migration.phase != "cleaning":
            for resource, name in (("cores", "vcpus"), ("ram", "ram_mb")):
                larger = max(migration.old_flavor[name], migration.new_flavor[name])
                usage[resource] += max(0, larger - server.flavor[name])
    return usage


def check_server_quota(ctx: Context, flavor, least: int, most: int) -> int:
    """How many servers of the flavor may be made, ``least`` to ``most``; OverQuota where not even ``least``.

    The project's other creations wait until this transaction ends.
    """
    project = ctx.project_id
    ctx.session.execute(select(Project.id).where(Project.id == project).with_for_update())
    each = {"instances": 1, "cores": flavor.vcpus, "ram": flavor.ram_mb}
    user = ctx.token.user_id
    limits = {name: read_limit(ctx.session, project, name) for name in COUNTED}
    own = {name: read_user_limit(ctx.session, project, user, name) for name in COUNTED}
    possible = _count_possible(limits, read_usage(ctx.session, project), each, least, most)
    if any(limit is not None for limit in own.values()):
        own = {name: -1 if limit is None else limit for name, limit in own.items()}
        possible = _count_possible(own, read_usage(ctx.session, project, user), each, least, possible)
    return possible


def check_more(ctx: Context, server: Server, more: dict[str, int]) -> None:
    """OverQuota where its project, or its user there, has no room for what the server would have ``more`` of."""
    project, user = server.project_id, server.user_id
    ctx.session.execute(select(Project.id).where(Project.id == project).with_for_update())
    for whose in (None, user):
        used = read_usage(ctx.session, project, whose)
        for resource, needed in more.items():
            if whose is None:
                limit = read_limit(ctx.session, project, resource)
            else:
                limit = read_user_limit(ctx.session, project, user, resource)
            if needed > 0 and limit not in (None, -1) and used[resource] + needed > limit:
                raise OverQuota(
                    f"Quota exceeded for {resource}: Requested {needed}, but already used {used[resource]} of {limit} "
                    f"{resource}"
                )


def _count_possible(limits: dict, used: dict, each: dict, least: int, most: int) -> int:
    possible = most
    over = []
    for resource in COUNTED:
        limit = limits[resource]
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


def build_demand(flavor, image, zone: str | None, host: str | None, local_gb: int = 0) -> Demand:
    """What a guest of the flavor needs; with a flavor of no disk, the disk its image needs.

    ``local_gb``: its ephemeral disks and swap.
    """
    disk_gb = flavor.disk_gb + local_gb
    if flavor.disk_gb == 0 and image is not None:
        disk_gb += -(-(image.virtual_size or image.size or 0) // GIB)
    return Demand(flavor.vcpus, flavor.ram_mb, disk_gb, zone, host)


def place(ctx: Context, demand: Demand, count: int, hints: Hints) -> list[str | NoValidHost]:
    """For each of ``count`` guests the id of its host, or why there is none."""
    hosts = read_hosts(ctx.session)
    candidates = read_candidates(ctx.session, ctx.settings, hosts)
    offer = build_offer(ctx.settings)
    company = None if hints.group is None else read_company(ctx.session, hints.group)
    demand = replace(demand, avoid=build_avoid(ctx.session, hints, hosts), company=company)
    chosen: list[str | NoValidHost] = []
    for _ in range(count):
        try:
            host_id = choose_host(candidates, demand, offer)
        except NoValidHost as refusal:
            chosen.append(refusal)
            continue
        chosen.append(host_id)
        if demand.company is not None:
            places = (*demand.company.places, frozenset({host_id}))
            demand = replace(demand, company=replace(demand.company, places=places))
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
