"""What rows, files and hosts say of each other that does not fit, and mending it (`kumo verify`, `kumo repair`)."""

from __future__ import annotations

from dataclasses import asdict

from ...fields import BOOL, as_bool, field, items, text
from ...http import Context
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from ...verification import Fault, apply_repair, find_faults
from .hosts import look

FIELDS = {"hosts": field(items(text(255, 1))), "apply": field(BOOL)}


def _find(ctx: Context, names: list[str]) -> list[Fault]:
    looks = look(ctx, names)
    with ctx.database.read() as session:
        return find_faults(session, ctx.settings, looks)


def index(ctx: Context) -> Reply:
    """Of the hosts that ``?host=`` (repeatable) names, by default of all that are not fenced; and of rows and files."""
    return Reply({"faults": [asdict(one) for one in _find(ctx, ctx.query.getlist("host"))]})


def create(ctx: Context) -> Reply:
    """The plan: what would be mended, what is left to the operator; carried out with ``apply``. Deletes nothing."""
    faults = _find(ctx, ctx.body.get("hosts") or [])
    due = [one for one in faults if one.repair]
    mended = 0
    if as_bool(ctx.body.get("apply", False)):
        with ctx.write() as session:
            mended = apply_repair(session, due)
    left = [asdict(one) for one in faults if not one.repair]
    return Reply({"repair": {"plan": [asdict(one) for one in due], "mended": mended, "left": left}})


READ = rule("admin:faults:read", ADMIN)
REPAIR = rule("admin:faults:repair", ADMIN)
ROUTES = [
    Route("GET", "/faults", READ, None, index, transaction=False),
    Route("POST", "/repairs", REPAIR, FIELDS, create, key="repair", transaction=False),
]
