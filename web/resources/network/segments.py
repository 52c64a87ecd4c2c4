"""How a new network is made on the wire: its type, physical network, number, MTU and conntrack zone.

Numbers are chosen from rows, lowest free first; two requests that chose the same zone collide on its
unique key and one runs again. Source: Network API reference, "Provider extended attributes".
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import BadRequest, Conflict
from ...models import Host, Network

TYPES = ("local", "flat", "vlan", "vxlan")
NUMBERS = {"vlan": (1, 4094), "vxlan": (1, 16777215)}
ZONES = (1, 65535)
VXLAN_OVERHEAD = 50  # outer Ethernet, IPv4, UDP and VXLAN headers, in bytes
MTU_LEAST = 68  # RFC 791
PUBLIC = "public"  # the physical network of every host (settings.network.public_*)


def choose_zone(session: Session) -> int:
    """The lowest conntrack zone that no network has."""
    number = choose_number(set(session.scalars(select(Network.zone))), *ZONES)
    if number is None:
        raise Conflict("Unable to create the network. No conntrack zone is free.", kind="NoNetworkAvailable")
    return number


def choose_number(taken: set[int], least: int, most: int) -> int | None:
    """The lowest number in the range that is not taken; None where all are."""
    return next((number for number in range(least, most + 1) if number not in taken), None)


def list_physical_networks(session: Session) -> list[str]:
    """The physical networks that hosts know, by name."""
    names = {PUBLIC}
    for settings in session.scalars(select(Host.settings)):
        names.update((settings or {}).get("physical_networks") or {})
    return sorted(names)


def choose_segment(session: Session, settings, body: dict) -> tuple[str, str | None, int | None]:
    """(type, physical network, number) of a network from its provider attributes, or as a tenant's.

    BadRequest names an attribute that does not fit the type; Conflict where the segment is in use.
    """
    kind = body.get("provider:network_type")
    physical, number = body.get("provider:physical_network"), body.get("provider:segmentation_id")
    if kind is None:
        if physical is not None or number is not None:
            raise _wrong("provider:network_type is required with other provider attributes")
        kind = settings.network.tenant_type
        if kind == "vlan":
            known = list_physical_networks(session)
            physical = next((name for name in known if name != PUBLIC), PUBLIC)
    if kind in ("flat", "vlan"):
        known = list_physical_networks(session)
        if physical is None:
            raise _wrong(f"provider:physical_network is required for a {kind} network")
        if physical not in known:
            raise _wrong(f"unknown provider:physical_network {physical!r}; known: {', '.join(known)}")
    elif physical is not None:
        raise _wrong(f"provider:physical_network is not allowed for a {kind} network")
    if kind not in NUMBERS:
        if number is not None:
            raise _wrong(f"provider:segmentation_id is not allowed for a {kind} network")
        if kind == "flat" and _read_numbers(session, kind, physical):
            raise Conflict(
                f"Unable to create the flat network. Physical network {physical} is in use.", kind="FlatNetworkInUse"
            )
        return kind, physical, None
    least, most = NUMBERS[kind]
    taken = _read_numbers(session, kind, physical)
    if number is None:
        number = choose_number(taken, least, most)
        if number is None:
            raise Conflict("Unable to create the network. No segment is free.", kind="NoNetworkAvailable")
    elif not least <= number <= most:
        raise _wrong(f"provider:segmentation_id {number} of a {kind} network is not between {least} and {most}")
    elif number in taken:
        named = {"vlan": ("VlanIdInUse", f"The VLAN {number} on physical network {physical} is in use.")}
        problem, message = named.get(kind, ("TunnelIdInUse", f"The tunnel ID {number} is in use."))
        raise Conflict(f"Unable to create the network. {message}", kind=problem)
    return kind, physical, number


def _read_numbers(session: Session, kind: str, physical: str | None) -> set:
    return set(
        session.scalars(
            select(Network.segmentation_id).where(
                Network.network_type == kind, Network.physical_network.is_(None) if physical is None
                else Network.physical_network == physical,
            )
        )
    )  # fmt: skip


def _wrong(reason: str) -> BadRequest:
    return BadRequest(f"Invalid input for operation: {reason}.", kind="InvalidInput")


def choose_mtu(settings, kind: str, wanted: int | None) -> int:
    """The MTU in bytes: what the physical network leaves, or less where ``wanted``; BadRequest where it is too much."""
    most = settings.network.mtu - (VXLAN_OVERHEAD if kind == "vxlan" else 0)
    if not wanted:
        return most
    if not MTU_LEAST <= wanted <= most:
        raise BadRequest(
            f"Invalid input for mtu. Reason: Requested MTU is not between {MTU_LEAST} and {most}.", kind="InvalidInput"
        )
    return wanted
