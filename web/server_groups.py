"""Members of server groups and where they are, as placements and moves need them.

Reads rows in the caller's transaction, which holds all hosts: two requests then see each other's members. What a
policy makes of it is `scheduler.py`'s, which is pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .capacity import read_open_moves
from .models import Server, ServerGroup, ServerGroupMember
from .scheduler import Company


def select_members():
    """A select of (group id, server) of all members that count: those that are not being deleted."""
    statement = select(ServerGroupMember.group_id, Server).join(Server, Server.id == ServerGroupMember.server_id)
    return statement.where(Server.deleted_at.is_(None), Server.gone_at.is_(None))


def count_members(session: Session, group_id: str, user_id: str | None = None) -> int:
    """How many servers the group has; with ``user_id`` those of that user."""
    statement = select_members().where(ServerGroupMember.group_id == group_id)
    if user_id is not None:
        statement = statement.where(Server.user_id == user_id)
    return session.scalar(select(func.count()).select_from(statement.subquery()))


def read_group_ids(session: Session, server_ids: Iterable[str]) -> dict[str, str]:
    """{server id: the id of its group}."""
    members = select(ServerGroupMember).where(ServerGroupMember.server_id.in_(list(server_ids)))
    return {member.server_id: member.group_id for member in session.scalars(members)}


def read_company(session: Session, group: ServerGroup, but: str | None = None, off: Iterable[str] = ()) -> Company:
    """Where the group's members are, but for the server ``but``; hosts that are ``off`` hold nobody."""
    servers = [
        server
        for _, server in session.execute(select_members().where(ServerGroupMember.group_id == group.id))
        if server.id != but
    ]
    places = {server.id: {server.host_id} for server in servers}
    moving = read_open_moves(session, Server.id.in_(list(places))) if places else []
    for migration, server in moving:
        places[server.id] |= {migration.source_host_id, migration.dest_host_id}
    held = [frozenset(place - {None, *off}) for place in places.values()]
    return Company(group.policy, group.most_per_host, tuple(sorted((one for one in held if one), key=sorted)))


def read_company_of(session: Session, server: Server, off: Iterable[str] = ()) -> Company | None:
    """The company of a server that moves; None where it is in no group."""
    member = session.get(ServerGroupMember, server.id)
    if member is None:
        return None
    return read_company(session, session.get(ServerGroup, member.group_id), but=server.id, off=off)
