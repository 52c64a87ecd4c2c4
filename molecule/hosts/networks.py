"""The lab's network namespace, its bridges, and the network namespaces that are containers' whole network.

Owns: everything under the names `kumo-lab-<lab>` and `kumo-lab-<lab>.<host>` in /run/netns. May not: put anything into
this machine's own network namespace. Next room: containers.py, machines.py, which put hosts to the bridges.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

from .commands import end_processes, find_in_namespace, run
from .inventory import Host, Lab


def list_namespaces() -> set[str]:
    """Names of the machine's network namespaces."""
    folder = Path("/run/netns")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def create_namespace(name: str) -> None:
    """Make a network namespace with its loopback interface up, unless it is there."""
    if name not in list_namespaces():
        run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])


def destroy_namespace(name: str) -> None:
    """End what runs in a network namespace and remove it."""
    if name in list_namespaces():
        end_processes(find_in_namespace(name))
        run(["ip", "netns", "delete", name])


def read_links(namespace: str) -> set[str]:
    """Names of a namespace's interfaces."""
    lines = run(["ip", "-n", namespace, "-o", "link", "show"]).splitlines()
    return {line.split(": ")[1].split("@")[0] for line in lines}


def create_bridges(lab: Lab) -> None:
    """Make the lab's namespace and the bridges of its networks."""
    create_namespace(lab.namespace)
    present = read_links(lab.namespace)
    batch = []
    for network in lab.networks.values():
        if network.bridge in present:
            continue
        batch += [
            f"link add {network.bridge} mtu {network.mtu} type bridge stp_state 0 forward_delay 0",
            f"link set {network.bridge} up",
        ]
        if network.address:
            batch.append(f"address add {network.address} dev {network.bridge}")
    apply_batch(lab.namespace, batch)


def is_inside(namespace: str) -> bool:
    """Whether this very process is in a named network namespace."""
    path = Path("/run/netns", namespace)
    return path.exists() and path.stat().st_ino == Path("/proc/self/ns/net").stat().st_ino


def destroy_bridges(lab: Lab) -> None:
    """End what runs in the lab's namespace, remove the bridges and the namespace, but for one that the caller is in."""
    if lab.namespace in list_namespaces():
        end_processes(find_in_namespace(lab.namespace))
        bridges = {network.bridge for network in lab.networks.values()} & read_links(lab.namespace)
        apply_batch(lab.namespace, [f"link delete {bridge}" for bridge in sorted(bridges)])
        if not is_inside(lab.namespace):
            destroy_namespace(lab.namespace)


def apply_batch(namespace: str, lines: list[str]) -> None:
    """Lines of `ip -batch` in a namespace."""
    if lines:
        run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines) + "\n")


def choose_gateway(lab: Lab, host: Host) -> str | None:
    """The lab's address on the first network of a host that has one."""
    for nic in host.nics:
        if nic.address and nic.network.address:
            return str(ipaddress.ip_interface(nic.network.address).ip)
    return None


def create_host_network(lab: Lab, host: Host) -> None:
    """A container's network namespace, its interfaces eth0, eth1 … plugged into the lab's bridges."""
    inside = lab.host_namespace(host)
    destroy_namespace(inside)
    create_namespace(inside)
    outer, inner = [], []
    for index, nic in enumerate(host.nics):
        outside, name = lab.lab_interface(host, index), f"eth{index}"
        outer += [
            f"link add {outside} mtu {nic.network.mtu} type veth peer name {name} mtu {nic.network.mtu} netns {inside}",
            f"link set {outside} master {nic.network.bridge} up",
        ]
        inner.append(f"link set {name} up")
        if nic.address:
            inner.append(f"address add {nic.address} dev {name}")
    if gateway := choose_gateway(lab, host):
        inner.append(f"route add default via {gateway}")
    apply_batch(lab.namespace, outer)
    apply_batch(inside, inner)
