"""The metadata section and its daemon: the real process, real namespaces, requests as guests make them."""

import base64
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from ansible.module_utils.kumo import names, posted_passwords

sys.path.insert(0, str(Path(__file__).parent))

from firewall_lab import DRIVE, ROOT, python, run

DAEMON = ROOT / "roles/hypervisor/files/kumo_metadata.py"
SECRET = "canary-in-user-data"


def sweep():
    """Remove the namespaces of killed runs: each run lists what it made in a file of its own."""
    for path in Path("/tmp").glob("kmdt*.namespaces"):
        if not Path("/proc", path.name[4:].split(".")[0]).exists():
            for name in path.read_text().split():
                run("ip", "netns", "del", name, check=False)
            path.unlink()


class Cloud:
    """A daemon, a state directory, and homes (namespaces) with one guest namespace behind each port."""

    def __init__(self, state_dir):
        sweep()
        self.state_dir = state_dir
        self.made = []
        self.record = Path(f"/tmp/kmdt{os.getpid()}.namespaces")
        self.document = {
            "version": 1, "host": "h", "generation": 1, "fence": 1, "settings": {"state_dir": str(state_dir)},
            "networks": [], "ports": [], "servers": [], "routers": [],
        }  # fmt: skip
        self.log = open(state_dir.parent / "daemon.log", "w+")  # noqa: SIM115
        self.daemon = None

    def start(self):
        """Start the daemon."""
        command = ["/usr/bin/python3", str(DAEMON), "--state-dir", str(self.state_dir)]
        self.daemon = subprocess.Popen(command, stderr=self.log, stdout=self.log)

    def close(self):
        """End the daemon and remove every namespace."""
        if self.daemon:
            self.daemon.terminate()
            try:
                self.daemon.wait(5)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait(5)
        self.log.close()
        for name in self.made:
            run("ip", "netns", "del", name, check=False)
        self.record.unlink(missing_ok=True)

    def make(self, name):
        """Make a namespace that close, or after a kill the next run, removes."""
        if name not in self.made:
            self.made.append(name)
        self.record.write_text("\n".join(self.made))
        run("ip", "netns", "add", name)

    def home(self, network):
        """Make the namespace that stands for a network's router."""
        name = names.choose_home_namespace(network)
        self.make(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "addr", "add", "169.254.169.254/32", "dev", "lo")
        return name

    def network(self):
        """A network row whose namespace is there."""
        ident = str(uuid.uuid4())
        subnet = {
            "id": str(uuid.uuid4()), "ip_version": 4, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1", "dhcp": True,
            "dns_nameservers": ["192.0.2.53"], "host_routes": [],
        }  # fmt: skip
        row = {
            "id": ident, "mtu": 1450, "home": {"kind": "network", "id": ident}, "subnets": [subnet],
            "segmentation": {"type": "local"},
        }  # fmt: skip
        self.document["networks"].append(row)
        self.home(row)
        return row

    def wire(self, network, address, mac, last=None):
        """A guest's namespace on a network: its name."""
        home = names.choose_home_namespace(network)
        inner = last or names.choose_home_interface(network, [])
        guest = f"kmdt{os.getpid()}-{len(self.made)}"
        self.make(guest)
        run("ip", "-n", home, "link", "add", inner, "type", "veth", "peer", "name", "eth0", "netns", guest)
        run("ip", "-n", home, "addr", "add", "10.0.0.1/24", "dev", inner)
        for where, link in ((home, inner), (guest, "eth0")):
            path = f"/proc/sys/net/ipv6/conf/{link}/accept_dad"
            run("sh", "-c", f"echo 0 > {path}", namespace=where)
        run("ip", "-n", home, "link", "set", inner, "up")
        run("ip", "-n", home, "addr", "add", "fe80::a9fe:a9fe/64", "dev", inner, "nodad")
        run("ip", "-n", guest, "link", "set", "eth0", "address", mac)
        run("ip", "-n", guest, "link", "set", "eth0", "up")
        run("ip", "-n", guest, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", guest, "route", "add", "default", "via", "10.0.0.1")
        return guest

    def server(self, network, address, name, **facts):
        """A server with one port, and its guest's namespace: (row, namespace)."""
        number = len(self.document["ports"]) + 1
        port = {
            "id": str(uuid.uuid4()), "network": network["id"], "mac": f"fa:16:3e:00:00:{number:02x}",
            "addresses": [address],
        }  # fmt: skip
        ident = str(uuid.uuid4())
        metadata = {
            "uuid": ident, "hostname": name, "name": name, "project_id": "p" * 32, "availability_zone": "nova",
            "launch_index": 0, "keys": [{"name": "k1", "type": "ssh", "data": f"ssh-ed25519 AAAA{name}"}],
            "meta": {"role": "web"}, "user_data": base64.b64encode(SECRET.encode() + b"\x00\xff").decode(),
            "instance_type": "m1.tiny", "ec2_id": f"i-{number:08x}", "image_ec2_id": "ami-00000001",
            "security_groups": ["default", "web"], "public_ipv4": "172.24.4.20", **facts,
        }  # fmt: skip
        row = {"id": ident, "wanted": "present", "name": name, "ports": [port["id"]], "metadata": metadata}
        port["server"] = ident
        self.document["ports"].append(port)
        self.document["servers"].append(row)
        return row, self.wire(network, address, port["mac"])

    def apply(self, check=False):
        """Run the section in this machine's own namespace, where it only writes files."""
        request = json.dumps({"document": self.document, "check": check, "sections": ["metadata"]})
        return json.loads(run("/usr/bin/python3", "-c", DRIVE, stdin=request).stdout)

    def settle(self):
        """Apply without a fault; a second run has nothing to do."""
        result = self.apply()
        assert all(row["ok"] for row in result["objects"]["metadata"].values()), result
        assert self.apply()["actions"] == []
        return result


@pytest.fixture
def cloud(tmp_path):
    """A cloud with its daemon running; everything is gone afterwards."""
    (tmp_path / "state").mkdir()
    made = Cloud(tmp_path / "state")
    try:
        made.start()
        yield made
    finally:
        made.close()


def get(guest, path, *options, base="http://169.254.169.254"):
    """(status, body) of a request from a guest with curl; status 0 where nothing answers."""
    done = run(
        "curl", "-s", "-g", "-m", "3", "-w", "\n%{http_code}", *options, base + path, namespace=guest, check=False
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


def until(guest, path, seconds=5.0, base="http://169.254.169.254", wanted=200):
    """Ask until the answer has the wanted status; the body."""
    end = time.monotonic() + seconds
    while True:
        status, body = get(guest, path, base=base)
        if status == wanted:
            return body
        assert time.monotonic() < end, (path, status, body)
        time.sleep(0.1)


def test_openstack_format(cloud):
    """Versions, meta_data.json, user_data (bytes as given), network_data.json, vendor data, 404 with a body."""
    network = cloud.network()
    server, guest = cloud.server(network, "10.0.0.5", "web1")
    cloud.settle()
    versions = until(guest, "/openstack").split("\n")
    assert versions[0] == "2012-08-10"
    assert versions[-1] == "latest"
    assert get(guest, "/openstack/latest/")[1].split("\n") == [
        "meta_data.json", "network_data.json", "password", "user_data", "vendor_data.json", "vendor_data2.json",
    ]  # fmt: skip
    assert get(guest, "/openstack/2012-08-10")[1].split("\n") == ["meta_data.json", "user_data"]
    data = json.loads(get(guest, "/openstack/latest/meta_data.json")[1])
    assert len(base64.b64decode(data.pop("random_seed"))) == 512
    assert data == {
        "uuid": server["id"], "name": "web1", "hostname": "web1", "launch_index": 0, "availability_zone": "nova",
        "meta": {"role": "web"}, "public_keys": {"k1": "ssh-ed25519 AAAAweb1"}, "project_id": "p" * 32,
        "keys": [{"name": "k1", "type": "ssh", "data": "ssh-ed25519 AAAAweb1"}], "devices": [],
    }  # fmt: skip
    raw = run("sh", "-c", "curl -s http://169.254.169.254/openstack/latest/user_data | base64 -w0", namespace=guest)
    assert base64.b64decode(raw.stdout) == SECRET.encode() + b"\x00\xff"
    described = json.loads(get(guest, "/openstack/latest/network_data.json")[1])
    assert described["links"][0]["ethernet_mac_address"] == "fa:16:3e:00:00:01"
    assert described["networks"][0]["type"] == "ipv4_dhcp"
    assert described["networks"][0]["link"] == described["links"][0]["id"]
    assert described["services"] == [{"type": "dns", "address": "192.0.2.53"}]
    assert get(guest, "/openstack/latest/vendor_data.json") == (200, "{}")
    for version in versions[:-1]:
        assert get(guest, f"/openstack/{version}/meta_data.json")[0] == 200
    for path in ("/openstack/latest/none", "/openstack/1999-01-01", "/x", "/latest/meta-data/../user-data/x"):
        status, body = get(guest, path)
        assert status == 404
        assert body


PASSWORD = "/openstack/2013-04-04/password"


def post(guest, text, *options, path=PASSWORD):
    """The status of a POST, as cloudbase-init makes it."""
    return get(guest, path, "--data-binary", text, *options)[0]


def test_a_guest_posts_its_password_once(cloud):
    """As its host reads it then; it outlives the daemon, is forgotten with the number, and is in no log."""
    server, guest = cloud.server(cloud.network(), "10.0.0.5", "windows")
    _, other = cloud.server(cloud.network(), "10.0.0.6", "other")
    cloud.settle()
    assert until(guest, PASSWORD) == ""
    text = "Canary-c2VjcmV0" * 68
    assert post(guest, text) == 503, "its server is not made yet"
    folder = cloud.state_dir / "servers" / server["id"]
    folder.mkdir(parents=True)
    assert [post(guest, wrong) for wrong in ("", text + "x", "x" * 5000, "\x01")] == [400] * 4
    assert post(guest, text) == 200
    assert get(guest, "/openstack/latest/password") == (200, text)
    assert post(guest, "another") == post(guest, text, path="/openstack/latest/password") == 409
    assert [path.name for path in folder.iterdir()] == ["posted_password.0"]
    assert (folder / "posted_password.0").stat().st_mode & 0o777 == 0o600
    assert posted_passwords.read_posted(cloud.document, server["id"]) == {"0": text}
    assert get(other, PASSWORD) == (200, "")
    cloud.daemon.kill()
    cloud.daemon.wait(5)
    cloud.start()
    assert until(guest, PASSWORD) == text
    server["posted_password"] = {"cleared": 1, "text": ""}
    cloud.settle()
    assert get(guest, PASSWORD) == (200, "")
    assert post(guest, "Canary-newer") == 200
    server["posted_password"] = {"cleared": 1, "text": "Canary-newer"}
    plan = cloud.apply(check=True)
    assert plan["actions"]
    assert "Canary" not in json.dumps(plan)
    (folder / "posted_password.1").unlink()
    cloud.settle()
    assert get(guest, PASSWORD) == (200, "Canary-newer"), "as a host knows it that the guest came to"
    assert post(guest, "third") == 409
    cloud.log.flush()
    assert "Canary" not in (cloud.state_dir.parent / "daemon.log").read_text()


def test_s23_nobody_posts_for_another_guest(cloud):
    """By no header, from no address that is not its own, and not from another network with the same address."""
    one, two = cloud.network(), cloud.network()
    server, guest = cloud.server(one, "10.0.0.5", "mine")
    other, stranger = cloud.server(two, "10.0.0.5", "theirs")
    for row in (server, other):
        (cloud.state_dir / "servers" / row["id"]).mkdir(parents=True)
    cloud.settle()
    until(guest, PASSWORD)
    until(stranger, PASSWORD)
    claims = ("X-Forwarded-For: 10.0.0.5", f"X-Instance-ID: {server['id']}", f"X-Instance-ID-Signature: {'0' * 64}")
    assert post(stranger, "theirs", *(word for claim in claims for word in ("-H", claim))) == 200
    assert get(guest, PASSWORD) == (200, "")
    run("ip", "-n", stranger, "addr", "add", "10.0.0.77/24", "dev", "eth0")
    assert post(stranger, "x", "--interface", "10.0.0.77") == 404
    assert posted_passwords.read_posted(cloud.document, server["id"]) == {}
    assert posted_passwords.read_posted(cloud.document, other["id"]) == {"0": "theirs"}
    for method in ("PUT", "DELETE", "PATCH"):
        assert get(guest, PASSWORD, "-X", method)[0] == 405
    assert post(guest, "x", "-H", "Transfer-Encoding: chunked") == 400


def test_ec2_format(cloud):
    """The listings and values that cloud-init walks, by every version; HEAD has the length and no body."""
    _, guest = cloud.server(cloud.network(), "10.0.0.5", "web1")
    cloud.settle()
    assert until(guest, "/").split("\n")[-1] == "latest"
    assert get(guest, "/latest") == (200, "meta-data/\nuser-data")
    listing = get(guest, "/latest/meta-data/")[1].split("\n")
    assert "public-keys/" in listing
    assert "placement/" in listing
    expected = {
        "ami-id": "ami-00000001", "hostname": "web1", "local-hostname": "web1", "public-hostname": "web1",
        "instance-id": "i-00000001", "instance-type": "m1.tiny", "local-ipv4": "10.0.0.5",
        "public-ipv4": "172.24.4.20", "public-keys/": "0=k1", "public-keys/0/": "openssh-key",
        "public-keys/0/openssh-key": "ssh-ed25519 AAAAweb1\n", "placement/availability-zone": "nova",
        "security-groups": "default\nweb", "ami-launch-index": "0", "ami-manifest-path": "(unknown)",
        "block-device-mapping/": "ami\nroot", "block-device-mapping/root": "/dev/vda",
    }  # fmt: skip
    for version in ("1.0", "2009-04-04", "latest"):
        assert {path: get(guest, f"/{version}/meta-data/{path}")[1] for path in expected} == expected
    assert get(guest, "/latest/meta-data/reservation-id")[1].startswith("r-")
    for name in listing:
        assert get(guest, f"/latest/meta-data/{name}")[0] == 200, name
    head = run("curl", "-sI", "http://169.254.169.254/latest/meta-data/hostname", namespace=guest).stdout
    assert head.startswith("HTTP/1.1 200")
    assert "Content-Length: 4" in head
    assert get(guest, "/latest/api/token", "-X", "PUT")[0] == 405


def test_s23_forwarded_headers_are_ignored(cloud):
    """OSSN-0074: who asks is known by namespace and address; headers that claim another guest change nothing."""
    one, two = cloud.network(), cloud.network()
    _, guest = cloud.server(one, "10.0.0.5", "mine")
    other, stranger = cloud.server(two, "10.0.0.5", "theirs", user_data=None)
    neighbour, _ = other, None
    cloud.settle()
    assert until(guest, "/latest/meta-data/hostname") == "mine"
    assert until(stranger, "/latest/meta-data/hostname") == "theirs"  # the same address in another namespace
    claims = (
        "X-Forwarded-For: 10.0.0.9", f"X-Instance-ID: {neighbour['id']}", "X-Tenant-ID: p", "Forwarded: for=10.0.0.9",
        f"X-Instance-ID-Signature: {'0' * 64}", "Host: ../10.0.0.9",
    )  # fmt: skip
    for claim in claims:
        assert get(guest, "/latest/meta-data/hostname", "-H", claim) == (200, "mine")
    run("ip", "-n", guest, "addr", "add", "10.0.0.77/24", "dev", "eth0")
    assert get(guest, "/latest/meta-data/hostname", "--interface", "10.0.0.77")[0] == 404
    assert get(stranger, "/latest/user-data")[0] == 404


def test_ipv6_link_local(cloud):
    """At fe80::a9fe:a9fe a guest is known by its link-local address on its own interface."""
    _, guest = cloud.server(cloud.network(), "10.0.0.5", "six")
    cloud.settle()
    assert until(guest, "/latest/meta-data/hostname", base="http://[fe80::a9fe:a9fe%25eth0]") == "six"


def test_changes_reach_guests_and_gone_ones_are_forgotten(cloud):
    """A changed row is served at once, a removed server 404, an empty namespace closed, a new one noticed."""
    network = cloud.network()
    server, guest = cloud.server(network, "10.0.0.5", "old")
    keeper, _ = cloud.server(cloud.network(), "10.0.0.6", "keeper")
    plan = cloud.apply(check=True)
    assert SECRET not in json.dumps(plan)
    assert base64.b64encode(SECRET.encode()).decode()[:12] not in json.dumps(plan)
    assert not (cloud.state_dir / "metadata").exists()
    cloud.settle()
    assert until(guest, "/latest/meta-data/hostname") == "old"
    server["metadata"]["hostname"] = "new"
    cloud.settle()
    assert get(guest, "/latest/meta-data/hostname") == (200, "new")
    server["wanted"] = "absent"
    cloud.settle()
    assert until(guest, "/latest/meta-data/hostname", wanted=0) == ""
    server["wanted"] = "present"
    cloud.settle()
    assert until(guest, "/latest/meta-data/hostname") == "new"
    cloud.document["servers"] = [keeper]
    cloud.settle()
    assert [path.name for path in (cloud.state_dir / "metadata").iterdir()] == [
        names.choose_home_namespace(cloud.document["networks"][1])
    ]
    cloud.document.update(servers=[], ports=[], networks=[])
    cloud.settle()
    assert list((cloud.state_dir / "metadata").iterdir()) == []


def test_one_broken_server_does_not_stop_another(cloud):
    """A server whose part of the document is unreadable carries the error; the others are served."""
    network = cloud.network()
    broken, _ = cloud.server(network, "10.0.0.5", "broken")
    cloud.document["ports"][0]["addresses"] = ["not an address"]
    good, guest = cloud.server(cloud.network(), "10.0.0.5", "good")
    results = cloud.apply()["objects"]["metadata"]
    assert broken["id"] in results[broken["id"]]["error"]
    assert results.get(good["id"], {"ok": True})["ok"]
    assert until(guest, "/latest/meta-data/hostname") == "good"


def test_recreated_namespace_and_restart(cloud):
    """A namespace deleted and made again, and a daemon killed and started again, answer within seconds."""
    network = cloud.network()
    _, guest = cloud.server(network, "10.0.0.5", "again")
    cloud.settle()
    assert until(guest, "/latest/meta-data/hostname") == "again"
    home = names.choose_home_namespace(network)
    run("ip", "netns", "del", home)
    deadline = time.monotonic() + 5
    while run("ip", "-n", guest, "link", "show", "eth0", check=False).returncode == 0:
        assert time.monotonic() < deadline, "the daemon keeps the deleted namespace alive"
        time.sleep(0.1)
    cloud.home(network)
    again = cloud.wire(network, "10.0.0.5", "fa:16:3e:00:00:01")
    assert until(again, "/latest/meta-data/hostname") == "again"
    cloud.daemon.kill()
    cloud.daemon.wait(5)
    cloud.start()
    assert until(again, "/latest/meta-data/hostname") == "again"


def test_limits(cloud):
    """Oversized and malformed requests are refused; hoarded idle connections of one guest end and harm nobody."""
    _, guest = cloud.server(cloud.network(), "10.0.0.5", "greedy")
    _, other = cloud.server(cloud.network(), "10.0.0.5", "other")
    cloud.settle()
    until(guest, "/")
    until(other, "/")
    assert get(guest, "/" + "a" * 20000)[0] in (0, 431)
    assert get(guest, "/", "-H", "X: " + "b" * 20000)[0] in (0, 431)
    source = """
        import socket, time
        def ask(data):
            s = socket.create_connection(("169.254.169.254", 80), 3); s.settimeout(8); s.sendall(data)
            try: return s.recv(100)[:12].decode()
            except OSError: return ""
        for data in (b"nonsense\\r\\n\\r\\n", b"GET http://x/ HTTP/1.1\\r\\n\\r\\n", b"\\x00\\xff / \\r\\n\\r\\n"):
            print(ask(data))
        start = time.monotonic()  # before the daemon can have begun to count
        held = [socket.create_connection(("169.254.169.254", 80), 3) for _ in range(200)]
        print("held", flush=True)
        held[0].settimeout(20)
        print(held[0].recv(100)[:12].decode())
        print(time.monotonic() - start)
    """
    *lines, waited = python(guest, source, timeout=30).stdout.splitlines()
    assert lines == ["HTTP/1.1 400"] * 3 + ["held", "HTTP/1.1 408"]
    assert float(waited) >= 5
    assert get(other, "/latest/meta-data/hostname") == (200, "other")
    assert until(guest, "/latest/meta-data/hostname") == "greedy"


def test_daemon_is_small_quiet_and_discreet(cloud):
    """Under 30 MB, nearly no processor time when idle, nothing of a guest's data in its log; --help works."""
    for number in range(8):
        cloud.server(cloud.network(), "10.0.0.5", f"s{number}")
    cloud.settle()
    _, guest = cloud.document, cloud.made[-1]
    until(guest, "/openstack/latest/meta_data.json")
    pid = cloud.daemon.pid

    def ticks():
        return sum(int(value) for value in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])

    before, start = ticks(), time.monotonic()
    time.sleep(4)
    share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - start)
    resident = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line)
    print(f"idle share {share:.4f}, {resident}")
    assert share <= 0.01
    assert int(resident.split()[1]) < 30000
    cloud.log.flush()
    log = (cloud.state_dir.parent / "daemon.log").read_text()
    assert "listening in" in log
    assert SECRET not in log
    assert "AAAA" not in log
    assert "--state-dir" in run("/usr/bin/python3", str(DAEMON), "--help").stdout
    for path in (cloud.state_dir / "metadata").rglob("*.json"):
        assert path.stat().st_mode & 0o777 == 0o600
