"""A guest that moves: this host's part in it as verbs, and how far it is. Pure (docs/moving-guests.md).

What a host remembers of its part is ``move`` in the guest's state.json: {migration, side: in|out, kind: live|cold,
state: begun|failed|received, error, port, forced}. A failure is final for that migration; the next one has
another id. Next rooms: ``incoming.py``, ``outgoing.py`` and ``backups.py`` carry out the verbs.
"""

from __future__ import annotations

from . import guest_volumes
from .errors import KumoError

SEND, OFFER, RECEIVE, KEEP = "send", "offer", "receive", "keep"
KINDS = (SEND, OFFER, RECEIVE, KEEP)
OFF = ("shutoff", "crashed", None)
GIB = 1 << 30


def build_move(server: dict, side: str, **more) -> dict:
    """What state.json keeps of a host's part in a move that begins."""
    order = server["incoming" if side == "in" else "outgoing"]
    move = {"migration": order["migration"], "side": side, "kind": order["kind"], "state": "begun"}
    return {**move, "error": None, "port": None, "forced": False, **more}


def build_backup_move(server: dict) -> dict:
    """What state.json keeps of a resize on this host that has failed."""
    move = {"migration": server["backup"]["id"], "side": "out", "kind": "cold", "state": "begun"}
    return {**move, "error": None, "port": None, "forced": False}


def find_move(kept: dict | None, side: str, order: dict) -> dict | None:
    """What is remembered of this very move; None where it has not begun."""
    move = (kept or {}).get("move")
    return move if move and move["side"] == side and move["migration"] == order["migration"] else None


def is_under_way(seen: dict, kind: str) -> bool:
    """Whether a task of a kind runs for the guest."""
    return (seen["tasks"].get(kind) or {}).get("state") == "running"


def is_sending(seen: dict) -> bool:
    """Whether libvirt is at it: the task may have been killed while libvirtd goes on."""
    return is_under_way(seen, SEND) or bool(seen["job"])


def is_sent(seen: dict) -> bool:
    """Whether the guest has left this host."""
    return not seen["defined"] or (seen["state"] == "shutoff" and seen["reason"] == "migrated")


def has_left(seen: dict, kept: dict) -> bool:
    """Whether a guest that is said to be at home here was sent away, alive: its disk here is old."""
    move = kept.get("move") or {}
    sent = move.get("side") == "out" and move.get("kind") == "live" and move.get("state") == "begun"
    return sent and is_sent(seen)


def has_arrived(seen: dict) -> bool:
    """Whether the guest runs here and its definition stays."""
    return seen["state"] == "running" and seen["persistent"]


def plan_tasks(row: dict, seen: dict) -> list[tuple]:
    """The ends of tasks that the document no longer wants."""
    outgoing = row.get("outgoing") or {}
    wanted = {
        SEND: outgoing.get("kind") == "live",
        OFFER: outgoing.get("kind") == "cold" and seen["state"] in OFF,
        RECEIVE: bool(row.get("incoming")),
        KEEP: (row.get("backup") or {}).get("wanted") == "kept",
    }
    verbs = [
        ("end_task", {"kind": kind}, f"task {kind}\n", "")
        for kind in KINDS
        if kind in seen["tasks"] and not wanted[kind]
    ]
    if not wanted[SEND] and seen["job"]:
        verbs.append(("abort_move", {}, "on its way\n", "stays\n"))
    return verbs


def plan_incoming(server: dict, seen: dict, kept: dict | None) -> list[tuple]:
    """(verb, args, before, after) of the side that a guest comes to: room for it, then its disk; nothing is started."""
    order = server["incoming"]
    move = find_move(kept, "in", order)
    if move is None:
        if kept is not None or seen["defined"]:
            raise KumoError(
                f"server {server['id']} was on this host before, and what is left of it has not been removed"
            )
        if seen["fetching"]:
            return []  # pending: the run that finds the image goes on
        return [("prepare", {}, "", f"room for server {server['id']}\n")]
    if move["state"] != "begun":
        return []
    if order["kind"] == "live":
        return _plan_secrets(server, seen)
    offer = order.get("offer")
    if not offer or is_under_way(seen, RECEIVE):
        return []
    task = seen["tasks"].get(RECEIVE)
    if task:
        return [("note_failure", {"kind": RECEIVE, "error": task["error"]}, "", f"failed: {task['error']}\n")]
    return [("receive", {}, "", f"its disk, from {offer.get('address')}\n")]


def _plan_secrets(server: dict, seen: dict) -> list[tuple]:
    """A guest that comes finds the passwords of its volumes here, until it runs."""
    if has_arrived(seen):
        return plan_arrived(seen["kept"])
    missing = {volume["attachment"] for volume in server["volumes"]} - set(seen["secrets"])
    return [("keep_secrets", {}, "", "passwords of its volumes, until it is here\n")] if missing else []


def plan_arrived(kept: dict) -> list[tuple]:
    """What a move here leaves to be cleared away once the guest runs."""
    move = kept.get("move") or {}
    return [("drop_secrets", {}, "passwords of its volumes\n", "")] if move.get("attachments") else []


def plan_outgoing_live(server: dict, seen: dict, kept: dict) -> list[tuple]:
    """The verbs of the side that a running guest leaves."""
    order = server["outgoing"]
    move = find_move(kept, "out", order)
    if move is None:
        refusal = _find_refusal(order, seen)
        if refusal:
            return [("note_failure", {"kind": SEND, "error": refusal}, "", f"failed: {refusal}\n")]
        return [("send", {}, "here\n", f"on its way to {order['address']}\n")]
    if move["state"] != "begun":
        return []
    if is_sending(seen):
        if order["abort"]:
            return [("abort_move", {}, "on its way\n", "stays\n")]
        return [("force_move", {}, "", "a longer pause is taken\n")] if order["force"] and not move["forced"] else []
    if is_sent(seen):
        return []
    error = (seen["tasks"].get(SEND) or {}).get("error") or "the move ended and the guest is still here"
    return [("note_failure", {"kind": SEND, "error": error}, "", f"failed: {error}\n")]


def _find_refusal(order: dict, seen: dict) -> str | None:
    if order["abort"]:
        return "it was called off before it began"
    if not order["address"]:
        return "the other host has no address between hosts (settings.tunnel_address)"
    if seen["state"] != "running":
        return f"the guest does not run (it is {seen['state'] or 'gone'})"
    return None


def plan_outgoing_cold(document: dict, server: dict, seen: dict, kept: dict) -> list[tuple]:
    """What follows once the guest is off: its disk is offered for as long as the document says so."""
    order = server["outgoing"]
    move = find_move(kept, "out", order)
    if move and move["state"] == "failed":
        return []
    if guest_volumes.has_local_root(server) and not document["settings"].get("tunnel_address"):
        error = "this host has no address between hosts (settings.tunnel_address)"
        return [("note_failure", {"kind": OFFER, "error": error}, "", f"failed: {error}\n")]
    if is_under_way(seen, OFFER) or (move and not guest_volumes.has_local_root(server)):
        return []
    return [("offer", {}, "", "its disk is offered to the other host\n")]


def plan_held(seen: dict, kept: dict | None) -> list[tuple]:
    """Its disk stays and it does not run. One that no cold move had stopped is not stopped now: it is told of."""
    move = (kept or {}).get("move") or {}
    if seen["state"] != "running" or move.get("kind") != "cold":
        return []
    return [("hold", {}, f"{seen['state']}\n", "off\n")]


def plan_backup(server: dict, seen: dict, kept: dict) -> list[tuple]:
    """The disk as it was before a resize on this host: once the guest is off."""
    order = server["backup"]
    if not guest_volumes.has_local_root(server):
        return []
    if order["wanted"] == "dropped":
        return [("drop_backup", {}, "the disk before the resize\n", "")] if seen["backup"] else []
    if seen["state"] not in OFF:
        return []
    if order["wanted"] == "restored":
        return [("restore_backup", {}, "the disk after the resize\n", "the disk before\n")] if seen["backup"] else []
    task = seen["tasks"].get(KEEP)
    if seen["backup"] or is_under_way(seen, KEEP) or _find_backup_error(order, kept):
        return []
    if task:
        return [("note_failure", {"kind": KEEP, "error": task["error"]}, "", f"failed: {task['error']}\n")]
    return [("keep_backup", {}, "", "the disk before the resize\n")]


def _find_backup_error(order: dict, kept: dict) -> str | None:
    move = (kept or {}).get("move")
    mine = move and move["migration"] == order["id"] and move["state"] == "failed"
    return move["error"] if mine else None


def is_disk_settled(server: dict, seen: dict) -> bool:
    """Whether the disk may be made larger: no copy of the old one is still to be made, or to come back."""
    order = server["backup"]
    return not order or order["wanted"] == "dropped" or (order["wanted"] == "kept" and seen["backup"])


def plan_growth(server: dict, seen: dict) -> list[tuple]:
    """The disk made as large as the flavor has it, while the guest is off."""
    wanted = server["root_gb"] * GIB
    size = seen["disk_size"]
    if not size or size >= wanted or seen["state"] not in OFF or not is_disk_settled(server, seen):
        return []
    return [("grow_disk", {}, f"{size} bytes\n", f"{wanted} bytes\n")]


def report_move(document: dict, row: dict, seen: dict) -> dict | None:
    """``observed.moves`` of one server: {migration, state, error, progress, address, port, name, running}."""
    if row.get("wanted", "present") == "absent":
        clean = not seen["defined"] and not seen["files"] and not seen["tasks"]
        return _build("gone" if clean else "removing", running=seen["state"] == "running")
    kept = seen["kept"]
    running = seen["state"] == "running"
    if row.get("incoming"):
        return _report_incoming(row["incoming"], seen, kept)
    if row.get("outgoing"):
        report = _report_live if row["outgoing"]["kind"] == "live" else _report_cold
        return report(document, row["outgoing"], seen, kept, running)
    if row.get("held"):
        return _build("held", running=running)
    if row.get("backup"):
        return _report_backup(row, seen, kept, running)
    return None


def _build(state: str, migration: str | None = None, error: str | None = None, **more) -> dict:
    return {"migration": migration, "state": state, "error": error, "progress": None, **more}


def _report_incoming(order: dict, seen: dict, kept: dict | None) -> dict:
    move = find_move(kept, "in", order)
    arrived = order["kind"] == "live" and move is not None and has_arrived(seen)
    state, error, progress = "preparing", None, None
    if move and move["state"] == "failed":
        state, error = "failed", move["error"]
    elif move and move["state"] == "received":
        state = "received"
    elif is_under_way(seen, RECEIVE):
        state, progress = "receiving", build_copy_progress(seen["tasks"][RECEIVE])
    elif move:
        state = "arrived" if arrived else "ready"
    return {**_build(state, order["migration"], error, running=arrived), "progress": progress}


def _report_live(document: dict, order: dict, seen: dict, kept: dict | None, running: bool) -> dict:
    move = find_move(kept, "out", order)
    state, error = "waiting", None
    if move and move["state"] == "failed":
        state, error = "failed", move["error"]
    elif move and is_sending(seen):
        state = "sending"
    elif move and is_sent(seen):
        state = "sent"
    elif move:
        state = "sending"  # what became of it is told by the next run
    progress = seen["job"] or None
    return {**_build(state, order["migration"], error, running=running), "progress": progress}


def _report_cold(document: dict, order: dict, seen: dict, kept: dict | None, running: bool) -> dict:
    move = find_move(kept, "out", order)
    where = {"address": None, "port": None, "name": None}
    state, error = "stopping", None
    if move and move["state"] == "failed":
        state, error = "failed", move["error"]
    elif move and seen["state"] in OFF and (move["port"] is None or is_under_way(seen, OFFER)):
        state = "offered"
        if move["port"] is not None:
            address = document["settings"].get("tunnel_address")
            where = {"address": address, "port": move["port"], "name": order["migration"]}
    return {**_build(state, order["migration"], error, running=running), **where}


def _report_backup(row: dict, seen: dict, kept: dict | None, running: bool) -> dict:
    order = row["backup"]
    error = _find_backup_error(order, kept)
    local = seen["disk"] or seen["backup"]
    if order["wanted"] in ("dropped", "restored"):
        state = "removing" if seen["backup"] or KEEP in seen["tasks"] else "gone"
    elif error:
        state = "failed"
    else:
        state = "kept" if seen["backup"] or (not local and seen["state"] in OFF) else "keeping"
    progress = build_copy_progress(seen["tasks"][KEEP]) if is_under_way(seen, KEEP) else None
    return {**_build(state, order["id"], error if state == "failed" else None, running=running), "progress": progress}


def is_pending(row: dict, report: dict) -> bool:
    """Whether this host must be looked at again soon for the sake of a move."""
    if row.get("incoming"):
        return report["state"] in ("preparing", "ready", "receiving") and (
            row["incoming"]["kind"] == "live" or report["state"] != "ready"
        )
    return report["state"] in ("sending", "waiting", "keeping", "removing", "stopping")


def build_copy_progress(task: dict) -> dict:
    """A copy's progress in the Compute API's names, bytes."""
    total, done = task.get("total") or 0, task.get("bytes") or 0
    return {
        "percent": round(100 * done / total, 1) if total else 0.0,
        "disk_total_bytes": total,
        "disk_processed_bytes": done,
        "disk_remaining_bytes": max(0, total - done),
    }


def build_job_progress(stats: dict) -> dict:
    """libvirt's virDomainGetJobStats in the Compute API's names, bytes; empty where no job is active."""
    if not stats.get("type"):
        return {}
    total, left = stats.get("data_total", 0), stats.get("data_remaining", 0)
    progress = {"percent": round(100 * (1 - left / total), 1) if total else 0.0}
    for part in ("memory", "disk"):
        for name in ("total", "processed", "remaining"):
            progress[f"{part}_{name}_bytes"] = stats.get(f"{part}_{name}", 0)
    return progress
