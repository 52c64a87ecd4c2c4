"""Power of a guest as a state: what leads from what is seen to on, off, paused, suspended or rebooted. Pure.

Where state.json and a document's counters meet: ``off_by``, ``reboot_done``, ``start_done`` (``servers.py`` has what
they mean). Paused and suspended are reached through on: what is off, or wants a reboot, runs first. A guest that
stands still by a wish (reason ``user``) goes on as soon as ``on`` is wanted; one that stands still for another reason
(an I/O error, say) only when it is asked to by a newer start (docs/compute.md). Next rooms: ``guests.py`` and
``suspension.py``, which carry out the verbs.
"""

from __future__ import annotations

import json

from . import guests

# A guest that is still booting does not hear the power button: press it again.
PRESS_EVERY_S = 5
SAVE = "save"  # the task that writes a guest's memory to disk
UP = ("start", "resume", "reboot_hard")


def plan_power(document: dict, server: dict, seen: dict, kept: dict, now: float) -> list[tuple]:
    """The verbs that lead to the power that is wanted."""
    if is_saving(seen):
        return []  # pending: the run that finds it saved goes on
    wanted, task = server["power"], seen["tasks"].get(SAVE)
    if task and wanted == "suspended":
        return [("tell_save", {"error": task["error"]}, "", f"failed: {task['error']}\n")]
    verbs: list[tuple] = [("forget_save", {}, "task save\n", "")] if task else []
    return verbs + PLANS[wanted](document, server, seen, kept, now)


def is_saving(seen: dict) -> bool:
    """Whether the guest's memory is being written to disk: the task may have been killed while libvirtd goes on."""
    running = (seen["tasks"].get(SAVE) or {}).get("state") == "running"
    return running or (seen["state"], seen["reason"]) == ("paused", "save")


def plan_on(document: dict, server: dict, seen: dict, kept: dict, now: float) -> list[tuple]:
    """The verbs that lead to a guest that runs, and was rebooted as often as was asked."""
    state, reboot, starts = seen["state"], server["reboot"]["wanted"], server["start"]["wanted"]
    limit = document["settings"]["stop_timeout_s"]
    ours = kept["off_by"] == "us" or kept["rebooting"] is not None
    start = ("start", {}, build_text({"state": state, "reason": seen["reason"]}), build_text({"state": "running"}))
    if state in ("shutoff", "crashed"):
        asked = starts > kept["start_done"] or reboot > kept["reboot_done"]
        if seen["reason"] == "shutdown" and kept["off_by"] is None and not ours and not asked:
            return [_record({"off_by": "guest"}, "the guest shut itself down\n")]
        if kept["off_by"] == "guest" and not asked:
            return []
        return [start]
    if state == "suspended":
        return [_build_discard(), start] if reboot > kept["reboot_done"] else [start]
    if state == "paused":
        return _plan_paused_to_on(server, seen, kept)
    if state != "running":
        return []
    if reboot > kept["reboot_done"]:
        soft = kept["rebooting"]
        if server["reboot"]["type"] == "HARD" or (soft and is_over(soft["since"], now, limit)):
            return [_build_reboot("reboot_hard", server, kept)]
        if soft is None:
            return [_build_reboot("reboot_soft", server, kept)]
        return plan_press(kept, now)
    if kept["stopping_since"] is not None and not is_over(kept["stopping_since"], now, limit):
        return []  # asked to stop, then to run: it may still go down (and is started then), or have missed the button
    changes = _build_changes(server, kept)
    return [_record(changes, build_text({"state": "running"}))] if changes else []


def _plan_paused_to_on(server: dict, seen: dict, kept: dict) -> list[tuple]:
    asked = server["start"]["wanted"] > kept["start_done"]
    left_by_move = seen["reason"] == "migration" and not seen["job"]
    wakes = seen["reason"] == "user" or left_by_move or (asked and not seen["job"])
    resume = ("resume", {}, build_text({"state": "paused", "reason": seen["reason"]}), build_text({"state": "running"}))
    if server["reboot"]["wanted"] > kept["reboot_done"]:
        if server["reboot"]["type"] == "SOFT" and wakes and kept["rebooting"] is None:
            return [resume, _build_reboot("reboot_soft", server, kept)]
        return [_build_reboot("reboot_hard", server, kept)]
    return [resume] if wakes else []


def plan_paused(document: dict, server: dict, seen: dict, kept: dict, now: float) -> list[tuple]:
    """The verbs that lead to a guest whose CPUs stand still."""
    if seen["state"] == "paused" and server["reboot"]["wanted"] <= kept["reboot_done"]:
        changes = _build_changes(server, kept)
        return [_record(changes, build_text({"state": "paused"}))] if changes else []
    pause = ("pause", {}, build_text({"state": "running"}), build_text({"state": "paused"}))
    return _plan_through_on(document, server, seen, kept, now, pause)


def plan_suspended(document: dict, server: dict, seen: dict, kept: dict, now: float) -> list[tuple]:
    """The verbs that lead to a guest that is off, with its memory on disk."""
    suspend = ("suspend", {}, build_text({"state": "running"}), build_text({"state": "suspended"}))
    if server["reboot"]["wanted"] <= kept["reboot_done"]:
        if seen["state"] == "suspended":
            changes = _build_changes(server, kept)
            return [_record(changes, build_text({"state": "suspended"}))] if changes else []
        if seen["state"] == "paused":
            return [] if seen["job"] else [suspend]
    return _plan_through_on(document, server, seen, kept, now, suspend)


def _plan_through_on(document, server: dict, seen: dict, kept: dict, now: float, last: tuple) -> list[tuple]:
    """What leads to on, and ``last`` once the guest is there."""
    verbs = plan_on(document, server, seen, kept, now)
    if verbs and verbs[-1][0] in UP:
        return [*verbs, last]
    rebooting = server["reboot"]["wanted"] > kept["reboot_done"]
    limit = document["settings"]["stop_timeout_s"]
    stopping = kept["stopping_since"] is not None and not is_over(kept["stopping_since"], now, limit)
    return verbs if seen["state"] != "running" or rebooting or stopping else [*verbs, last]


def plan_off(document: dict, server: dict, seen: dict, kept: dict, now: float) -> list[tuple]:
    """The verbs that lead to a guest that is off."""
    texts = (build_text({"state": seen["state"]}), build_text({"state": "shutoff"}))
    if seen["state"] == "suspended":
        return [_build_discard(), *plan_off(document, server, {**seen, "state": "shutoff"}, kept, now)]
    if seen["state"] in ("shutoff", None):
        done = guests.build_off(server)
        changes = {name: value for name, value in done.items() if kept[name] != value}
        if not seen["defined"]:
            return []  # just created, and never started: the state written with it says so
        return [_record(changes, texts[1])] if changes else []
    if seen["state"] == "crashed" or not server["stop"]["graceful"] or seen["state"] != "running":
        return [("destroy", {}, *texts)]
    if kept["stopping_since"] is None:
        return [("stop", {}, *texts)]
    if is_over(kept["stopping_since"], now, document["settings"]["stop_timeout_s"]):
        return [("destroy", {}, *texts)]
    return plan_press(kept, now)


PLANS = {"on": plan_on, "off": plan_off, "paused": plan_paused, "suspended": plan_suspended}


def _build_changes(server: dict, kept: dict) -> dict:
    """What state.json has to forget of a guest that is up, and the starts that count as done with that."""
    changes: dict = {name: None for name in ("stopping_since", "off_by", "rebooting") if kept[name] is not None}
    if server["start"]["wanted"] > kept["start_done"]:
        changes["start_done"] = server["start"]["wanted"]
    return changes


def _build_discard() -> tuple:
    return ("discard", {}, "memory saved on disk\n", "")


def _build_reboot(verb: str, server: dict, kept: dict) -> tuple:
    before = build_text({"reboot_done": kept["reboot_done"]})
    return (verb, {}, before, build_text({"reboot_done": server["reboot"]["wanted"]}))


def plan_press(kept: dict, now: float) -> list[tuple]:
    """The power button again, now and then."""
    if not is_over(kept["pressed_at"] or 0, now, PRESS_EVERY_S):
        return []
    return [("press_power_button", {}, "", "power button pressed again\n")]


def _record(changes: dict, after: str) -> tuple:
    return ("record", {"changes": changes}, "", after)


def is_over(since: float, now: float, limit: float) -> bool:
    """Whether ``limit`` seconds have passed; also where the clock was set back."""
    return not since <= now < since + limit


def build_text(values: dict) -> str:
    """A mapping as a diff shows it."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
