"""Which roles a user has where: given to it or to its groups, inherited from above, implied by other roles.

Every token check reads them (`auth.py`), so each question is one statement, compiled once. Roles of one
domain count by what they imply and are in no answer. Knows no HTTP. Source: Identity API reference,
"Roles", "OS-INHERIT". Next room: `resources/identity/assignments.py`, which writes the rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import and_, bindparam, or_, select
from sqlalchemy.orm import Session

from .models import Assignment, Implication, Membership, Project, Role

_roles, _assignments, _projects = Role.__table__, Assignment.__table__, Project.__table__
_implications, _memberships = Implication.__table__, Membership.__table__


def select_line(project):
    """A CTE of the project and every project above it: (id, parent_id, domain_id)."""
    columns = (_projects.c.id, _projects.c.parent_id, _projects.c.domain_id)
    line = select(*columns).where(_projects.c.id == project).cte("line", recursive=True)
    return line.union_all(select(*columns).join(line, _projects.c.id == line.c.parent_id))


def select_below(project):
    """A CTE of the project and every project below it: (id,)."""
    below = select(_projects.c.id).where(_projects.c.id == project).cte("below", recursive=True)
    return below.union_all(select(_projects.c.id).join(below, _projects.c.parent_id == below.c.id))


def build_holder(user):
    """The condition that an assignment is the user's own or that of a group it is in."""
    groups = select(_memberships.c.group_id).where(_memberships.c.user_id == user)
    return or_(_assignments.c.user_id == user, _assignments.c.group_id.in_(groups))


def _build_statement(kind: str):
    place = and_(
        _assignments.c.target_kind == kind,
        _assignments.c.target_id == bindparam("target"),
        _assignments.c.inherited.is_(False),
    )
    if kind == "project":
        line = select_line(bindparam("target"))
        above = or_(
            and_(_assignments.c.target_kind == "project", _assignments.c.target_id.in_(select(line.c.parent_id))),
            and_(_assignments.c.target_kind == "domain", _assignments.c.target_id.in_(select(line.c.domain_id))),
        )
        place = or_(place, and_(_assignments.c.inherited.is_(True), above))
    held = select(_assignments.c.role_id).where(build_holder(bindparam("user")), place).distinct().subquery("held")
    return (
        select(_roles.c.id, _roles.c.name, _roles.c.domain_id, _implications.c.implied_id, held.c.role_id)
        .outerjoin_from(_roles, held, held.c.role_id == _roles.c.id)
        .outerjoin(_implications, _implications.c.prior_id == _roles.c.id)
        .order_by(_roles.c.name)
    )


_STATEMENTS = {kind: _build_statement(kind) for kind in ("project", "domain", "system")}


def expand_roles(held: Iterable[str], implied: dict[str, list[str]]) -> set[str]:
    """The ids of the roles held with all that they imply, directly or not."""
    found, left = set(), list(held)
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left.extend(implied.get(one, ()))
    return found


def read_roles(
    session: Session, user_id: str, kind: str, target: str, only: frozenset[str] | None = None
) -> tuple[tuple[str, str], ...]:
    """(id, name) of the user's roles on the target ("project", "domain" or "system", whose id is ""), by name.

    With ``only``: of these and what they imply, and none at all where one of these is not the user's any more.
    """
    rows = session.execute(_STATEMENTS[kind], {"user": user_id, "target": target}).all()
    implied: dict[str, list[str]] = {}
    for row in rows:
        if row[3] is not None:
            implied.setdefault(row[0], []).append(row[3])
    found = expand_roles({row[0] for row in rows if row[4] is not None}, implied)
    if only is not None:
        found = expand_roles(only, implied) if only and only <= found else set()
    return tuple(dict.fromkeys((row[0], row[1]) for row in rows if row[0] in found and row[2] is None))


def read_implied(session: Session) -> dict[str, list[str]]:
    """{role id: ids of the roles it implies directly}."""
    found: dict[str, list[str]] = {}
    for prior, implied in session.execute(select(_implications.c.prior_id, _implications.c.implied_id)):
        found.setdefault(prior, []).append(implied)
    return found


def read_targets(session: Session, user_id: str, kind: str) -> set[str]:
    """Ids of the projects or domains (or {""}: the system) on which the user has a role of any kind."""
    rows = session.execute(
        select(_assignments.c.target_kind, _assignments.c.target_id, _assignments.c.inherited).where(
            build_holder(user_id)
        )
    ).all()
    found = {row.target_id for row in rows if row.target_kind == kind and not row.inherited}
    if kind == "project":
        for row in rows:
            if row.inherited and row.target_kind == "domain":
                found.update(session.scalars(select(_projects.c.id).where(_projects.c.domain_id == row.target_id)))
            elif row.inherited:
                below = select_below(row.target_id)
                found.update(session.scalars(select(below.c.id).where(below.c.id != row.target_id)))
    return found
