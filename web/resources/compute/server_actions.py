"""What `POST /servers/{id}/action` asks for, as wanted state: power, pause, suspension, reboots, locks.

A verb the hosts do not realise is no action here, so that its 400 is honest. Source: Compute API
reference, "Servers - run an action". Next rooms: `server_rescues.py`, `server_states.py`,
`server_console.py` and `server_security_groups.py`, which have the actions of their nouns.
"""

from __future__ import annotations

from ...fields import field, one_of, since, text
from ...http import Context
from ...policy import MEMBER, rule
from ...routes import Route
from .server_rows import begin_operation, check_placed, find_server, find_server_to_change, mark_changed, record_action

LOCK_FIELDS = {"locked_reason": field({**text(255, 1), "format": "printable"}, since("2.73"))}
REBOOT_FIELDS = {"type": field(one_of("HARD", "Hard", "hard", "SOFT", "Soft", "soft"), required=True)}


def start(ctx: Context, server_id: str) -> None:
    server = find_server_to_change(ctx, server_id, "start")
    check_placed(server)
    server.power = "on"
    server.start_wanted += 1
    begin_operation(ctx, server, "start")
    record_action(ctx, server, "start")
    mark_changed(ctx, server)


def stop(ctx: Context, server_id: str) -> None:
    """The guest is asked to shut down; it is powered off where it does not in `[compute] stop_timeout_s`."""
    server = find_server_to_change(ctx, server_id, "stop")
    check_placed(server)
    server.power = "off"
    server.stop_graceful = True
    server.rescue_image_id = None  # one whose rescue has failed is rescued no more
    begin_operation(ctx, server, "stop")
    record_action(ctx, server, "stop")
    mark_changed(ctx, server)


def reboot(ctx: Context, server_id: str) -> None:
    """One more reboot is wanted; a hard one also brings a stopped guest up."""
    kind = ctx.body["type"].upper()
    server = find_server_to_change(ctx, server_id, f"reboot_{kind.lower()}")
    check_placed(server)
    server.power = "on"
    server.rescue_image_id = None
    server.reboot_wanted += 1
    server.reboot_type = kind
    begin_operation(ctx, server, "reboot")
    record_action(ctx, server, "reboot")
    mark_changed(ctx, server)


def pause(ctx: Context, server_id: str) -> None:
    """The guest's CPUs stand still; its memory stays where it is."""
    _set_power(ctx, server_id, "pause", "paused")


def unpause(ctx: Context, server_id: str) -> None:
    """The guest goes on, also one that its host paused for an error."""
    _set_power(ctx, server_id, "unpause", "on")


def suspend(ctx: Context, server_id: str) -> None:
    """The guest's memory is written to its host's disk, and the guest is off."""
    _set_power(ctx, server_id, "suspend", "suspended")


def resume(ctx: Context, server_id: str) -> None:
    """The guest goes on with the memory that was written to disk."""
    _set_power(ctx, server_id, "resume", "on")


def _set_power(ctx: Context, server_id: str, action: str, power: str) -> None:
    server = find_server_to_change(ctx, server_id, action)
    check_placed(server)
    server.power = power
    if power == "on":
        server.start_wanted += 1
    begin_operation(ctx, server, action)
    record_action(ctx, server, action)
    mark_changed(ctx, server)


def lock(ctx: Context, server_id: str) -> None:
    server = find_server(ctx, server_id)
    if server.locked and not ctx.is_admin:
        return
    server.locked, server.locked_reason = True, ctx.body.get("locked_reason")
    record_action(ctx, server, "lock", finished=True)
    mark_changed(ctx, server, on_host=False)


def unlock(ctx: Context, server_id: str) -> None:
    server = find_server(ctx, server_id)
    server.locked, server.locked_reason = False, None
    record_action(ctx, server, "unlock", finished=True)
    mark_changed(ctx, server, on_host=False)


PATH = "/servers/{server_id}/action"
ROUTES = [
    Route("POST", PATH, rule("compute:servers:start", MEMBER), None, start, None, 202, action="os-start"),
    Route("POST", PATH, rule("compute:servers:stop", MEMBER), None, stop, None, 202, action="os-stop"),
    Route("POST", PATH, rule("compute:servers:reboot", MEMBER), REBOOT_FIELDS, reboot, None, 202, action="reboot"),
    Route("POST", PATH, rule("compute:servers:pause", MEMBER), None, pause, None, 202, action="pause"),
    Route("POST", PATH, rule("compute:servers:unpause", MEMBER), None, unpause, None, 202, action="unpause"),
    Route("POST", PATH, rule("compute:servers:suspend", MEMBER), None, suspend, None, 202, action="suspend"),
    Route("POST", PATH, rule("compute:servers:resume", MEMBER), None, resume, None, 202, action="resume"),
    Route("POST", PATH, rule("compute:servers:lock", MEMBER), LOCK_FIELDS, lock, None, 202, action="lock"),
    Route("POST", PATH, rule("compute:servers:unlock", MEMBER), None, unlock, None, 202, action="unlock"),
]
