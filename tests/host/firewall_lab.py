"""A host of its own for the firewall's tests: a network namespace with bridges, and namespaces as guests.

Packet filter, conntrack, bridge settings and bridges all belong to a network namespace, so the sections run
inside one (by a child of /usr/bin/python3) and can touch neither this machine nor another test.
"""

import contextlib
import itertools
import json
import os
import re
import subprocess
import textwrap
import uuid
from pathlib import Path

from ansible.module_utils.kumo import names

ROOT = Path(__file__).resolve().parents[2]

DRIVE = f"""
import json, sys
sys.path.insert(0, {str(ROOT / "module_utils")!r})
import kumo.core
request = json.load(sys.stdin)
result = kumo.core.run_sections(request["document"], sections=tuple(request["sections"]), check_mode=request["check"])
json.dump(result, sys.stdout)
"""
# The same, and the result has the commands that the run started.
COUNTED = f"""
import subprocess
commands, real = [], subprocess.Popen.__init__
def note(self, argv, *positional, **named):
    commands.append(argv[0].rpartition("/")[2])
    real(self, argv, *positional, **named)
subprocess.Popen.__init__ = note
{DRIVE.replace("json.dump(result, ", 'json.dump({**result, "commands": commands}, ')}
"""
_serial = itertools.count()


def run(*argv, namespace=None, stdin=None, timeout=20, check=True):
    """Run a command (in a namespace); the finished process, its output as text."""
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    done = subprocess.run([*prefix, *argv], input=stdin, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"{argv}: {done.returncode}: {done.stderr}{done.stdout}")
    return done


def python(namespace, source, *arguments, timeout=20):
    """Run a piece of Python inside a namespace; its output."""
    return run("/usr/bin/python3", "-c", textwrap.dedent(source), *arguments, namespace=namespace, timeout=timeout)


def rule(direction="ingress", ethertype="IPv4", **fields):
    """A security group rule of the document, everything else null."""
    empty = {"protocol": None, "port_min": None, "port_max": None, "remote_cidr": None, "remote_group": None}
    return {"id": str(uuid.uuid4()), "direction": direction, "ethertype": ethertype, **empty, **fields}


def allow_out():
    """The egress rules that the Networking API gives every new group."""
    return [rule("egress", "IPv4"), rule("egress", "IPv6")]


def sweep():
    """Remove the namespaces that a killed run of these tests left behind."""
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else []:
        owner = re.match(r"kfwt(\d+)-", name)
        if owner and not Path("/proc", owner[1]).exists():
            run("ip", "netns", "del", name, check=False)


class Lab:
    """One simulated host: ``document`` is what ``apply`` brings it to."""

    def __init__(self, state_dir):
        sweep()
        self.name = f"kfwt{os.getpid()}-{next(_serial)}"
        self.guests = []
        self.background = []
        self.document = {
            "version": 1, "host": "h", "generation": 1, "fence": 1, "settings": {"state_dir": str(state_dir)},
            "networks": [], "ports": [], "security_groups": [],
        }  # fmt: skip
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def close(self):
        """Remove every namespace and background program."""
        for process in self.background:
            process.kill()
            process.wait(5)
        for name in [*self.guests, self.name]:
            with contextlib.suppress(AssertionError):
                run("ip", "netns", "del", name)

    def network(self, cidr="10.0.0.0/24", gateway="10.0.0.1", zone=11, v6=None):
        """Add a network and its bridge; its row."""
        ident = str(uuid.uuid4())
        subnets = [{"id": str(uuid.uuid4()), "ip_version": 4, "cidr": cidr, "gateway_ip": gateway, "dhcp": True}]
        if v6:
            subnets.append({"id": str(uuid.uuid4()), "ip_version": 6, "cidr": v6, "gateway_ip": None, "dhcp": False})
        row = {
            "id": ident, "segmentation": {"type": "local"}, "zone": zone, "home": {"kind": "network", "id": ident},
            "subnets": subnets,
        }  # fmt: skip
        self.document["networks"].append(row)
        bridge = names.build_bridge_name(ident)
        run("ip", "-n", self.name, "link", "add", bridge, "type", "bridge", "forward_delay", "0")
        run("ip", "-n", self.name, "link", "set", bridge, "up")
        return row

    def group(self, *rules, **members):
        """Add a security group; its row."""
        row = {"id": str(uuid.uuid4()), "rules": list(rules), "members": {"IPv4": [], "IPv6": [], **members}}
        self.document["security_groups"].append(row)
        return row

    def _join(self, network, outer, mac, addresses):
        name = f"{self.name}-{len(self.guests)}"
        run("ip", "netns", "add", name)
        self.guests.append(name)
        # the veth is made inside the host's namespace: its outer end never exists on this machine
        run("ip", "-n", self.name, "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "-n", self.name, "link", "set", outer, "master", names.build_bridge_name(network["id"]), "up")
        run("ip", "netns", "exec", name, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "link", "set", "eth0", "address", mac)
        run("ip", "-n", name, "link", "set", "eth0", "up")
        for address in addresses:
            length = "64" if ":" in address else "24"
            run("ip", "-n", name, "addr", "add", f"{address}/{length}", "dev", "eth0", *(["nodad"] * (":" in address)))
        return name

    def guest(self, network, address, *groups, v6=None, **fields):
        """Add a port and a namespace behind its tap: (the port's row, the namespace's name)."""
        number = len(self.guests) + 1
        addresses = [address] + ([v6] if v6 else [])
        port = {
            "id": str(uuid.uuid4()), "network": network["id"], "server": str(uuid.uuid4()),
            "mac": f"fa:16:3e:00:00:{number:02x}", "addresses": addresses, "admin_state_up": True,
            "port_security": True, "security_groups": [g["id"] for g in groups], "allowed_address_pairs": [], **fields,
        }  # fmt: skip
        self.document["ports"].append(port)
        return port, self._join(network, names.build_tap_name(port["id"]), port["mac"], addresses)

    def gateway(self, network, address, v6=None):
        """Add the namespace that stands for the network's router: its name."""
        mac = f"fa:16:3e:ff:00:{len(self.guests) + 1:02x}"
        outer = names.build_outer_veth_name(str(uuid.uuid4()))
        return self._join(network, outer, mac, [address] + ([v6] if v6 else []))

    def apply(self, document=None, check=False, sections=("firewall",), drive=DRIVE):
        """Run the sections; kumo_host's result."""
        request = json.dumps({"document": document or self.document, "check": check, "sections": sections})
        enter = ["nsenter", f"--net=/run/netns/{self.name}"]  # ip netns exec would hide namespaces made in it
        done = run(*enter, "/usr/bin/python3", "-c", drive, stdin=request, timeout=60)
        return json.loads(done.stdout)

    def save(self, tool="iptables"):
        """What iptables-save prints without its comments."""
        text = run(f"{tool}-save", namespace=self.name).stdout
        return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))

    def listen(self, namespace, port, family="AF_INET", kind="tcp"):
        """Echo whatever arrives at ``port`` in ``namespace`` until the lab closes."""
        source = f"""
            import socket, threading
            def serve(c):
                while (data := c.recv(2000)):
                    c.sendall(data)
            if {kind!r} == 'udp':
                s = socket.socket(socket.{family}, socket.SOCK_DGRAM)
                s.bind(('', {port})); print('up', flush=True)
                while True:
                    data, peer = s.recvfrom(2000); s.sendto(data, peer)
            s = socket.socket(socket.{family}); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(('', {port})); s.listen(); print('up', flush=True)
            while True:
                threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
        """
        command = ["ip", "netns", "exec", namespace, "/usr/bin/python3", "-c", textwrap.dedent(source)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.background.append(process)
        assert process.stdout.readline() == "up\n"


def pings(namespace, address, *options, tries=3):
    """Whether one of a few echo requests is answered within a second."""
    command = ("ping", "-n", "-c", "1", "-W", "1", *options, address)
    return any(run(*command, namespace=namespace, check=False).returncode == 0 for _ in range(tries))


def connects(namespace, address, port, timeout=1.5):
    """Whether a TCP connection is made and echoes."""
    source = """
        import socket, sys
        try:
            s = socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
            s.sendall(b"x"); print(s.recv(1) == b"x")
        except OSError as e: print(False)
    """
    return python(namespace, source, address, str(port), str(timeout)).stdout == "True\n"


def echoes_udp(namespace, address, port):
    """Whether a datagram comes back."""
    source = """
        import socket, sys
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)
        s.connect((sys.argv[1], int(sys.argv[2])))
        try: s.send(b"x"); print(s.recv(1) == b"x")
        except OSError: print(False)
    """
    return python(namespace, source, address, str(port)).stdout == "True\n"


def receives(listener, sender, frame: bytes, marker: bytes, seconds=1.2):
    """Send a raw frame from one namespace: whether any frame that holds ``marker`` reaches the other."""
    source = """
        import socket, sys, time
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind(("eth0", 3)); s.settimeout(0.2)
        print("up", flush=True)
        marker, end, found = bytes.fromhex(sys.argv[1]), time.monotonic() + float(sys.argv[2]), False
        while time.monotonic() < end and not found:
            try: found = marker in s.recv(4000)
            except TimeoutError: pass
        print(found)
    """
    command = ["ip", "netns", "exec", listener, "/usr/bin/python3", "-c", textwrap.dedent(source)]
    process = subprocess.Popen([*command, marker.hex(), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    send = """
        import socket, sys
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(("eth0", 0))
        for _ in range(3): s.send(bytes.fromhex(sys.argv[1]))
    """
    python(sender, send, frame.hex())
    return process.communicate(timeout=10)[0] == "True\n"
