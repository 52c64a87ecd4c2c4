"""`kumo verify` and `kumo repair`: what rows, files and hosts say of each other that does not fit, and mending it.

Verifying changes nothing. Repairing shows its plan first, deletes nothing, and leaves hosts to the worker.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from ..dispatch import announce_due
from ..models import Database
from ..verification import Fault, apply_repair, find_faults
from .drift import look
from .tables import show_table

FAULTY = 3


def _find_faults(args, settings) -> list[Fault] | None:
    """Of rows and files, and of the hosts; None where a host's name is unknown."""
    looks = look(settings, args.hosts, **({"verify_images": True} if args.images else {}))
    if looks is None:
        return None
    with Database(settings.database.url).read() as session:
        return find_faults(session, settings, looks)


def _print(faults: list[Fault]) -> None:
    rows = [(one.where, one.kind, one.id, one.problem, one.repair or None) for one in faults]
    print(show_table(("WHERE", "KIND", "ID", "PROBLEM", "REPAIR"), rows) if rows else "nothing is wrong")


def verify(args, settings) -> int:
    faults = _find_faults(args, settings)
    if faults is None:
        return 1
    if args.json:
        print(json.dumps([asdict(one) for one in faults], indent=2))
    else:
        _print(faults)
    return FAULTY if faults else 0


def repair(args, settings) -> int:
    """The plan; with ``--apply`` it is carried out."""
    faults = _find_faults(args, settings)
    if faults is None:
        return 1
    _print(faults)
    due = [one for one in faults if one.repair]
    left = len(faults) - len(due)
    if not args.apply:
        print(f"{len(due)} to mend, {left} that are left to you; `kumo repair --apply` does it, and deletes nothing")
        return FAULTY if faults else 0
    database = Database(settings.database.url)
    with database.write.begin() as session:
        mended = apply_repair(session, due)
    announce_due(settings, database)
    print(f"{mended} mended or given to the worker, {left} left to you; `kumo verify` in a minute tells what remains")
    if left:
        print('kumo: what has no REPAIR is not Kumo\'s to decide: docs/operations.md, "Orphans"', file=sys.stderr)
    return FAULTY if left else 0
