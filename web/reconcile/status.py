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
    "rescued": "RESCUE",
    "resized": "VERIFY_RESIZE",
    "shelved": "SHELVED",
    "shelved_offloaded": "SHELVED_OFFLOADED",
    "error": "ERROR",
    "soft-delete": "SOFT_DELETED",
    "deleted": "DELETED",
}
STATUS_OF_TASK = {
    "rebooting": "REBOOT",
    "rebooting_hard": "HARD_REBOOT",
    "migrating": "MIGRATING",
    "resize_migrating": "RESIZE",
    "resize_reverting": "REVERT_RESIZE",
    "rebuilding": "REBUILD",
    "updating_password": "PASSWORD",
}
# A move under way (migration_status.compute_move) as the task users see.
TASK_OF_MOVE = {
    "live": "migrating",
    "resize": "resize_migrating",
    "revert": "resize_reverting",
    "evacuate": "rebuilding",
}
SEEN_AS = {"running": "active", "paused": "paused", "suspended": "suspended"}
STATE_OF_POWER = {"on": "active", "off": "stopped", "paused": "paused", "suspended": "suspended"}
CHANGE_PASSWORD = "changePassword"  # the action's name in the reference
MOVING = ("live", "resize", "revert")  # its guest is the move's, not its host's alone


SHELVED = ("shelved", "shelved_offloaded")  # vm_states
SHELVING_TASKS = {
    "copying": "shelving_image_pending_upload",
    "uploading": "shelving_image_uploading",
    "uploaded": "shelving_image_uploading",
}


def compute_image_task(row, shelving: bool = False) -> str:
    """An image that is made of a server (models/server_images.py) as the task users see; ``shelving``: to shelve it."""
    if shelving:
        return SHELVING_TASKS.get(row.observed_state, "shelving")
    if row.observed_state in ("uploading", "uploaded"):
        return "image_uploading"
    if row.backup_type is not None:
        return "image_backup"
    return "image_snapshot" if row.observed_state == "copying" else "image_snapshot_pending"


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
POWERING = ("rebooting", "rebooting_hard", "powering-on", "powering-off", "pausing", "unpausing")
STILL = (None, *POWERING)  # on its way nowhere
ALLOWED: dict[str, tuple] = {
    "start": (("stopped",), IDLE),
    "stop": (("active", "error"), IDLE),
    "reboot_soft": (("active",), IDLE),
    "reboot_hard": (
        ("active", "stopped", "paused", "suspended", "error"),
        (None, *POWERING, "suspending", "resuming"),
    ),
    "pause": (("active",), IDLE),
    "unpause": (("paused",), IDLE),
    "suspend": (("active",), IDLE),
    "resume": (("suspended",), IDLE),
    "rescue": (("active", "stopped", "error"), IDLE),
    "unrescue": (("rescued",), IDLE),
    "trigger_crash_dump": (("active", "paused", "rescued", "resized", "error"), IDLE),
    "reset_state": (ANY, ANY),
    "delete": (ANY, ANY),
    "restore": (("soft-delete",), IDLE),
    "lock": (ANY, ANY),
    "unlock": (ANY, ANY),
    "update": (ANY, ANY),
    "update_metadata": (("active", "paused", "suspended", "stopped"), ANY),
    "get_diagnostics": (("active", "rescued", "resized", "error"), ANY),  # and it runs: server_diagnostics.py
    "change_password": (("active",), IDLE),
    "get_console_output": (("active", "stopped", "paused", "suspended", "rescued", "error"), ANY),
    "get_console": (("active", "paused", "rescued", "resized", "error"), ANY),
    "add_security_group": (("active", "stopped", "paused", "suspended", "rescued"), ANY),
    "remove_security_group": (("active", "stopped", "paused", "suspended", "rescued"), ANY),
    # Not suspended: what is in the memory on disk cannot be changed. Not rescued: its disks are another order's.
    "attach_volume": (("active", "stopped", "paused", "resized", *SHELVED), STILL),
    "detach_volume": (("active", "stopped", "paused", "resized", *SHELVED), STILL),
    "attach_interface": (("active", "paused", "stopped"), IDLE),
    "detach_interface": (("active", "paused", "stopped"), IDLE),
    "add_floating_ip": (("active", "stopped", "paused", "suspended", "rescued"), ANY),
    "live_migrate": (("active", "paused"), IDLE),
    "migrate": (("active", "stopped"), IDLE),
    "resize": (("active", "stopped"), IDLE),
    "confirm_resize": (("resized",), IDLE),
    "revert_resize": (("resized", "error"), IDLE),
    "evacuate": (("active", "stopped", "error"), ANY),
    "rebuild": (("active", "stopped", "error"), IDLE),
    "create_image": (("active", "stopped", "paused", "suspended"), IDLE),
    "create_backup": (("active", "stopped", "paused", "suspended"), IDLE),
    "shelve": (("active", "stopped", "paused", "suspended"), IDLE),
    "shelve_offload": (("shelved",), IDLE),
    "unshelve": (SHELVED, IDLE),
}


VERBS = {
    "live_migrate": "os-migrateLive",
    "confirm_resize": "confirmResize",
    "revert_resize": "revertResize",
    "reset_state": "os-resetState",
    "create_image": "createImage",
    "create_backup": "createBackup",
    "shelve_offload": "shelveOffload",
    "change_password": CHANGE_PASSWORD,
}


def check_allowed(server, action: str) -> None:
    """Conflict, in the reference's words, where the server's state does not allow the action."""
    vm_states, task_states = ALLOWED[action]
    verb = VERBS.get(action, action.removesuffix("_soft").removesuffix("_hard"))
    if vm_states != ANY and server.vm_state not in vm_states:
        raise Conflict(f"Cannot '{verb}' instance {server.id} while it is in vm_state {server.vm_state}")
    below = compute_shelved(server) if server.vm_state == "error" else None
    if vm_states != ANY and below is not None:  # an admin's error over it makes no guest of what is shelved
        raise Conflict(f"Cannot '{verb}' instance {server.id} while it is in vm_state error, and {below[0]} below that")
    if server.task_state == "deleting" and action != "delete":
        raise Conflict(f"Cannot '{verb}' instance {server.id} while it is in task_state deleting")
    if task_states != ANY and server.task_state not in task_states:
        raise Conflict(f"Cannot '{verb}' instance {server.id} while it is in task_state {server.task_state}")


def compute_status(server) -> State:
    """The state of a server row (models/servers.py), from its wanted and observed columns only."""
    vm_state, task_state = _vm_and_task(server)
    if task_state is None and vm_state != "error":
        task_state = server.image_task
    if server.deleted_at is not None and server.gone_at is None:
        task_state = "deleting"
    if server.gone_at is not None:
        vm_state, task_state = "deleted", None
    status = STATUS_OF_TASK.get(task_state) or STATUS_OF_VM_STATE[vm_state]
    power_state = 0 if vm_state in ("building", "deleted") else POWER_STATES.get(server.observed_state, 0)
    if vm_state == "shelved_offloaded" and task_state is None:
        power_state = POWER_STATES["shutoff"]
    return State(status, vm_state, task_state, power_state)


def _vm_and_task(server) -> tuple[str, str | None]:
    if server.fault_message is not None:
        return "error", None
    if server.built_at is None:
        return "building", "scheduling" if server.host_id is None else "spawning"
    if server.soft_deleted_at is not None:
        seen = _see(server)
        return ("soft-delete", None) if seen == "stopped" else (seen, "soft-deleting")
    shelved = compute_shelved(server)
    if shelved is not None:
        return shelved
    if server.move in TASK_OF_MOVE:
        # A guest that moves is off, or nowhere to be seen, for a part of the way.
        return STATE_OF_POWER[server.power], TASK_OF_MOVE[server.move]
    if server.move == "verify" and has_converged(server):
        return "resized", None
    if server.move == "verify":
        return STATE_OF_POWER[server.power], "resize_migrating"
    if server.rebuild_wanted > server.observed_rebuild_done:
        return STATE_OF_POWER[server.power], "rebuilding"
    seen = _see(server)
    if server.rescue_image_id != server.observed_rescue:
        return ("rescued", "unrescuing") if server.rescue_image_id is None else (seen, "rescuing")
    if server.rescue_image_id is not None:
        return "rescued", None
    task = _find_task(server, seen)
    if task == "powering-on" and server.operation == "restore":
        return "soft-delete", "restoring"
    if task is None and seen == "active" and is_password_due(server):
        return "active", "updating_password"
    return "active" if task in ("rebooting", "rebooting_hard") else seen, task


def compute_shelved(server) -> tuple[str, str | None] | None:
    """(vm_state, task_state) of a server that is shelved, on its way there or on its way back; None of any other."""
    if server.shelved_at is None:
        return None if server.shelve is None else (STATE_OF_POWER[server.power], server.image_task or "shelving")
    vm_state = "shelved" if server.offloaded_at is None else "shelved_offloaded"
    if server.shelve is None:
        return vm_state, "unshelving"
    return vm_state, "shelving_offloading" if server.shelve == "offloaded" and server.host_id is not None else None


def is_password_due(server) -> bool:
    """Whether a new password is wanted in the guest, and its host has not said how that went."""
    return (server.password_wanted or 0) > (server.observed_password_done or 0)


def _see(server) -> str:
    """The vm_state of what was seen. While its memory is written to disk the guest stands still for a moment."""
    if server.observed_state == "paused" and server.observed_reason == "save":
        return "active"
    return SEEN_AS.get(server.observed_state, "stopped")


def _find_task(server, seen: str) -> str | None:
    """What is under way between what was seen and the power that is wanted."""
    if server.power == "off":
        return None if seen == "stopped" else "powering-off"
    if server.reboot_wanted > server.observed_reboot_done:
        return "rebooting" if server.reboot_type == "SOFT" else "rebooting_hard"
    if seen == "stopped":
        # Seen off: it is started, or the host lost it (a reboot, a killed QEMU) and the loop is bringing it back.
        return "powering-on"
    if server.power != "on":
        return None if seen == server.power else "pausing" if server.power == "paused" else "suspending"
    if seen == "suspended":
        return "resuming"
    asked = server.start_wanted > server.observed_start_done
    if seen == "paused":  # for another reason than a wish it goes on only when that is asked for
        return "unpausing" if asked or server.observed_reason == "user" else None
    return "powering-on" if asked else None


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
    if server.shelve is not None:
        return server.shelved_at is not None and (server.shelve == "shelved" or server.host_id is None)
    if server.rebuild_wanted > server.observed_rebuild_done:
        return False
    if server.rescue_image_id != server.observed_rescue:
        return False
    if server.power == "off":
        return server.observed_state in ("shutoff", "crashed")
    if is_password_due(server):
        return False
    return (
        _see(server) == SEEN_AS.get(server.observed_state) == STATE_OF_POWER[server.power]
        and server.reboot_wanted <= server.observed_reboot_done
        and server.start_wanted <= server.observed_start_done
    )
