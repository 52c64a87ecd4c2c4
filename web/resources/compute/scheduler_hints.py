"""Scheduler hints of a request for servers: the group they are to be in, and servers to be beside or away from.

Source: Compute API reference, "Create Server", `os:scheduler_hints`. A hint that no host would honour is refused.
What is checked before anything is written is checked by `read_hints`; hosts are read by `build_avoid` and
`read_company`, once the transaction holds them. Next room: `placement.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from ...errors import BadRequest, OverQuota
from ...fields import ANY, UUID, field, items, mapping
from ...http import Context
from ...models import Host, Project, Server, ServerGroup, read_limit
from ...models.quotas import read_user_limit
from ...server_groups import count_members

SERVERS = {"anyOf": [UUID, items(UUID, 100)]}
REFUSED = ("query", "build_near_host_ip", "cidr", "target_cell", "different_cell")
HINTS = mapping({"group": UUID, "same_host": SERVERS, "different_host": SERVERS, **dict.fromkeys(REFUSED, ANY)})
NAMES = ("os:scheduler_hints", "OS-SCH-HNT:scheduler_hints")
OUTER = {name: field(HINTS) for name in NAMES}


@dataclass(frozen=True)
class Hints:
    """What was hinted at: a group, and ids of servers."""

    group: ServerGroup | None = None
    same_host: tuple[str, ...] = ()
    different_host: tuple[str, ...] = ()


def read_hints(ctx: Context) -> Hints:
    """The hints of the request; BadRequest naming one that is not honoured, or what it names and is not there."""
    given: dict = {}
    for name in NAMES:
        given |= ctx.outer.get(name) or {}
    for name in REFUSED:
        if name in given:
            raise BadRequest(
                f"Invalid input for field/attribute {NAMES[0]}/{name}. Placement by it is not offered: use group, "
                "same_host, different_host, or an availability zone."
            )
    group = None
    if "group" in given:
        group = ctx.session.get(ServerGroup, given["group"])
        if group is None or (group.project_id != ctx.project_id and not ctx.is_admin):
            raise BadRequest(f"Invalid input for {NAMES[0]}/group: Instance group {given['group']} could not be found.")
    named = {name: _read_servers(ctx, name, given.get(name, [])) for name in ("same_host", "different_host")}
    return Hints(group, **named)


def _read_servers(ctx: Context, name: str, given: str | list) -> tuple[str, ...]:
    ids = [given] if isinstance(given, str) else given
    mine = [Server.id.in_(ids), Server.gone_at.is_(None)]
    if not ctx.is_admin:
        mine.append(Server.project_id == ctx.project_id)
    found = set(ctx.session.scalars(select(Server.id).where(*mine))) if ids else set()
    for server_id in ids:
        if server_id not in found:
            raise BadRequest(f"Invalid input for {NAMES[0]}/{name}: Instance {server_id} could not be found.")
    return tuple(ids)


def check_member_quota(ctx: Context, group: ServerGroup, least: int, most: int) -> int:
    """How many members more the group may have, ``least`` to ``most``; OverQuota where not even ``least``.

    Others that add to the group wait until this transaction ends.
    """
    ctx.session.execute(select(Project.id).where(Project.id == group.project_id).with_for_update())
    limit = read_limit(ctx.session, group.project_id, "server_group_members")
    own = read_user_limit(ctx.session, group.project_id, ctx.token.user_id, "server_group_members")
    room = most if limit == -1 else limit - count_members(ctx.session, group.id)
    if own not in (None, -1):
        room = min(room, own - count_members(ctx.session, group.id, ctx.token.user_id))
    if room < least:
        raise OverQuota("Quota exceeded, too many servers in group")
    return min(most, room)


def build_avoid(session, hints: Hints, hosts: list[Host]) -> dict[str, str]:
    """{host id: why not}, of the servers to be beside or away from. Callers hold the hosts."""
    named = {*hints.same_host, *hints.different_host}
    if not named:
        return {}
    rows = session.execute(select(Server.id, Server.host_id).where(Server.id.in_(named)))
    place = dict(rows.all())
    beside = {place[one] for one in hints.same_host}
    away = {place[one] for one in hints.different_host}
    avoid = {}
    for host in hosts:
        if hints.same_host and host.id not in beside:
            avoid[host.id] = "none of the servers of the hint same_host is on it"
        elif host.id in away:
            avoid[host.id] = "a server of the hint different_host is on it"
    return avoid
