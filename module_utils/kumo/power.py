"""Power of a guest as a state: what leads from what is seen to on, off or rebooted. Pure.

Where state.json and a document's counters meet: ``off_by``, ``reboot_done``, ``start_done`` (``servers.py`` has what
they mean). Next room: ``guests.py``, which carries out the verbs.
"""

from __future__ import annotations

import json

from . import guests

# A guest that is still booting does not hear the power button: press it again.
PRESS_EVERY_S = 5


def plan_on(document: dict, server: dict, seen: dict, kept: dict, now: float) -> list[tuple]:
    """The verbs that lead to a guest that runs, and was rebooted as often as was asked."""
    state, reboot, starts = seen["state"], server["reboot"]["wanted"], server["start"]["wanted"]
    limit = document["settings"]["stop_timeout_s"]
    ours = kept["off_by"] == "us" or kept["rebooting"] is not None
    if state in ("shutoff", "crashed"):
        asked = starts > kept["start_done"] or reboot > kept["reboot_done"]
        if seen["reason"] == "shutdown" and kept["off_by"] is None and not ours and not asked:
            return [_record({"off_by": "guest"}, "the guest shut itself down\n")]
        if kept["off_by"] == "guest" and not asked:
            return []
        return [("start", {}, build_text({"state": state, "reason": seen["reason"]}), build_text({"state": "running"}))]
    if state == "paused" and seen["reason"] == "migration" and not seen["job"]:
        return [("resume", {}, build_text({"state": state}), build_text({"state": "running"}))]  # by a move that failed
    if state != "running":  # paused or suspended: by an operator or an error, not ours to wake
        return []
    if reboot > kept["reboot_done"]:
        soft = kept["rebooting"]
        rebooted = build_text({"reboot_done": reboot})
        before = build_text({"reboot_done": kept["reboot_done"]})
        if server["reboot"]["type"] == "HARD" or (soft and _is_over(soft["since"], now, limit)):
            return [("reboot_hard", {}, before, rebooted)]
        if soft is None:
            return [("reboot_soft", {}, before, rebooted)]
        return _press(kept, now)
    changes: dict = {}
    if kept["stopping_since"] is not None:
        # Asked to stop, then to run: it may still go down (and is started then), or have missed the button.
        if not _is_over(kept["stopping_since"], now, limit):
            return []
        changes["stopping_since"] = None
    if kept["off_by"] is not None:
        changes["off_by"] = None
    if kept["rebooting"] is not None:
        changes["rebooting"] = None
    if starts > kept["start_done"]:
        changes["start_done"] = starts
    return [_record(changes, build_text({"state": "running"}))] if changes else []


def plan_off(document: dict, server: dict, seen: dict, kept: dict, now: float) -> list[tuple]:
    """The verbs that lead to a guest that is off."""
    texts = (build_text({"state": seen["state"]}), build_text({"state": "shutoff"}))
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
    if _is_over(kept["stopping_since"], now, document["settings"]["stop_timeout_s"]):
        return [("destroy", {}, *texts)]
    return _press(kept, now)


def _press(kept: dict, now: float) -> list[tuple]:
    if not _is_over(kept["pressed_at"] or 0, now, PRESS_EVERY_S):
        return []
    return [("press_power_button", {}, "", "power button pressed again\n")]


def _record(changes: dict, after: str) -> tuple:
    return ("record", {"changes": changes}, "", after)


def _is_over(since: float, now: float, limit: float) -> bool:
    """Whether ``limit`` seconds have passed; also where the clock was set back."""
    return not since <= now < since + limit


def build_text(values: dict) -> str:
    """A mapping as a diff shows it."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
