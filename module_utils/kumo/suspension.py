"""A guest paused, woken, saved to disk and forgotten there: libvirt's suspend, resume and managed save.

A save is a task: libvirtd writes all of the guest's memory, and goes on where the task is killed. Its image is
libvirt's own file, restored by the next start and gone with it. Decides nothing (``power.py`` plans). Next room:
``guests.py``.
"""

from __future__ import annotations

import time

from . import guests, libvirt_connection, names, power, tasks
from .errors import KumoError
from .libvirt_connection import call, libvirt

SAVE_WAIT_S = 5.0
ERROR_BYTES = 500


def _find(server_id: str):
    domain = libvirt_connection.find_domain(server_id)
    if domain is None:
        raise KumoError(f"server {server_id} is not defined on this host any more")
    return domain


def apply_pause(document: dict, server: dict) -> None:
    """Stop the guest's CPUs; nothing is an error for standing still already."""
    domain = _find(server["id"])
    if libvirt_connection.read_state(domain) != ("paused", "user"):
        call(f"server {server['id']} cannot be paused", domain.suspend)


def apply_resume(document: dict, server: dict) -> None:
    """Let a guest that stands still go on; it has run then as often as was asked."""
    domain = _find(server["id"])
    if libvirt_connection.read_state(domain) == ("paused", "asleep"):
        call(f"server {server['id']} cannot be woken", domain.pMWakeup, 0)
    else:
        call(f"server {server['id']} cannot be woken", domain.resume)
    guests.store(document, server["id"], {"start_done": server["start"]["wanted"], "off_by": None})


def apply_suspend(document: dict, server: dict) -> None:
    """Save the guest's memory to disk and end it, a task; later runs look whether it is done."""
    # --running: it goes on when it is started again, also where it was paused before.
    command = ["virsh", "-q", "-c", libvirt_connection.URI, "managedsave", "--running"]
    command.append(names.build_domain_name(server["id"]))

    def save(progress):
        with tasks.running_child(command) as child:
            errors = child.communicate()[1][-ERROR_BYTES:].decode(errors="replace").strip()
        if child.returncode:
            raise KumoError(errors.removeprefix("error: ") or f"virsh managedsave ended with {child.returncode}")

    tasks.apply_forget(document, power.SAVE, server["id"])
    tasks.apply_start(document, power.SAVE, server["id"], save)
    record = tasks.wait(document, power.SAVE, server["id"], time.monotonic() + SAVE_WAIT_S)
    if record and record["state"] == "failed":
        apply_tell_save(document, server, record["error"])


def apply_tell_save(document: dict, server: dict, error: str) -> None:
    """A save has failed: that is told once, so that the next run tries anew."""
    tasks.apply_forget(document, power.SAVE, server["id"])
    raise KumoError(f"server {server['id']} cannot be suspended: {error}")


def apply_forget_save(document: dict, server: dict) -> None:
    """A save has failed that is wanted no more."""
    tasks.apply_forget(document, power.SAVE, server["id"])


def apply_discard(document: dict, server: dict) -> None:
    """Forget the memory that was saved: the guest boots when it next starts."""
    discard(_find(server["id"]))


def discard(domain) -> None:
    """Remove a domain's saved memory; nothing is an error for having none."""
    try:
        if domain.hasManagedSaveImage():
            domain.managedSaveRemove()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise KumoError(f"the saved memory of {domain.name()} cannot be removed: {error}") from None


def apply_off(server_id: str) -> None:
    """Cut the power of a guest, and forget memory that was saved."""
    domain = libvirt_connection.find_domain(server_id)
    if domain is not None:
        guests.destroy(domain)
        discard(domain)


def read_saved_xml(domain) -> str | None:
    """The definition that a saved guest goes on with; None where it cannot be read."""
    try:
        return domain.managedSaveGetXMLDesc()
    except libvirt.libvirtError:
        return None


VERBS = {
    "pause": apply_pause,
    "resume": apply_resume,
    "suspend": apply_suspend,
    "tell_save": apply_tell_save,
    "forget_save": apply_forget_save,
    "discard": apply_discard,
}
