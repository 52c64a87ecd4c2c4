"""A new password of a user in the guest, set by the guest's own agent (libvirt's virDomainSetUserPassword).

The order is a number in the document, with the user and the password; the answer, {seq, error}, is kept in
``state.json`` and reported from there. An agent that is not there is no failure of the server: the guest is as it was,
and the answer says why. While a guest may still be booting there is no answer yet, and a later run asks again. The
password is in no argument, file or message. Next rooms: ``servers.py``, ``guests.py``.
"""

from __future__ import annotations

from . import diagnostics, domain_xml, guests, libvirt_connection
from .deadlines import run_with_deadline
from .errors import KumoError
from .libvirt_connection import libvirt

DEADLINE_S = 12.0
ANSWER_S = 8  # of one command, after the five seconds that libvirt gives the agent to wake up
BOOT_S = 120  # since the guest's QEMU began: its agent may still come


class NotYetError(KumoError):
    """The agent may still come: no answer."""


def read_agent(row: dict, name: str, live) -> dict | None:
    """{connected, uptime_s} of a guest that runs, of which a new password is wanted; None of any other.

    ``live`` is the root of its domain's XML, in which libvirt says whether somebody in the guest has opened the
    agent's channel. ``uptime_s`` is the age of its QEMU; None where nobody knows that process.
    """
    if not row.get("password"):
        return None
    channel = live.find(f"devices/channel/target[@name='{domain_xml.AGENT}'][@state='connected']")
    return {"connected": channel is not None, "uptime_s": diagnostics.read_uptime(name)}


def is_booting(agent: dict | None) -> bool:
    """Whether the agent may still come: the guest was started only lately."""
    return agent is not None and agent["uptime_s"] is not None and agent["uptime_s"] < BOOT_S


def plan_password(server: dict, seen: dict, kept: dict) -> list[tuple]:
    """The verb that answers the order, once; none as long as the agent may still come. Pure."""
    order = server["password"]
    if not order or (kept.get("password") or {}).get("seq", 0) >= order["wanted"]:
        return []
    agent = seen["agent"] if seen["state"] == "running" and server["hardware"]["guest_agent"] else None
    if is_booting(agent) and not agent["connected"]:
        return []
    before, after = "", f"another password of {order['user']} in the guest\n"
    if seen["state"] != "running":
        after = "no other password: the guest does not run\n"
    return [("set_password", {}, before, after)]


def report_password(row: dict, kept: dict) -> dict | None:
    """{seq, error} of the order that a server's row has; None where there is none, or no answer yet."""
    order, answer = row.get("password") or {}, kept.get("password")
    if order.get("wanted") is None or not answer or answer["seq"] < order["wanted"]:
        return None
    return {"seq": answer["seq"], "error": answer["error"]}


def is_pending(row: dict, kept: dict) -> bool:
    """Whether a later run has to answer."""
    return bool(row.get("password")) and report_password(row, kept) is None


def apply_password(document: dict, server: dict) -> None:
    """Set it, and keep how that went; nothing is kept where the agent may still come."""
    order, error = server["password"], None
    try:
        _set(server, order)
    except NotYetError:
        return
    except KumoError as problem:
        error = str(problem).replace(order["password"], "***") if order["password"] else str(problem)
    guests.store(document, server["id"], {"password": {"seq": order["wanted"], "error": error}})


def _set(server: dict, order: dict) -> None:
    if not server["hardware"]["guest_agent"]:
        raise KumoError("QEMU guest agent is not enabled: the image has no hw_qemu_guest_agent=yes")
    domain = libvirt_connection.find_domain(server["id"])
    seen = libvirt_connection.read_state(domain) if domain is not None else None
    if not seen or seen[0] != "running":
        raise KumoError("the guest does not run")
    try:
        run_with_deadline(
            DEADLINE_S, f"the guest's agent did not answer within {DEADLINE_S:.0f} s", lambda: _ask(domain, order)
        )
    except libvirt.libvirtError as problem:
        if problem.get_error_code() == libvirt.VIR_ERR_AGENT_UNRESPONSIVE:
            if is_booting({"uptime_s": diagnostics.read_uptime(domain.name())}):
                raise NotYetError("the guest's agent does not answer yet") from None
            raise KumoError(
                f"the guest's agent does not answer: is qemu-guest-agent running in it? ({problem})"
            ) from None
        raise KumoError(f"the guest's agent refused: {problem}") from None


def _ask(domain, order: dict) -> None:
    domain.agentSetResponseTimeout(ANSWER_S, 0)
    domain.setUserPassword(order["user"], order["password"], 0)


VERBS = {"set_password": apply_password}
