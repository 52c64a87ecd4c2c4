"""Which part a host has in a server's move, from rows. Pure (docs/moving-guests.md)."""

from __future__ import annotations

LIVE = "live-migration"
UNDER_WAY = ("preparing", "sending")


def choose_part(rows, server) -> tuple[str, object | None]:
    """(home | incoming | held | absent | none, the migration that says so) of this host for the server."""
    migrations = rows.moves.get(server.id, [])
    if server.deleted_at is not None:
        return "absent", None
    if server.host_id == rows.host.id:
        return "home", next((one for one in migrations if one.phase not in ("cleaning", "ended")), None)
    for one in migrations:
        if one.dest_host_id == rows.host.id and one.phase in UNDER_WAY:
            return "incoming", one
        if one.source_host_id == rows.host.id and one.phase == "resized":
            return "held", one
    return "absent", None


def build_move(rows, server, part: str, migration) -> dict:
    """The fields of the document's server that its move adds: incoming, outgoing, held, backup, and power."""
    same = [one for one in rows.moves.get(server.id, []) if one.source_host_id == one.dest_host_id]
    if same:
        return _build_same_host(same[-1])
    if migration is None:
        return {}
    live = migration.kind == LIVE
    kind = "live" if live else "cold"
    if part == "incoming":
        seen = migration.observed_source
        offer = None
        if not live and migration.phase == "sending":
            offer = {name: seen.get(name) for name in ("address", "port", "name")}
        return {"incoming": {"migration": migration.uuid, "kind": kind, "offer": offer}}
    if part == "held":
        return {"held": True, "power": "off"}
    if migration.source_host_id != rows.host.id:
        return {}  # it has arrived: a guest like any other
    if migration.phase == "undoing":
        return {"held": True, "power": "off"} if server.move is not None else {}
    outgoing = {
        "migration": migration.uuid,
        "kind": kind,
        "address": rows.tunnel_addresses.get(migration.dest_host_id),
        "abort": migration.abort_wanted,
        "force": migration.force_wanted,
    }
    if live:
        return {"outgoing": outgoing} if migration.phase == "sending" else {}
    return {"outgoing": outgoing, "power": "off"}


def _build_same_host(migration) -> dict:
    wanted = {"cleaning": "dropped", "undoing": "restored"}.get(migration.phase, "kept")
    off = {"power": "off"} if migration.phase in ("preparing", "undoing") else {}
    return {"backup": {"id": migration.uuid, "wanted": wanted}, **off}
