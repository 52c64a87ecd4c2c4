"""`kumo host images`: a host's image cache as it was last seen, and what operators want in it.

Next rooms: `../host_cache.py`; the admin API's `host_images.py`, which does the same over HTTP.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from sqlalchemy import select

from ..dispatch import announce_due
from ..errors import NotFound
from ..host_cache import apply_wish, list_cache
from ..models import Database, Host
from .tables import show_table, show_time


def change_images(args, settings) -> int:
    """Carry out the options, and show what is so."""
    wishes = [(image_id, {"kept": True}) for image_id in args.keep]
    wishes += [(image_id, {"kept": False}) for image_id in args.release]
    wishes += [(image_id, {"again": True}) for image_id in args.fetch]
    database = Database(settings.database.url)
    try:
        with database.write.begin() as session:
            host = session.scalar(select(Host).where(Host.name == args.host))
            if host is None:
                known = ", ".join(session.scalars(select(Host.name).order_by(Host.name))) or "none"
                raise NotFound(f"no host {args.host!r}; known: {known}")
            for image_id, wanted in wishes:
                apply_wish(session, host, image_id, **wanted)
            session.flush()
            found = list_cache(session, host)
    except NotFound as problem:
        print(f"kumo: {problem.message}", file=sys.stderr)
        return 1
    if wishes:
        announce_due(settings, database)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    rows = [
        (
            one["id"],
            one["name"],
            "kept" if one["kept"] else None,
            one["bytes"] if one["cached"] else "not here",
            show_time(datetime.fromtimestamp(one["unused_since"], UTC)) if one["unused_since"] else None,
        )
        for one in found
    ]
    print(show_table(("IMAGE", "NAME", "KEPT", "BYTES", "UNUSED SINCE"), rows) if rows else "no images")
    return 0
