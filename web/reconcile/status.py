"""A server's status, as a function of what is wanted and what was seen; what each state allows.

Pure: no session, no clock. `refresh_status` stores the result beside what it depends on, in the same
transaction, so that SQL can filter by it. Source of the states: Compute API guide, "Server concepts".
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Conflict

POWER_STATES = {None: 0, "running": 1, "paused": 3, "shutoff": 4, "crashed": 6, "suspended": 7}
STATUS_OF_VM_STATE = {
    "building": "BUILD",
    "active": "ACTIVE",
    "stopped": "SHUTOFF",
    "paused": "PAUSED",
    "suspended": "SUSPENDED",
    "resized": "VERIFY_RESIZE",
    "error": "ERROR",
    "deleted": "DELETED",
}
STATUS_OF_TASK = {
    "rebooting": "REBOOT",
    "rebooting_hard": "HARD_REBOOT",
    "migrating": "MIGRATING",
    "resize_migrating": "RESIZE",
    "resize_reverting": "REVERT_RESIZE",
    "rebuilding": "REBUILD",
}
# A move under way (migration_status.compute_move) as the task users see.
TASK_OF_MOVE = {
    "live": "migrating",
    "resize": "resize_migrating",
    "revert": "resize_reverting",
    "evacuate": "rebuilding",
}
MOVING = ("live", "resize", "revert")  # its guest is the move's, not its host's alone


@dataclass(frozen=True)
class State:
    """``status`` is what users see; the other three are the API's extended status."""

    status: str
    vm_state: str
    task_state: str | None
    power_state: int


# action: (vm_states, task_states) it may be asked in; "*" is any.
ANY = "*"
IDLE = (None,)
STILL = (None, "rebooting", "rebooting_hard", "powering-on", "powering-off")  # on its way nowhere
ALLOWED: dict[str, tuple] = {
    "start": (("stopped",), IDLE),
    "stop": (("active", "error"), IDLE),
    "reboot_soft": (("active",), IDLE),
    "reboot_hard": (
        ("active", "stopped", "paused", "suspended", "error"),
        (None, "rebooting", "rebooting_hard", "powering-on", "powering-off"),
    ),
    "delete": (ANY, ANY),
    "lock": (ANY, ANY),
    "unlock": (ANY, ANY),
    "update": (ANY, ANY),
    "update_metadata": (("active", "paused", "suspended", "stopped"), ANY),
    "get_console_output": (("active", "stopped", "paused", "suspended", "error"), ANY),
    "add_security_group": (("active", "stopped", "paused", "suspended"), ANY),
    "remove_security_group": (("active", "stopped", "paused", "suspended"), ANY),
    "attach_volume": (("active", "stopped", "paused", "suspended", "resized"), STILL),
    "detach_volume": (("active", "stopped", "paused", "suspended", "resized"), STILL),
    "attach_interface": (("active", "paused", "stopped"), IDLE),
    "detach_interface": (("active", "paused", "stopped"), IDLE),
    "add_floating_ip": (("active", "stopped", "paused", "suspended"), ANY),
    "live_migrate": (("active", "paused"), IDLE),
    "migrate": (("active", "stopped"), IDLE),
    "resize": (("active", "stopped"), IDLE),
    "confirm_resize": (("resized",), IDLE),
    "revert_resize": (("resized", "error"), IDLE),
    "evacuate": (("active", "stopped", "error"), ANY),
}


VERBS = {"live_migrate": "os-migrateLive", "confirm_resize": "confirmResize", "revert_resize": "revertResize"}


def check_allowed(server, action: str) -> None:
    """Conflict, in the reference's words, where the server's state does not allow the action."""
    vm_states, task_states = ALLOWED[action]
    verb = VERBS.get(action, action.removesuffix("_soft").removesuffix("_hard"))
    if vm_states != ANY and server.vm_state not in vm_states:
        raise Conflict(f"Cannot '{verb}' instance {server.id} while it is in vm_state {server.vm_state}")
    if server.task_state == "deleting" and action != "delete":
        raise Conflict(f"Cannot '{verb}' instance {server.id} while it is in task_state deleting")
    if task_states != ANY and server.task_state not in task_states:
        raise Conflict(f"Cannot '{verb}' instance {server.id} while it is in task_state {server.task_state}")


def compute_status(server) -> State:
    """The state of a server row (models/servers.py), from its wanted and observed columns only."""
    vm_state, task_state = _vm_and_task(server)
    if server.deleted_at is not None and server.gone_at is None:
        task_state = "deleting"
    if server.gone_at is not None:
        vm_state, task_state = "deleted", None
    status = STATUS_OF_TASK.get(task_state) or STATUS_OF_VM_STATE[vm_state]
    power_state = 0 if vm_state in ("building", "deleted") else POWER_STATES.get(server.observed_state, 0)
    return State(status, vm_state, task_state, power_state)


def _vm_and_task(server) -> tuple[str, str | None]:
    if server.fault_message is not None:
        return "error", None
    if server.built_at is None:
        return "building", "scheduling" if server.host_id is None else "spawning"
    running = server.observed_state == "running"
    if server.move in TASK_OF_MOVE:
        # A guest that moves is off, or nowhere to be seen, for a part of the way.
        return "stopped" if server.power == "off" else "active", TASK_OF_MOVE[server.move]
    if server.move == "verify" and has_converged(server):
        return "resized", None
    if server.move == "verify":
        return "stopped" if server.power == "off" else "active", "resize_migrating"
    if server.power == "off":
        return ("active", "powering-off") if running else ("stopped", None)
    if server.reboot_wanted > server.observed_reboot_done:
        return "active", "rebooting" if server.reboot_type == "SOFT" else "rebooting_hard"
    if server.start_wanted > server.observed_start_done:
        return "active" if running else "stopped", "powering-on"
    if server.observed_state == "paused":
        return "paused", None
    if server.observed_state == "suspended":
        return "suspended", None
    # Wanted on, seen off: the host lost it (a reboot, a killed QEMU) and the loop is bringing it back.
    return ("active", None) if running else ("stopped", "powering-on")


def refresh_status(server) -> State:
    """Compute the server's state and store it in its four columns."""
    state = compute_status(server)
    server.status, server.vm_state = state.status, state.vm_state
    server.task_state, server.power_state = state.task_state, state.power_state
    return state


def has_converged(server) -> bool:
    """Whether the host was seen to have done all that is wanted of the server."""
    if server.deleted_at is not None:
        return server.gone_at is not None
    if server.power == "off":
        return server.observed_state in ("shutoff", "crashed")
    return (
        server.observed_state == "running"
        and server.reboot_wanted <= server.observed_reboot_done
        and server.start_wanted <= server.observed_start_done
    )
