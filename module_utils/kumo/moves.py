"""A guest that moves: this host's part in it as verbs, and how far it is. Pure (docs/moving-guests.md).

What a host remembers of its part is ``move`` in the guest's state.json: {migration, side: in|out, kind: live|cold,
state: begun|failed|received, error, port, forced}. A failure is final for that migration; the next one has
another id. Next rooms: ``incoming.py``, ``outgoing.py`` and ``backups.py`` carry out the verbs.
"""

from __future__ import annotations

from . import following, guest_hardware, guest_volumes
from .errors import KumoError

SEND, OFFER, RECEIVE, KEEP = "send", "offer", "receive", "keep"
KINDS = (SEND, OFFER, RECEIVE, KEEP, following.ARRIVE)
OFF = ("shutoff", "crashed", None)
GIB = 1 << 30


def build_disks(server: dict) -> list[dict]:
    """[{file, target, bus}] of the guest's disks that are files of its host: what has to go with it."""
    return guest_hardware.build_local_disks(server, guest_volumes.has_local_root(server))


def build_copied(server: dict) -> list[dict]:
    """Those of them that are copied while the guest is off: what is on its swap means nothing then."""
    return [row for row in build_disks(server) if row["file"] != guest_hardware.SWAP]


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


def check_home(server: dict, seen: dict, kept: dict) -> None:
    """KumoError where a live guest that is said to be at home has gone, or never came: the disk here is not its."""
    move = kept.get("move") or {}
    if move.get("kind") != "live" or not is_sent(seen):
        return
    if move["side"] == "out" and move["state"] == "begun":
        raise KumoError(
            f"server {server['id']} has gone to another host (migration {move['migration']}); what is left of it here "
            "is old, and is not started"
        )
    if move["side"] == "in":
        raise KumoError(
            f"server {server['id']} has not come here (migration {move['migration']}); the disk made for it is not its"
        )


def has_arrived(seen: dict) -> bool:
    """Whether the guest runs here, or is paused as it was where it came from, and its definition stays."""
    is_up = seen["state"] == "running" or (seen["state"], seen["reason"]) == ("paused", "user")
    return is_up and seen["persistent"]


def plan_tasks(row: dict, seen: dict) -> list[tuple]:
    """The ends of tasks that the document no longer wants."""
    outgoing = row.get("outgoing") or {}
    wanted = {
        SEND: outgoing.get("kind") == "live",
        OFFER: outgoing.get("kind") == "cold" and seen["state"] in OFF,
        RECEIVE: bool(row.get("incoming")),
        following.ARRIVE: bool(row.get("incoming")),
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
    return [("receive", {}, "", f"its disks, from {offer.get('address')}\n")]


def _plan_secrets(server: dict, seen: dict) -> list[tuple]:
    """A guest that comes finds the passwords of its volumes here, until it runs."""
    if has_arrived(seen):
        return [("drop_secrets", {}, "passwords of its volumes\n", "")] if seen["kept"]["move"]["attachments"] else []
    missing = {volume["attachment"] for volume in server["volumes"]} - set(seen["secrets"])
    return [("keep_secrets", {}, "", "passwords of its volumes, until it is here\n")] if missing else []


def plan_settling(kept: dict) -> list[tuple]:
    """The guest that came is at home here: nothing of the move is left."""
    move = kept.get("move") or {}
    return [("settle", {}, f"came by migration {move['migration']}\n", "")] if move.get("side") == "in" else []


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
    if seen["state"] not in ("running", "paused"):
        return f"the guest does not run (it is {seen['state'] or 'gone'})"
    return None


def plan_outgoing_cold(document: dict, server: dict, seen: dict, kept: dict) -> list[tuple]:
    """What follows once the guest is off: its disk is offered for as long as the document says so."""
    order = server["outgoing"]
    move = find_move(kept, "out", order)
    if move and move["state"] == "failed":
        return []
    if build_copied(server) and not document["settings"].get("tunnel_address"):
        error = "this host has no address between hosts (settings.tunnel_address)"
        return [("note_failure", {"kind": OFFER, "error": error}, "", f"failed: {error}\n")]
    if is_under_way(seen, OFFER) or (move and not build_copied(server)):
        return []
    return [("offer", {}, "", "its disks are offered to the other host\n")]


def plan_held(seen: dict, kept: dict | None) -> list[tuple]:
    """Its disk stays and it does not run.

    A guest that a live move from here left running is told of (``observed.servers``) and not stopped: nobody can have
    known that it would come back when the document was written.
    """
    move = (kept or {}).get("move") or {}
    if seen["state"] not in ("running", "paused") or (move.get("side") == "out" and move.get("kind") == "live"):
        return []
    return [("hold", {}, "running\n", "off\n")]


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
    """``observed.moves`` of one server: {migration, state} and what is known of error, progress, address, port, name.

    None where the document says nothing of a move.
    """
    kept = seen["kept"]
    if row.get("incoming"):
        return _report_incoming(row["incoming"], seen, kept)
    if row.get("outgoing"):
        report = _report_live if row["outgoing"]["kind"] == "live" else _report_cold
        return report(document, row["outgoing"], seen, kept)
    return _report_backup(row, seen, kept) if row.get("backup") else None


def _report_incoming(order: dict, seen: dict, kept: dict | None) -> dict:
    move = find_move(kept, "in", order)
    report = {"migration": order["migration"], "state": "preparing"}
    if move and move["state"] == "failed":
        return {**report, "state": "failed", "error": move["error"]}
    if move and move["state"] == "received":
        return {**report, "state": "received"}
    if is_under_way(seen, RECEIVE):
        return {**report, "state": "receiving", "progress": build_copy_progress(seen["tasks"][RECEIVE])}
    if move and order["kind"] == "live":
        return {**report, "state": "arrived" if has_arrived(seen) else "ready"}
    return report


def _report_live(document: dict, order: dict, seen: dict, kept: dict | None) -> dict:
    move = find_move(kept, "out", order)
    report = {"migration": order["migration"], "state": "sending"}
    if move and move["state"] == "failed":
        return {**report, "state": "failed", "error": move["error"]}
    if move and not is_sending(seen) and is_sent(seen):
        return {**report, "state": "sent"}
    return {**report, "progress": seen["job"]} if seen["job"] else report


def _report_cold(document: dict, order: dict, seen: dict, kept: dict | None) -> dict:
    move = find_move(kept, "out", order)
    report = {"migration": order["migration"], "state": "stopping"}
    if move and move["state"] == "failed":
        return {**report, "state": "failed", "error": move["error"]}
    if not move or seen["state"] not in OFF:
        return report
    if move["port"] is None:
        return {**report, "state": "offered"}
    if not is_under_way(seen, OFFER):
        return report
    address = document["settings"].get("tunnel_address")
    return {**report, "state": "offered", "address": address, "port": move["port"], "name": order["migration"]}


def _report_backup(row: dict, seen: dict, kept: dict | None) -> dict:
    order = row["backup"]
    report = {"migration": order["id"], "state": "keeping"}
    if order["wanted"] != "kept":
        under_way = seen["backup"] or KEEP in seen["tasks"]
        return {**report, "state": "keeping" if under_way else order["wanted"]}
    error = _find_backup_error(order, kept)
    if error:
        return {**report, "state": "failed", "error": error}
    if seen["backup"] or (not seen["disk"] and seen["state"] in OFF):
        return {**report, "state": "kept"}
    if is_under_way(seen, KEEP):
        report["progress"] = build_copy_progress(seen["tasks"][KEEP])
    return report


def is_pending(row: dict, report: dict) -> bool:
    """Whether this host must be looked at again soon for the sake of a move."""
    incoming = row.get("incoming") or {}
    if incoming.get("kind") == "cold" and not incoming.get("offer"):
        return False  # it waits for the other host
    return report["state"] in ("preparing", "ready", "receiving", "sending", "stopping", "keeping")


def build_copy_progress(task: dict) -> dict:
    """A copy's progress, bytes."""
    total, done = task.get("total") or 0, task.get("bytes") or 0
    return {"disk_total": total, "disk_processed": done, "disk_remaining": max(0, total - done)} if total else {}


def build_job_progress(stats: dict) -> dict:
    """libvirt's virDomainGetJobStats as progress, bytes; empty where no job is active."""
    if not stats.get("type"):
        return {}
    names = [f"{part}_{name}" for part in ("memory", "disk") for name in ("total", "processed", "remaining")]
    return {name: stats.get(name, 0) for name in names}
