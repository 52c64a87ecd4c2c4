"""Two hosts, each a machine of its own, on one underlay and one external network; documents of a cloud over both.

The machine `outside` is the switch of both networks and whoever calls from outside. `Cloud` holds what a control
plane would have in rows and builds each host's document from it by hand: the tests compare hosts, not `web/`.
"""

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from network_lab import (
    PUBLIC,
    PYTHON,
    ROOT,
    Machine,
    build_network,
    build_reservation,
    build_subnet,
    new_id,
    new_mac,
)

SECTIONS = ("networks", "routers", "neighbours", "dhcp", "firewall", "metadata")
DAEMON = ROOT / "roles/hypervisor/files/kumo_metadata.py"
TUNNELS = ("10.77.0.1", "10.77.0.2")
OUTSIDE = "172.31.255.1"
UNDERLAY_MTU = 1500


class Site:
    """``hosts``: the two machines. Their NICs: ``tun0`` with a tunnel address, ``pub0`` on the external network."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="kumo-test-hosts-"))
        self.folder.chmod(0o711)
        self.machines = []
        self.outside = self._add("outside", ())
        self.hosts = [self._add(name, SECTIONS) for name in ("one", "two")]
        for switch in ("under", "public"):
            self.outside.run("ip", "link", "add", switch, "type", "bridge", "forward_delay", "0")
            self.outside.run("ip", "link", "set", switch, "up")
        self.outside.run("ip", "addr", "add", f"{OUTSIDE}/24", "dev", "public")
        for number, host in enumerate(self.hosts):
            self._join(host, "tun0", "under", f"under{number}")
            self._join(host, "pub0", "public", f"public{number}")
            host.run("ip", "addr", "add", f"{TUNNELS[number]}/24", "dev", "tun0")
            command = f"setsid {PYTHON} {DAEMON} --state-dir {host.state_dir} </dev/null >/dev/null 2>&1 &"
            host.run("sh", "-c", command)

    def _add(self, name, sections) -> Machine:
        folder = self.folder / name
        folder.mkdir(mode=0o711)
        machine = Machine(folder, sections)
        self.machines.append(machine)
        return machine

    def _join(self, host, nic, switch, port):
        made = f"ip link add name {nic} netns {host.pid} mtu {UNDERLAY_MTU} type veth peer name {port} netns"
        subprocess.run([*made.split(), str(self.outside.pid)], check=True)
        self.outside.run("ip", "link", "set", port, "mtu", str(UNDERLAY_MTU), "master", switch, "up")
        host.run("ip", "link", "set", nic, "up")

    def end(self):
        for machine in self.machines:
            with contextlib.suppress(Exception):
                machine.end()
        shutil.rmtree(self.folder, ignore_errors=True)


class Tenant:
    """A router with two networks, 10.1.0.0/24 and 10.2.0.0/24 (fd01::/64, fd02::/64), as every tenant has them."""

    def __init__(self, cloud, number: int):
        self.cloud, self.number, self.router = cloud, number, new_id()
        home = {"kind": "router", "id": self.router}
        self.networks = [
            build_network(
                [build_subnet(f"10.{n}.0.0/24", f"10.{n}.0.1"), build_subnet(f"fd0{n}::/64", f"fd0{n}::1", dhcp=False)],
                home=home, mtu=UNDERLAY_MTU - 50, zone=10 * number + n,
            )
            for n in (1, 2)
        ]  # fmt: skip
        self.interfaces = [
            {"port": new_id(), "network": row["id"], "mac": new_mac(), "addresses": [f"10.{n}.0.1/24", f"fd0{n}::1/64"]}
            for n, row in enumerate(self.networks, 1)
        ]
        self.legs = [{"port": new_id(), "mac": new_mac(), "address": f"172.31.255.{10 * number + n}"} for n in (0, 1)]
        self.groups = [build_group(allow_all())]
        self.floating = []  # (host, row)


def allow_all() -> list[dict]:
    return [build_rule(direction, family) for direction in ("ingress", "egress") for family in ("IPv4", "IPv6")]


def build_rule(direction, family="IPv4", **fields) -> dict:
    empty = {"protocol": None, "port_min": None, "port_max": None, "remote_cidr": None, "remote_group": None}
    return {"id": new_id(), "direction": direction, "ethertype": family, **empty, **fields}


def build_group(rules) -> dict:
    return {"id": new_id(), "rules": rules, "members": {"IPv4": [], "IPv6": []}}


class Cloud:
    """Tenants and their guests' ports by host; ``converge`` brings both hosts to it."""

    def __init__(self, site: Site, tenants: int = 1, kind: str = "vxlan"):
        self.site, self.kind = site, kind
        self.public = build_network([build_subnet("172.31.255.0/24", OUTSIDE, dhcp=False)], mtu=1500)
        self.public |= {"home": None, "segmentation": {"type": "flat", "physical_network": "public"}}
        self.tenants = [Tenant(self, number) for number in range(1, tenants + 1)]
        self.ports = []  # {host, network, reservation, group}

    def add_port(self, host: int, tenant: int, network: int, last: int, group=None) -> dict:
        """A port 10.N.0.LAST of a tenant's network on a host; its row here."""
        owner = self.tenants[tenant]
        n = network + 1
        name = f"t{tenant}n{n}-{last}"
        reservation = build_reservation(f"10.{n}.0.{last}", f"fd0{n}::{last:x}", hostname=name)
        row = {"host": host, "network": owner.networks[network], "reservation": reservation, "name": name}
        row |= {"group": group or owner.groups[0], "server": new_id()}
        self.ports.append(row)
        return row

    def build_document(self, host: int) -> dict:
        here = [row for row in self.ports if row["host"] == host]
        networks, routers, groups = [self.public], [], []
        for tenant in self.tenants:
            networks += [self._build_network(host, tenant, row) for row in tenant.networks]
            leg = tenant.legs[host]
            external = {"port": leg["port"], "network": self.public["id"], "mac": leg["mac"], "snat": True}
            external |= {"addresses": [f"{leg['address']}/24"], "gateways": [OUTSIDE]}
            floating = [row for at, row in tenant.floating if at == host]
            routers.append(
                {"id": tenant.router, "enabled": True, "routes": [], "interfaces": tenant.interfaces,
                 "external": external, "floating_ips": floating}
            )  # fmt: skip
            groups += tenant.groups
        nic = {"bridge": PUBLIC, "addresses": [], "masquerade": False, "interface": "pub0"}
        return {
            "settings": {"physical_networks": {"public": nic}, "tunnel_address": TUNNELS[host]},
            "networks": networks,
            "routers": routers,
            "security_groups": groups,
            "ports": [self._build_port(row) for row in here],
            "servers": [self._build_server(row) for row in here],
        }

    def _build_network(self, host: int, tenant: Tenant, network: dict) -> dict:
        own = [row for row in self.ports if row["network"] is network]
        peer = TUNNELS[1 - host]
        segmentation = {"type": "vxlan", "id": network["zone"], "local": TUNNELS[host], "peers": [peer]}
        far = [row["reservation"] for row in own if row["host"] != host]
        elsewhere = [{"port": r["port"], "mac": r["mac"], "addresses": r["addresses"], "tunnel": peer} for r in far]
        reservations = [row["reservation"] for row in own if row["host"] == host]
        return network | {"segmentation": segmentation, "elsewhere": elsewhere, "reservations": reservations}

    def _build_port(self, row: dict) -> dict:
        reservation = row["reservation"]
        return {
            "id": reservation["port"], "network": row["network"]["id"], "server": row["server"],
            "mac": reservation["mac"], "addresses": reservation["addresses"], "admin_state_up": True,
            "port_security": True, "security_groups": [row["group"]["id"]], "allowed_address_pairs": [],
        }  # fmt: skip

    def _build_server(self, row: dict) -> dict:
        metadata = {
            "uuid": row["server"], "hostname": row["name"], "name": row["name"], "project_id": "p", "keys": [],
            "availability_zone": "nova", "launch_index": 0, "meta": {}, "user_data": None, "instance_type": "m1.tiny",
            "ec2_id": "i-00000001", "image_ec2_id": None, "security_groups": [], "public_ipv4": None,
        }  # fmt: skip
        return {
            "id": row["server"], "wanted": "present", "name": row["name"], "ports": [row["reservation"]["port"]],
            "metadata": metadata,
        }  # fmt: skip

    def converge(self) -> list[dict]:
        """Bring both hosts to it; each finds nothing to do a second time."""
        return [host.converge(self.build_document(number)) for number, host in enumerate(self.site.hosts)]

    def start(self, row: dict):
        """The port's guest: with its addresses, its routes and no DHCP."""
        guest = self.site.hosts[row["host"]].add_guest(row["name"], row["network"], row["reservation"])
        prefix = row["reservation"]["addresses"][0].rpartition(".")[0]
        guest.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
        four, six = row["reservation"]["addresses"]
        guest.run("ip", "link", "set", "eth0", "mtu", str(row["network"]["mtu"]))
        guest.run("ip", "addr", "add", f"{four}/24", "dev", "eth0")
        guest.run("ip", "addr", "add", f"{six}/64", "dev", "eth0", "nodad")
        guest.run("ip", "route", "add", "default", "via", f"{prefix}.1")
        guest.run("ip", "-6", "route", "add", "default", "via", f"{six.partition('::')[0]}::1")
        return guest
