"""Which part a host has in a server's move, from rows. Pure (docs/moving-guests.md)."""

from __future__ import annotations

from ..models.migrations import EVACUATION, LIVE, UNDER_WAY

CLEANED = (("cleaning", "source_host_id"), ("undoing", "dest_host_id"))


def choose_part(rows, server) -> tuple[str, object | None]:
    """(home | incoming | held | absent | none, the migration that says so) of this host for the server."""
    migrations = list(reversed(rows.moves.get(server.id, [])))  # the newest says what is wanted
    if server.deleted_at is not None:
        return "absent", None
    if server.shelve == "offloaded" and server.shelved_at is not None:
        return "absent", None
    if server.host_id == rows.host.id:
        return "home", next((one for one in migrations if one.phase not in ("cleaning", "ended")), None)
    for number, one in enumerate(migrations, 1):
        if one.dest_host_id == rows.host.id and one.phase in UNDER_WAY:
            if _have_left(migrations[number:], rows.host.id):
                break  # room is made once what an earlier move left here is seen gone
            return ("none", None) if one.kind == EVACUATION else ("incoming", one)
        kept = ("sending",) if one.kind == EVACUATION else ("resized",)
        if one.source_host_id == rows.host.id and one.phase in kept:
            return "held", one
    return "absent", None


def _have_left(earlier: list, host_id: str) -> bool:
    """Whether one of these moves has left something of the server on the host."""
    return any(one.phase == phase and getattr(one, side) == host_id for one in earlier for phase, side in CLEANED)


def keeps_ports(rows, server) -> bool:
    """Whether a guest that is to go from this host may still run here: its ports, and with them its firewall, stay."""
    for one in rows.moves.get(server.id, []):
        if one.dest_host_id != rows.host.id or one.observed_dest.get("state") == "gone":
            continue
        if one.phase == "undoing" or (server.deleted_at is not None and one.kind == LIVE):
            return True
    return False


def build_move(rows, server, part: str, migration) -> dict:
    """The fields of the document's server that its move adds: incoming, outgoing, held, backup, and power."""
    same = [one for one in rows.moves.get(server.id, []) if one.source_host_id == one.dest_host_id]
    backup = _build_same_host(same[-1]) if same else {}
    if migration is None or migration in same:
        return backup
    return {**backup, **_build_other_host(rows, server, part, migration)}


def _build_other_host(rows, server, part: str, migration) -> dict:
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
    if migration.kind == EVACUATION:
        return {"held": True, "power": "off"}  # should the host come back: it is wanted elsewhere
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
