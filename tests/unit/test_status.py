"""A server's status is a function of its wanted and observed columns: a table of them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from web.errors import Conflict
from web.models import now
from web.reconcile.status import ALLOWED, ANY, STATUS_OF_VM_STATE, check_allowed, compute_status, has_converged

AT = now()
NEW = {
    "id": "s1", "host_id": "h1", "deleted_at": None, "gone_at": None, "fault_message": None, "built_at": None,
    "power": "on", "observed_state": None, "reboot_wanted": 0, "reboot_type": "SOFT", "observed_reboot_done": 0,
    "start_wanted": 0, "observed_start_done": 0, "move": None, "observed_reason": "", "rescue_image_id": None,
    "observed_rescue": None,
    "image_task": None, "rebuild_wanted": 0, "observed_rebuild_done": 0, "shelve": None, "shelved_at": None,
    "offloaded_at": None, "soft_deleted_at": None, "operation": None, "password_wanted": 0,
    "observed_password_done": 0,
}  # fmt: skip
BUILT = {**NEW, "built_at": AT, "observed_state": "running"}
PAUSED = {**BUILT, "observed_state": "paused", "observed_reason": "user"}
IO_ERROR = {"observed_reason": "ioerror"}
SUSPENDED = {**BUILT, "observed_state": "suspended"}
OFF = {**BUILT, "observed_state": "shutoff"}
SHELVED = {"shelve": "shelved", "shelved_at": AT}
OFFLOADED = {
    **BUILT, "shelve": "offloaded", "shelved_at": AT, "offloaded_at": AT, "host_id": None, "observed_state": None,
}  # fmt: skip
RESCUED = {"rescue_image_id": "i", "observed_rescue": "i"}

TABLE = [
    ("not placed yet", {**NEW, "host_id": None}, ("BUILD", "building", "scheduling", 0)),
    ("placed", NEW, ("BUILD", "building", "spawning", 0)),
    ("runs, not yet seen whole", {**NEW, "observed_state": "running"}, ("BUILD", "building", "spawning", 0)),
    ("as asked", BUILT, ("ACTIVE", "active", None, 1)),
    ("build failed", {**NEW, "fault_message": "no room"}, ("ERROR", "error", None, 0)),
    ("stop asked", {**BUILT, "power": "off"}, ("ACTIVE", "active", "powering-off", 1)),
    ("stopped", {**BUILT, "power": "off", "observed_state": "shutoff"}, ("SHUTOFF", "stopped", None, 4)),
    (
        "start asked",
        {**BUILT, "observed_state": "shutoff", "start_wanted": 1},
        ("SHUTOFF", "stopped", "powering-on", 4),
    ),
    ("started, not confirmed", {**BUILT, "start_wanted": 1}, ("ACTIVE", "active", "powering-on", 1)),
    ("reboot asked", {**BUILT, "reboot_wanted": 1}, ("REBOOT", "active", "rebooting", 1)),
    (
        "hard reboot asked",
        {**BUILT, "reboot_wanted": 1, "reboot_type": "HARD"},
        ("HARD_REBOOT", "active", "rebooting_hard", 1),
    ),
    ("password asked", {**BUILT, "password_wanted": 1}, ("PASSWORD", "active", "updating_password", 1)),
    (
        "password set",
        {**BUILT, "password_wanted": 1, "observed_password_done": 1},
        ("ACTIVE", "active", None, 1),
    ),
    (
        "deletion that can be taken back asked",
        {**BUILT, "power": "off", "soft_deleted_at": AT},
        ("ACTIVE", "active", "soft-deleting", 1),
    ),
    ("and done", {**OFF, "power": "off", "soft_deleted_at": AT}, ("SOFT_DELETED", "soft-delete", None, 4)),
    (
        "and for good",
        {**OFF, "power": "off", "soft_deleted_at": AT, "deleted_at": AT},
        ("SOFT_DELETED", "soft-delete", "deleting", 4),
    ),
    (
        "taken back",
        {**OFF, "start_wanted": 1, "operation": "restore"},
        ("SOFT_DELETED", "soft-delete", "restoring", 4),
    ),
    ("rebooted", {**BUILT, "reboot_wanted": 1, "observed_reboot_done": 1}, ("ACTIVE", "active", None, 1)),
    ("lost by its host", {**BUILT, "observed_state": "crashed"}, ("SHUTOFF", "stopped", "powering-on", 6)),
    ("paused by its host", {**BUILT, "observed_state": "paused", **IO_ERROR}, ("PAUSED", "paused", None, 3)),
    ("pause asked", {**BUILT, "power": "paused"}, ("ACTIVE", "active", "pausing", 1)),
    ("paused", {**PAUSED, "power": "paused"}, ("PAUSED", "paused", None, 3)),
    ("unpause asked", {**PAUSED, "start_wanted": 1}, ("PAUSED", "paused", "unpausing", 3)),
    ("unpause of an I/O error", {**PAUSED, **IO_ERROR, "start_wanted": 1}, ("PAUSED", "paused", "unpausing", 3)),
    ("paused by hand", PAUSED, ("PAUSED", "paused", "unpausing", 3)),
    ("paused, and lost", {**OFF, "power": "paused"}, ("SHUTOFF", "stopped", "powering-on", 4)),
    ("paused and to be off", {**PAUSED, "power": "off"}, ("PAUSED", "paused", "powering-off", 3)),
    ("suspend asked", {**BUILT, "power": "suspended"}, ("ACTIVE", "active", "suspending", 1)),
    (
        "its memory is saved",
        {**PAUSED, "observed_reason": "save", "power": "suspended"},
        ("ACTIVE", "active", "suspending", 3),
    ),
    ("suspend of a paused one", {**PAUSED, "power": "suspended"}, ("PAUSED", "paused", "suspending", 3)),
    ("suspended", {**SUSPENDED, "power": "suspended"}, ("SUSPENDED", "suspended", None, 7)),
    ("resume asked", {**SUSPENDED, "start_wanted": 1}, ("SUSPENDED", "suspended", "resuming", 7)),
    (
        "hard reboot of a suspended one",
        {**SUSPENDED, "reboot_wanted": 1, "reboot_type": "HARD"},
        ("HARD_REBOOT", "active", "rebooting_hard", 7),
    ),
    ("suspended and to be off", {**SUSPENDED, "power": "off"}, ("SUSPENDED", "suspended", "powering-off", 7)),
    ("rescue asked", {**BUILT, "rescue_image_id": "i"}, ("ACTIVE", "active", "rescuing", 1)),
    ("rescue of a stopped one", {**OFF, "rescue_image_id": "i"}, ("SHUTOFF", "stopped", "rescuing", 4)),
    ("rescued", {**BUILT, **RESCUED}, ("RESCUE", "rescued", None, 1)),
    ("rescued, and shut down inside", {**OFF, **RESCUED, "power": "off"}, ("RESCUE", "rescued", None, 4)),
    ("rescued with another image", {**BUILT, **RESCUED, "rescue_image_id": "j"}, ("ACTIVE", "active", "rescuing", 1)),
    ("unrescue asked", {**BUILT, "observed_rescue": "i"}, ("RESCUE", "rescued", "unrescuing", 1)),
    ("rescue failed", {**OFF, "rescue_image_id": "i", "fault_message": "no"}, ("ERROR", "error", None, 4)),
    ("moves, paused", {**PAUSED, "power": "paused", "move": "live"}, ("MIGRATING", "paused", "migrating", 3)),
    ("delete asked", {**BUILT, "deleted_at": AT}, ("ACTIVE", "active", "deleting", 1)),
    ("delete asked while building", {**NEW, "deleted_at": AT}, ("BUILD", "building", "deleting", 0)),
    ("moves, running", {**BUILT, "move": "live"}, ("MIGRATING", "active", "migrating", 1)),
    (
        "moves, nowhere to be seen",
        {**BUILT, "move": "live", "observed_state": None},
        ("MIGRATING", "active", "migrating", 0),
    ),
    ("an image of it is made", {**BUILT, "image_task": "image_snapshot"}, ("ACTIVE", "active", "image_snapshot", 1)),
    (
        "an image of it is made, and its host lost it",
        {**BUILT, "image_task": "image_snapshot", "observed_state": "crashed"},
        ("SHUTOFF", "stopped", "powering-on", 6),
    ),
    (
        "no image of an error",
        {**BUILT, "image_task": "image_backup", "fault_message": "x"},
        ("ERROR", "error", None, 1),
    ),
    ("rebuild asked", {**BUILT, "rebuild_wanted": 1}, ("REBUILD", "active", "rebuilding", 1)),
    (
        "rebuild of a stopped one",
        {**BUILT, "rebuild_wanted": 1, "power": "off", "observed_state": "shutoff"},
        ("REBUILD", "stopped", "rebuilding", 4),
    ),
    ("rebuilt", {**BUILT, "rebuild_wanted": 1, "observed_rebuild_done": 1}, ("ACTIVE", "active", None, 1)),
    ("resize asked", {**BUILT, "move": "resize"}, ("RESIZE", "active", "resize_migrating", 1)),
    (
        "resize of a stopped one",
        {**BUILT, "move": "resize", "power": "off", "observed_state": "shutoff"},
        ("RESIZE", "stopped", "resize_migrating", 4),
    ),
    (
        "resized, not yet up",
        {**BUILT, "move": "verify", "observed_state": "shutoff"},
        ("RESIZE", "active", "resize_migrating", 4),
    ),
    ("resized", {**BUILT, "move": "verify"}, ("VERIFY_RESIZE", "resized", None, 1)),
    (
        "revert asked",
        {**BUILT, "move": "revert", "observed_state": "shutoff"},
        ("REVERT_RESIZE", "active", "resize_reverting", 4),
    ),
    ("delete asked while it moves", {**BUILT, "move": "live", "deleted_at": AT}, ("ACTIVE", "active", "deleting", 1)),
    ("shelve asked", {**BUILT, "shelve": "offloaded"}, ("ACTIVE", "active", "shelving", 1)),
    (
        "its image is sent",
        {**OFF, "shelve": "shelved", "image_task": "shelving_image_uploading"},
        ("ACTIVE", "active", "shelving_image_uploading", 4),
    ),
    (
        "shelve of a suspended one",
        {**SUSPENDED, "power": "suspended", "shelve": "shelved"},
        ("SUSPENDED", "suspended", "shelving", 7),
    ),
    ("shelved", {**OFF, **SHELVED}, ("SHELVED", "shelved", None, 4)),
    ("offload asked", {**OFF, **SHELVED, "shelve": "offloaded"}, ("SHELVED", "shelved", "shelving_offloading", 4)),
    ("offloaded", OFFLOADED, ("SHELVED_OFFLOADED", "shelved_offloaded", None, 4)),
    ("unshelve of a shelved one", {**OFF, **SHELVED, "shelve": None}, ("SHELVED", "shelved", "unshelving", 4)),
    (
        "unshelve of an offloaded one",
        {**OFFLOADED, "shelve": None, "host_id": "h2"},
        ("SHELVED_OFFLOADED", "shelved_offloaded", "unshelving", 0),
    ),
    (
        "unshelve that failed",
        {**OFFLOADED, "host_id": "h2"},
        ("SHELVED_OFFLOADED", "shelved_offloaded", "shelving_offloading", 0),
    ),
    ("an admin's error over it", {**OFFLOADED, "fault_message": "x"}, ("ERROR", "error", None, 0)),
    ("delete of an offloaded one", {**OFFLOADED, "deleted_at": AT, "gone_at": AT}, ("DELETED", "deleted", None, 0)),
    ("gone", {**BUILT, "deleted_at": AT, "gone_at": AT}, ("DELETED", "deleted", None, 0)),
]


@pytest.mark.parametrize(("columns", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_status_of_columns(columns, expected):
    state = compute_status(SimpleNamespace(**columns))
    assert (state.status, state.vm_state, state.task_state, state.power_state) == expected


# No task though it is not as wanted: off and not even there; paused by its host, for an error or to save it.
UNCONVERGED = [("off", None), ("on", "paused")]


def test_every_combination_has_a_state_and_converged_means_no_task():
    choices = {
        "deleted_at": (None, AT), "built_at": (None, AT), "power": ("on", "off", "paused", "suspended"),
        "observed_state": (None, "running", "shutoff", "paused", "suspended", "crashed"),
        "reboot_wanted": (0, 1), "start_wanted": (0, 1), "fault_message": (None, "x"), "reboot_type": ("SOFT", "HARD"),
        "move": (None, "live", "resize", "verify", "revert", "evacuate"),
        "observed_reason": ("", "user", "save"), "rescue_image_id": (None, "i"), "observed_rescue": (None, "i"),
    }  # fmt: skip
    for values in itertools.product(*choices.values()):
        server = SimpleNamespace(**{**NEW, **dict(zip(choices, values, strict=True))})
        state = compute_status(server)
        assert state.vm_state in STATUS_OF_VM_STATE
        if server.built_at and has_converged(server) and server.move in (None, "verify"):
            assert state.task_state is None
        elif state.task_state is None and state.vm_state not in ("error", "deleted", "rescued"):
            assert (server.power, server.observed_state) in UNCONVERGED or server.start_wanted, values


@pytest.mark.parametrize("action", sorted(ALLOWED))
@pytest.mark.parametrize("vm_state", sorted(STATUS_OF_VM_STATE))
@pytest.mark.parametrize(
    "task_state",
    [None, "rebooting", "powering-off", "powering-on", "pausing", "suspending", "resuming", "rescuing", "deleting"],
)
def test_allowed_is_what_the_table_says(action, vm_state, task_state):
    vm_states, task_states = ALLOWED[action]
    allowed = (vm_states == ANY or vm_state in vm_states) and (task_states == ANY or task_state in task_states)
    allowed = allowed and (task_state != "deleting" or action == "delete")
    server = SimpleNamespace(**{**NEW, "vm_state": vm_state, "task_state": task_state})
    if allowed:
        check_allowed(server, action)
    else:
        with pytest.raises(Conflict) as refused:
            check_allowed(server, action)
        assert "s1" in refused.value.message


def test_an_error_over_a_shelved_server_allows_what_any_state_does():
    """What is started, rebuilt or evacuated out of ERROR elsewise: there is no guest to do it to."""
    for action, (vm_states, _) in ALLOWED.items():
        server = SimpleNamespace(**{**OFFLOADED, "fault_message": "x", "vm_state": "error", "task_state": None})
        if vm_states == ANY:
            check_allowed(server, action)
        else:
            with pytest.raises(Conflict, match="s1"):
                check_allowed(server, action)
