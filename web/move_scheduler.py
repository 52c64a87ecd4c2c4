"""Which host a guest moves to: what its move asks of a destination beside room, and the choice.

What is asked is explained by pure functions, host by host; `choose_destination` reads the candidates in the caller's
transaction, so that the room it finds is the mover's. Next rooms: `scheduler.py`, `moves.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from .capacity import SIZES, build_offer, read_candidates, read_hosts, read_local_gb
from .errors import Conflict
from .models import Host, Network, Port, Server
from .models.hardware import build_hardware
from .moves import read_open_of_server
from .reconcile.migration_status import is_cleaned, is_same_host
from .scheduler import Company, Demand, NoValidHost, choose_host, explain
from .server_groups import read_company_of

BETWEEN_HOSTS = ("vxlan", "vlan", "flat")


@dataclass(frozen=True)
class Wish:
    """What is wanted of a destination. ``host`` is a name; ``force`` passes zones and disabled hosts.

    ``same_host``: the guest may stay where it is (a resize), and does where there is room. ``live``: its CPU must be
    there. ``over_network``: both hosts speak to each other (not so where the source is dead).
    """

    host: str | None = None
    force: bool = False
    live: bool = False
    same_host: bool = False
    over_network: bool = True


def explain_cpu(source: dict, dest: dict) -> str | None:
    """Why a running guest of a host with the facts ``source`` cannot go on running on the other; None where it can.

    Guests under KVM have the host's model (libvirt's host-model), so the destination's must be that one with no
    feature less; those under TCG have what QEMU can emulate, so its version counts.
    """
    ours, theirs = source.get("cpu_info") or {}, dest.get("cpu_info") or {}
    if ours.get("arch") != theirs.get("arch"):
        return f"its CPUs are {theirs.get('arch') or 'unknown'}, the guest's is {ours.get('arch') or 'unknown'}"
    if source.get("virt_type") != dest.get("virt_type"):
        return f"it runs guests under {dest.get('virt_type')}, this one runs under {source.get('virt_type')}"
    if (dest.get("hypervisor_version") or 0) < (source.get("hypervisor_version") or 0):
        return f"its QEMU {dest.get('hypervisor_version')} is older than the guest's {source.get('hypervisor_version')}"
    if source.get("virt_type") != "kvm":
        return None
    for name in ("vendor", "model"):
        if ours.get(name) != theirs.get(name):
            return f"its CPU {name} is {theirs.get(name) or 'unknown'}, the guest's is {ours.get(name) or 'unknown'}"
    lacking = sorted(set(ours.get("features") or ()) - set(theirs.get("features") or ()))
    return f"its CPU lacks {', '.join(lacking[:8])}" if lacking else None


def explain_networks(networks: list, settings: dict, has_tunnel: bool) -> str | None:
    """Why the guest's networks are not on a host with these settings of its document; None where they are."""
    for network in networks:
        if network.network_type not in BETWEEN_HOSTS:
            return f"network {network.name or network.id} is of type {network.network_type}: it is on one host only"
        if network.network_type == "vxlan" and not has_tunnel:
            return f"network {network.name or network.id} needs a tunnel, and it has no tunnel_address in its settings"
        named = network.physical_network
        if network.network_type in ("vlan", "flat") and named not in (settings.get("physical_networks") or {}):
            return f"it has no physical network {named}"
    return None


def read_networks(session: Session, server: Server) -> list[Network]:
    """The networks of the server's ports."""
    ports = select(Port.network_id).where(Port.device_id == server.id)
    return list(session.scalars(select(Network).where(Network.id.in_(ports)).order_by(Network.id)))


def read_physical_networks(host: Host) -> dict:
    """The settings that say which physical networks a host has; `public` unless its own say otherwise."""
    return {"physical_networks": {"public": {}}, **(host.settings or {})}


def explain_made_of(server, live: bool) -> str | None:
    """Why the server cannot be copied to another host, and would lose something there; None where it can.

    A config drive is written anew before a start: it is in the way of running guests only, which have it in use.
    Ephemeral disks and swap go with it as its root disk does; an ISO is in every host's cache.
    """
    hardware = build_hardware(server.image_properties or {}, server.flavor.get("extra_specs") or {})
    has = {
        "a config drive": server.config_drive and live,
        "UEFI variables": hardware.get("firmware") == "uefi",
    }
    kept = [name for name, there in has.items() if there]
    return f"the server has {' and '.join(kept)}, which is not copied between hosts" if kept else None


def _explain(
    wish: Wish, server: Server, source: Host, dest: Host, networks: list[Network], busy: set[str]
) -> str | None:
    if dest.id in busy:
        return "an earlier move of this server has not ended there yet"
    if dest.id == source.id:
        return None if wish.same_host else "the server is there already"
    # An evacuated guest is made anew, all of it.
    kept = explain_made_of(server, wish.live) if wish.over_network else None
    if kept:
        return kept
    tunnels = {host.id: bool((host.settings or {}).get("tunnel_address")) for host in (source, dest)}
    if wish.over_network and not tunnels[dest.id]:
        return "it has no tunnel_address in its settings: guests move between those"
    if wish.over_network and not tunnels[source.id]:
        return f"the server's host {source.name} has no tunnel_address in its settings: guests move between those"
    reason = explain_networks(networks, read_physical_networks(dest), tunnels[dest.id])
    if reason is None and wish.live:
        facts = [(host.observed or {}).get("host") or {} for host in (source, dest)]
        reason = explain_cpu(*facts)
    return reason


def build_demand(
    server: Server, flavor: dict, wish: Wish, avoid: dict[str, str], company: Company | None = None
) -> Demand:
    """The scheduler's demand for a server of that flavor on its way elsewhere."""
    return Demand(
        vcpus=flavor["vcpus"],
        memory_mb=flavor["ram_mb"],
        disk_gb=flavor["disk_gb"] + read_local_gb(server),
        zone=None if wish.force else server.availability_zone,
        host=wish.host,
        avoid=avoid,
        enabled_only=not wish.force,
        company=company,
    )


def choose_destination(session: Session, settings, server: Server, wish: Wish, flavor: dict | None = None) -> str:
    """The id of the host that the server is to move to; NoValidHost with the reason of each host where there is none.

    Holds all hosts' rows until the transaction ends: what was found free is claimed by the move's own row.
    """
    flavor = flavor or server.flavor
    if wish.over_network:
        _check_no_port_leaves(session, server)
    hosts = read_hosts(session)
    source = next(host for host in hosts if host.id == server.host_id)
    networks = read_networks(session, server)
    open_moves = read_open_of_server(session, server.id)
    # What an earlier move left there goes first, and this one waits for that; an evacuation makes its guest at once.
    busy = {
        host_id
        for one in open_moves
        for host_id in (one.source_host_id, one.dest_host_id)
        if not (wish.over_network and is_cleaned(one, host_id))
    }
    if not any(is_same_host(one) for one in open_moves):
        busy.discard(server.host_id)  # it has the guest, and what an earlier move left is elsewhere
    reasons = {host.id: _explain(wish, server, source, host, networks, busy) for host in hosts}
    # What is on a host that is off holds nobody: a group that is to be together is evacuated one by one.
    company = read_company_of(session, server, off=() if wish.over_network else (source.id,))
    avoid = {key: reason for key, reason in reasons.items() if reason is not None}
    demand = build_demand(server, flavor, wish, avoid, company)
    candidates = read_candidates(session, settings, hosts)
    offer = build_offer(settings)
    if wish.same_host and wish.host is None:
        own = next(one for one in candidates if one.id == server.host_id)
        # Only one of the two guests runs at a time; the old disk is kept beside the new one.
        own = replace(
            own,
            used_vcpus=own.used_vcpus - server.flavor[SIZES["vcpus"]],
            used_memory_mb=own.used_memory_mb - server.flavor[SIZES["memory_mb"]],
        )
        if explain(own, replace(demand, company=None), offer) is None:  # it is there already: no policy is broken
            return own.id
        candidates = [own if one.id == own.id else one for one in candidates]
    return choose_host(candidates, demand, offer)


def _check_no_port_leaves(session: Session, server: Server) -> None:
    """Conflict while a port is on its way out of the guest: one host would have the NIC, the other not."""
    leaving = select(Port.id).where(Port.device_id == server.id, Port.detached_at.is_not(None)).limit(1)
    port = session.scalar(leaving)
    if port is not None:
        raise Conflict(f"Instance {server.id} is letting go of port {port}: ask again when that is over.")


def describe(refusal: NoValidHost, wish: Wish, hosts: bool = True) -> str:
    """The refusal in one line; of a host that was asked for by name, its own reason alone; none without ``hosts``."""
    if not hosts:
        return str(refusal)
    reasons = refusal.reasons
    if wish.host in reasons:
        return f"No valid host was found. {wish.host}: {reasons[wish.host]}"
    listed = "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items()))
    return f"No valid host was found. {listed or 'There is no hypervisor at all.'}"
