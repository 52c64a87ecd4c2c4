"""The connection to this host's libvirtd: opened once in a call, kept alive, its errors made sentences.

Knows Kumo's domains by their name prefix and hands out no other. Where python3-libvirt is not installed
this file still imports (the plan_ functions need no libvirt). Next room: ``guests.py``.
"""

from __future__ import annotations

import threading
import time

from . import names
from .deadlines import run_with_deadline
from .errors import KumoError

try:
    import libvirt
except ImportError:  # a control plane, or a developer's machine
    libvirt = None

URI = "qemu:///system"
OPEN_DEADLINE_S = 15
# virDomainState and virDomainShutoffReason, https://libvirt.org/html/libvirt-libvirt-domain.html
SHUTOFF, PAUSED, ASLEEP = 5, 3, 7
STATES = {
    0: "unknown",
    1: "running",
    2: "running",
    3: "paused",
    4: "running",
    5: "shutoff",
    6: "crashed",
}
SHUTOFF_REASONS = (
    "unknown",
    "shutdown",
    "destroyed",
    "crashed",
    "migrated",
    "saved",
    "failed",
    "from_snapshot",
    "daemon",
)
PAUSED_REASONS = {1: "user", 2: "migration", 3: "save", 4: "dump", 5: "ioerror", 6: "watchdog", 8: "shutting_down"}

_held: dict = {}
_lock = threading.Lock()


def connect():
    """The live connection (thread-safe); KumoError where libvirtd does not answer."""
    with _lock:
        connection = _held.get("connection")
        if connection is None or not connection.isAlive():
            _held["connection"] = connection = run_with_deadline(
                OPEN_DEADLINE_S, f"libvirtd did not answer within {OPEN_DEADLINE_S} s; see its log on this host", _open
            )
        return connection


def _open():
    if libvirt is None:
        raise KumoError("python3-libvirt is not installed on this host; the role hypervisor installs it")
    if "loop" not in _held:
        libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; libvirt would print them too
        libvirt.virEventRegisterDefaultImpl()
        _held["loop"] = threading.Thread(target=_run_events, daemon=True)
        _held["loop"].start()
    try:
        connection = libvirt.open(URI)
        connection.setKeepAlive(5, 3)  # a libvirtd that is silent for 15 s ends every call that waits for it
    except libvirt.libvirtError as error:
        raise KumoError(f"libvirtd cannot be reached on this host: {error}; is it running?") from None
    return connection


def _run_events():
    while True:
        libvirt.virEventRunDefaultImpl()


def call(sentence: str, work, *arguments):
    """``work(*arguments)``; a libvirt error becomes KumoError(``sentence``: libvirt's words)."""
    try:
        return work(*arguments)
    except libvirt.libvirtError as error:
        raise KumoError(f"{sentence}: {error}") from None


def read_domains(connection) -> dict:
    """{server id: domain} of every domain that carries Kumo's prefix."""
    listed = call("the guests of this host cannot be listed", connection.listAllDomains)
    domains = {domain.name(): domain for domain in listed}
    return {name[len(names.PREFIX) :]: domain for name, domain in domains.items() if name.startswith(names.PREFIX)}


def find_domain(server_id: str):
    """A server's domain; None where it is not defined."""
    try:
        return connect().lookupByName(names.build_domain_name(server_id))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise KumoError(f"guest {server_id} cannot be looked up: {error}") from None


def read_state(domain) -> tuple[str, str] | None:
    """(state, reason) of a domain; None where it vanished meanwhile.

    ``suspended`` is off with its memory on disk (libvirt's managed save); a guest that put itself to sleep is paused.
    """
    try:
        state, reason = domain.state()
        saved = state == SHUTOFF and bool(domain.hasManagedSaveImage())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise KumoError(f"the state of {domain.name()} cannot be read: {error}") from None
    if state == SHUTOFF:
        reason = SHUTOFF_REASONS[reason] if reason < len(SHUTOFF_REASONS) else "unknown"
        return "suspended" if saved else "shutoff", reason
    if state == PAUSED:
        return "paused", PAUSED_REASONS.get(reason, "unknown")
    if state == ASLEEP:
        return "paused", "asleep"
    return STATES.get(state, "unknown"), ""


def read_xml(domain, inactive: bool) -> str | None:
    """A domain's XML; None where it vanished meanwhile."""
    try:
        return domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise KumoError(f"{domain.name()} cannot be read: {error}") from None


def is_persistent(domain) -> bool | None:
    """Whether the domain stays defined when it is off; None where it vanished meanwhile."""
    try:
        return bool(domain.isPersistent())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise KumoError(f"{domain.name()} cannot be read: {error}") from None


def wait_until_off(domain, seconds: float) -> bool:
    """Whether the domain is off (or gone) within ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        seen = read_state(domain)
        if seen is None or seen[0] == "shutoff":
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(0.05)
