"""A machine of its own for the network's tests, its guests, and rows of documents.

A machine is fresh network, mount and process namespaces, which stand for a host: nothing touches this machine's
own bridges or rules, and killing the first process inside removes all that was started. Guests are namespaces on
a bridge's port, with busybox's DHCP client. The sections run under the host's Python.
"""

import json
import signal
import subprocess
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
PUBLIC = "ktestpub"
RUN_S = 60
SCRIPT = f"""
import json, sys
sys.path.insert(0, {str(ROOT / "module_utils")!r})
import kumo.core
document = json.load(sys.stdin)
print(json.dumps(kumo.core.run_sections(document, {{sections}}, {{check}})))
"""
LEASE_SCRIPT = """#!/bin/busybox sh
[ "$1" = bound ] || exit 0
busybox ip addr add $ip/$mask dev $interface
if [ -n "$staticroutes" ]; then
  set -- $staticroutes
  while [ -n "$2" ]; do
    [ "$2" = 0.0.0.0 ] && busybox ip route add $1 dev $interface || busybox ip route add $1 via $2
    shift 2
  done
else
  [ -z "$router" ] || busybox ip route add default via $router
fi
env > {place}
"""


class Machine:
    """A host of its own: run commands on it, bring it to a document, hang guests on its bridges."""

    def __init__(self, folder: Path, sections=("networks", "routers", "dhcp")):
        self.folder, self.sections = folder, tuple(sections)
        self.state_dir = folder / "state"
        self.state_dir.mkdir(mode=0o711)
        argv = ["unshare", "-n", "-m", "-p", "--fork", "--kill-child", "--mount-proc", "sleep", "600"]
        self.outer = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self.pid = self._find_first()
        self.run("mount", "-t", "tmpfs", "none", "/run/netns")
        self.run("ip", "link", "set", "lo", "up")
        self.generation = 0

    def _find_first(self) -> int:
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            pid = children.read_text().split()
            if pid and Path(f"/proc/{pid[0]}/comm").read_text().strip() == "sleep":
                return int(pid[0])
            time.sleep(0.01)
        raise AssertionError("unshare started nothing within 10 s")

    def end(self):
        self.outer.send_signal(signal.SIGKILL)
        self.outer.wait(10)

    def run(self, *argv, check=True, stdin=None, timeout=RUN_S) -> subprocess.CompletedProcess:
        enter = ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "--"]
        done = subprocess.run(enter + list(argv), input=stdin, capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout} {done.stderr}"
        return done

    def apply(self, document, check_mode=False) -> dict:
        self.generation += 1
        document = {"version": 1, "generation": self.generation, **document}
        document["settings"] = {**document.get("settings", {}), "state_dir": str(self.state_dir)}
        document["settings"].setdefault("physical_networks", {})
        done = self.run(
            PYTHON, "-c", SCRIPT.format(check=check_mode, sections=self.sections), stdin=json.dumps(document)
        )
        return json.loads(done.stdout)

    def converge(self, document) -> dict:
        """Apply, expect every object well, and expect the second run to find nothing to do."""
        result = self.apply(document)
        faults = {o: r["error"] for rows in result["objects"].values() for o, r in rows.items() if not r["ok"]}
        assert not faults
        again = self.apply(document)
        assert again["actions"] == []
        return result

    def add_guest(self, name: str, network: dict, reservation: dict) -> "Guest":
        return Guest(self, name, network, reservation)

    def links(self, namespace=None) -> dict:
        argv = ["ip", *(["-n", namespace] if namespace else []), "-j", "addr", "show"]
        return {row["ifname"]: row for row in json.loads(self.run(*argv).stdout) if row}

    def dnsmasq_pids(self) -> list[int]:
        """As the machine's own process namespace counts them."""
        return [int(pid) for pid in self.run("pidof", "dnsmasq", check=False).stdout.split()]

    def ping(self, address, namespace=None, count=1, wait=2) -> bool:
        argv = ["ip", "netns", "exec", namespace] if namespace else []
        family = "-6" if ":" in address else "-4"
        return self.run(*argv, "ping", family, "-c", str(count), "-W", str(wait), address, check=False).returncode == 0


class Guest:
    """A namespace whose interface hangs on a network's bridge as a tap would."""

    def __init__(self, machine, name, network, reservation):
        self.machine, self.namespace = machine, f"guest-{name}"
        tap = "ktp" + reservation["port"].replace("-", "")[:11]
        machine.run("ip", "netns", "add", self.namespace)
        argv = f"ip link add {tap} type veth peer name eth0 address {reservation['mac']} netns {self.namespace}"
        machine.run(*argv.split())
        machine.run("ip", "link", "set", tap, "master", "kbr" + network["id"].replace("-", "")[:11], "up")
        machine.run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        machine.run("ip", "-n", self.namespace, "link", "set", "eth0", "up")
        self.tap = tap

    def run(self, *argv, **more):
        return self.machine.run("ip", "netns", "exec", self.namespace, *argv, **more)

    def lease(self) -> dict:
        """Ask by DHCP; what the client was told, as {name: value}."""
        place = self.machine.folder / f"{self.namespace}.lease"
        script = self.machine.folder / f"{self.namespace}.script"
        script.write_text(LEASE_SCRIPT.format(place=place))
        script.chmod(0o755)
        argv = ["busybox", "udhcpc", "-f", "-q", "-n", "-t", "5", "-T", "1", "-i", "eth0", "-s", str(script)]
        self.run(*argv, "-O", "mtu", "-O", "staticroutes", "-O", "121")
        return dict(line.partition("=")[::2] for line in place.read_text().splitlines())

    def ping(self, address, **more) -> bool:
        return self.machine.ping(address, self.namespace, **more)

    def end(self):
        self.machine.run("ip", "link", "del", self.tap, check=False)
        self.machine.run("ip", "netns", "del", self.namespace, check=False)


def new_id() -> str:
    return str(uuid.uuid4())


def new_mac() -> str:
    digits = uuid.uuid4().hex
    return f"fa:16:3e:{digits[:2]}:{digits[2:4]}:{digits[4:6]}"


def build_subnet(cidr, gateway, **more) -> dict:
    version = 6 if ":" in cidr else 4
    row = {"id": new_id(), "ip_version": version, "cidr": cidr, "gateway_ip": gateway, "dhcp": True}
    row |= {"dhcp_address": None, "dns_nameservers": [], "host_routes": [], "ipv6_mode": None}
    return row | more


def build_reservation(*addresses, hostname="web1") -> dict:
    return {"port": new_id(), "mac": new_mac(), "addresses": list(addresses), "hostname": hostname, "options": []}


def build_network(subnets, reservations=(), home=None, **more) -> dict:
    network_id = new_id()
    row = {"id": network_id, "project_id": "p", "mtu": 1450, "segmentation": {"type": "local"}, "zone": 1}
    row |= {"home": home or {"kind": "network", "id": network_id}, "subnets": subnets}
    return row | {"reservations": list(reservations)} | more


def build_cloud(tenants=1) -> dict:
    """A document: a public network and ``tenants`` routers, each with a network 10.0.0.0/24 and two guests."""
    public = build_network([build_subnet("172.31.255.0/24", "172.31.255.1", dhcp=False)], mtu=1500)
    public |= {"home": None, "segmentation": {"type": "flat", "physical_network": "public"}}
    document = {"networks": [public], "routers": []}
    document["settings"] = {
        "physical_networks": {
            "public": {"bridge": PUBLIC, "addresses": ["172.31.255.1/24"], "masquerade": True, "interface": None}
        }
    }
    for number in range(tenants):
        router_id = new_id()
        home = {"kind": "router", "id": router_id}
        guests = [build_reservation("10.0.0.5"), build_reservation("10.0.0.6", hostname="web2")]
        network = build_network([build_subnet("10.0.0.0/24", "10.0.0.1")], guests, home)
        outside = [f"172.31.255.{10 + number}/24"]
        router = {"id": router_id, "enabled": True, "routes": [], "floating_ips": []}
        router["interfaces"] = [
            {"port": new_id(), "network": network["id"], "mac": new_mac(), "addresses": ["10.0.0.1/24"]}
        ]
        router["external"] = {"port": new_id(), "network": public["id"], "mac": new_mac(), "addresses": outside}
        router["external"] |= {"gateways": ["172.31.255.1"], "snat": True}
        document["networks"].append(network)
        document["routers"].append(router)
    return document


def add_floating(router, floating, fixed) -> dict:
    row = {"id": new_id(), "port": new_id(), "floating_address": floating, "fixed_address": fixed}
    router["floating_ips"].append(row)
    return row
