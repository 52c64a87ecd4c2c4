"""The metadata section and the daemon's answers, as tables: rows in, files and bodies out."""

import base64
import importlib.util
import itertools
import json
import sys
from pathlib import Path

import pytest
from ansible.module_utils.kumo import core, device_tags, domain_xml, metadata
from ansible.module_utils.kumo.errors import KumoError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "roles/hypervisor/files"))  # where the daemon finds what is installed beside it
_spec = importlib.util.spec_from_file_location("kumo_metadata", ROOT / "roles/hypervisor/files/kumo_metadata.py")
daemon = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(daemon)

NET = "11111111-1111-4111-8111-111111111111"
PORT = "22222222-2222-4222-8222-222222222222"
SERVER = "33333333-3333-4333-8333-333333333333"
HOME = f"kumo-n-{NET}"
LINK_LOCAL = "fe80::f816:3eff:fe00:1%kvi11111111111"


def _document(**server):
    return core.parse_document(
        {
            "version": 1,
            "networks": [
                {
                    "id": NET, "mtu": 1500, "segmentation": {"type": "local"}, "home": {"kind": "network", "id": NET},
                    "subnets": [
                        {"id": NET, "ip_version": 4, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1", "dhcp": True},
                        {"id": PORT, "ip_version": 6, "cidr": "fd00::/64", "gateway_ip": None, "dhcp": True,
                         "ipv6_mode": "slaac"},
                    ],
                }
            ],
            "ports": [{"id": PORT, "network": NET, "mac": "FA:16:3E:00:00:01", "addresses": ["10.0.0.5", "FD00::5"]}],
            "servers": [
                {
                    "id": SERVER, "wanted": "present", "ports": [PORT],
                    "metadata": {"uuid": SERVER, "user_data": base64.b64encode(b"private").decode()}, **server,
                }
            ],
        }
    )  # fmt: skip


def _observe(actions):
    observed = {}
    for action in actions:
        digest = metadata._digest(action.args["text"])
        observed.setdefault(action.args["namespace"], {})[action.args["address"]] = digest
    return observed


def test_plan_serves_each_address_once():
    """A file per address in the home's directory; nothing when they are there; the texts are in no diff."""
    actions = metadata.plan_metadata(_document(), {})
    assert [(a.object_id, a.verb, a.args["namespace"], a.args["address"]) for a in actions] == [
        (SERVER, "serve", HOME, address) for address in ("10.0.0.5", "fd00::5", LINK_LOCAL)
    ]
    assert all("private" not in a.before + a.after and "cHJpdmF0ZQ" not in a.before + a.after for a in actions)
    assert metadata.plan_metadata(_document(), _observe(actions)) == []
    content = json.loads(actions[0].args["text"])
    assert content["local_ipv4"] == "10.0.0.5"
    assert content["posted_password"] == {"server": SERVER, "cleared": 0, "text": ""}
    assert [row["type"] for row in content["network_data"]["networks"]] == ["ipv4_dhcp", "ipv6_slaac"]


@pytest.mark.parametrize("fields", [{"wanted": "absent"}, {"ports": []}, {"metadata": None}])
def test_plan_forgets_what_no_server_has(fields):
    """A deleted server's addresses, a detached port's: forgotten, and the empty namespace left."""
    observed = _observe(metadata.plan_metadata(_document(), {}))
    actions = metadata.plan_metadata(_document(**fields), observed)
    assert [(a.object_id, a.verb) for a in actions] == [("host", "forget")] * 3 + [("host", "leave")]


def test_fault_is_the_servers_own():
    """An unreadable address fails its server by name."""
    document = _document()
    document["ports"][0]["addresses"] = ["10.0.0.500"]
    (action,) = metadata.plan_metadata(document, {})
    assert action.object_id == SERVER
    with pytest.raises(KumoError, match=rf"server {SERVER}: .*10\.0\.0\.500"):
        metadata.apply_metadata(document, action)


CONTENT = {
    "metadata": {
        "uuid": SERVER,
        "hostname": "web",
        "keys": [{"name": "a", "data": "ssh-rsa A"}, {"name": "b", "data": "ssh-rsa B"}],
        "user_data": base64.b64encode(b"#!/bin/sh").decode(),
    },
    "network_data": {"links": [], "networks": [], "services": []},
    "local_ipv4": None,
    "posted_password": {"server": SERVER, "cleared": 2, "text": "kept"},
}
ANSWERS = {
    "/latest/meta-data/public-keys": "0=a\n1=b",
    "/latest/meta-data/public-keys/1": "openssh-key",
    "/latest/meta-data/public-keys/1/openssh-key": "ssh-rsa B\n",
    "/latest/meta-data/instance-id": SERVER,
    "/latest/meta-data/local-ipv4": "",
    "/latest//meta-data//hostname?x=/y": "web",
    "/2009-04-04/user-data": b"#!/bin/sh",
    "/openstack/2012-08-10/user_data": b"#!/bin/sh",
    "/openstack/2012-08-10/": "meta_data.json\nuser_data",
    "/openstack/2013-04-04": "meta_data.json\npassword\nuser_data",
    "/openstack/2015-10-15": "meta_data.json\nnetwork_data.json\npassword\nuser_data\nvendor_data.json",
    "/openstack/latest/password": "kept",
    "/openstack/2016-10-06/vendor_data2.json": "{}",
}


@pytest.mark.parametrize(("path", "body"), ANSWERS.items())
def test_answers(path, body):
    """Paths of both formats and what they answer."""
    assert daemon.build_answer(CONTENT, path) == body


@pytest.mark.parametrize(
    "path",
    [
        "/latest/meta-data/public-keys/2", "/latest/meta-data/hostname/x",
        "/latest/x", "/2010-01-01/meta-data", "/openstack/2012-08-10/network_data.json", "/openstack/latest/a/b",
        "/openstack/2013-04-04/vendor_data.json", "/openstack/2015-10-15/vendor_data2.json", "/etc/passwd",
        "/latest/meta-data/../../etc/passwd", "/openstack/2012-08-10/password", "/latest/password",
    ],
)  # fmt: skip
def test_nothing_there(path):
    """Everything else is a 404."""
    with pytest.raises(daemon.NotThere):
        daemon.build_answer(CONTENT, path)


def test_meta_data_by_version():
    """What each version of the OpenStack format brought."""
    keys = {
        version: set(json.loads(daemon.build_answer(CONTENT, f"/openstack/{version}/meta_data.json")))
        for version in ("2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "latest")
    }
    versions = list(keys)
    brought = [keys[new] - keys[old] for old, new in itertools.pairwise(versions)]
    assert brought == [{"random_seed"}, {"project_id"}, {"keys"}, {"devices"}, set()]


@pytest.mark.parametrize("address", ["../x", "10.0.0.5/..", "", "10.0.0.5%../x"])
def test_only_addresses_name_files(tmp_path, address):
    """What is not an address never becomes a path."""
    with pytest.raises(daemon.NotThere):
        daemon.Daemon(str(tmp_path)).read_content("n", "", address)


POSTED = "/openstack/2013-04-04/password"


class Guest:
    """A guest of a daemon that has its file, and what it sends as one connection's bytes."""

    KEY = ("n", "", "10.0.0.5")

    def __init__(self, folder, **posted):
        self.folder = folder
        self.daemon = daemon.Daemon(str(folder))
        (folder / "metadata" / "n").mkdir(parents=True)
        (folder / "servers" / SERVER).mkdir(parents=True)
        self.tell(**posted)

    def tell(self, **posted):
        content = {**CONTENT, "posted_password": {"server": SERVER, "cleared": 0, "text": "", **posted}}
        (self.folder / "metadata" / "n" / "10.0.0.5.json").write_text(json.dumps(content))

    def send(self, *lines, body=b"", key=KEY):
        async def ask():
            reader = daemon.asyncio.StreamReader(limit=daemon.REQUEST_BYTES)
            reader.feed_data("\r\n".join([*lines, "", ""]).encode() + body)
            reader.feed_eof()
            return (await self.daemon.read_request(key, reader))[:2]

        return daemon.asyncio.run(ask())

    def post(self, body, path=POSTED, key=KEY):
        return self.send(f"POST {path} HTTP/1.1", f"Content-Length: {len(body)}", body=body, key=key)[0]

    def get(self):
        return self.send(f"GET {POSTED} HTTP/1.1")

    def files(self):
        return {path.name: path.read_bytes() for path in (self.folder / "servers" / SERVER).iterdir()}


def test_a_guest_posts_its_password_once(tmp_path, capsys):
    """Kept in its server's directory, root's alone, under the number of clearings; another guest's is another file."""
    guest = Guest(tmp_path)
    assert guest.get() == (200, "")
    assert guest.post(b"c2VjcmV0\r\n") == 200
    assert guest.files() == {"posted_password.0": b"c2VjcmV0\r\n"}
    assert (tmp_path / "servers" / SERVER / "posted_password.0").stat().st_mode & 0o777 == 0o600
    assert guest.get() == (200, "c2VjcmV0\r\n")
    assert guest.post(b"other") == 409
    assert guest.post(b"other", "/openstack/latest/password") == 409
    guest.tell(cleared=1)
    assert guest.get() == (200, ""), "its user has cleared it"
    assert guest.post(b"other") == 200
    assert guest.get() == (200, "other")
    guest.tell(cleared=2, text="from another host")
    assert guest.get() == (200, "from another host")
    assert guest.post(b"mine") == 409
    assert "c2VjcmV0" not in capsys.readouterr().err


@pytest.mark.parametrize("size", [0, 1, 1020, 1021, 5000])
def test_how_long_a_posted_password_may_be(tmp_path, size):
    guest = Guest(tmp_path)
    wanted = 200 if 1 <= size <= 1020 else 400
    assert guest.post(b"x" * size) == wanted
    assert list(guest.files().values()) == ([b"x" * size] if wanted == 200 else [])


@pytest.mark.parametrize("body", [b" \n", b"\xff\xfe", b"a\0b", b"\x1b[31m"])
def test_a_posted_password_is_text(tmp_path, body):
    guest = Guest(tmp_path)
    assert guest.post(body) == 400
    assert guest.files() == {}


def test_nobody_posts_for_another(tmp_path):
    """Who has no file here is nobody, and what the file does not name as a server has no directory (case 23)."""
    guest = Guest(tmp_path)
    for stranger in (("n", "", "10.0.0.6"), ("m", "", "10.0.0.5"), ("n", "", "../n/10.0.0.5")):
        assert guest.post(b"x", key=stranger) == 404
    headers = ["Content-Length: 1", f"X-Instance-ID: {PORT}", "X-Forwarded-For: 10.0.0.6"]
    assert guest.send(f"POST {POSTED} HTTP/1.1", *headers, body=b"x")[0] == 200
    assert guest.files() == {"posted_password.0": b"x"}
    guest.tell(server="../../etc", cleared=1)
    assert guest.post(b"x") == 404
    guest.tell(server=PORT, cleared=1)
    assert guest.post(b"x") == 503, "no directory of it here"
    assert sorted(path.name for path in tmp_path.rglob("*password*")) == ["posted_password.0"]


def test_what_is_no_posted_password(tmp_path):
    """Other methods and places, and bodies of which nobody knows how long they are."""
    guest = Guest(tmp_path)
    for path in ("/openstack/2012-08-10/password", "/openstack/latest/user_data", "/latest/password", "/"):
        assert guest.post(b"x", path) == 405
    assert guest.send(f"PUT {POSTED} HTTP/1.1", "Content-Length: 1", body=b"x")[0] == 405
    assert guest.send(f"DELETE {POSTED} HTTP/1.1")[0] == 405
    chunked = ["Transfer-Encoding: chunked", "Content-Length: 1"]
    for headers in (
        [],
        ["Content-Length: -1"],
        ["Content-Length: 1", "content-length: 1"],
        ["Content-Length: x"],
        chunked,
    ):
        assert guest.send(f"POST {POSTED} HTTP/1.1", *headers, body=b"x")[0] == 400, headers
    with pytest.raises(daemon.asyncio.IncompleteReadError):
        guest.send(f"POST {POSTED} HTTP/1.1", "Content-Length: 5", body=b"x")
    assert guest.files() == {}


DOMAIN = """<domain><devices>
<disk type='file' device='disk'><target dev='vda' bus='virtio'/>
<address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/></disk>
<disk type='network' device='disk'><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='disk'><target dev='sda' bus='scsi'/>
<address type='drive' controller='0' bus='0' target='1' unit='2'/></disk>
<disk type='file' device='disk'><target dev='hda' bus='ide'/>
<address type='drive' controller='0' bus='1' unit='0'/></disk>
<interface type='bridge'><mac address='fa:16:3e:00:00:01'/>
<address type='pci' domain='0x0000' bus='0x01' slot='0x1f' function='0x3'/></interface>
</devices></domain>"""


def test_tagged_devices_are_listed_with_their_places(monkeypatch):
    """As the reference has them: type, bus, address, tags, and what tells the device from others."""
    places = device_tags.parse_places(domain_xml.parse_xml(DOMAIN))
    assert places["sda"] == {"bus": "scsi", "address": "0:0:1:2"}
    assert places["hda"] == {"bus": "ide", "address": "1:0"}
    volume = {"device": "vdb", "volume": NET, "tag": "logs"}
    document = _document(disk_tags={"root": "system"}, volumes=[volume])
    document["ports"][0]["tag"] = "lan"
    wanted = [
        {"type": "nic", "bus": "pci", "address": "0000:01:1f.3", "tags": ["lan"], "mac": "fa:16:3e:00:00:01"},
        {"type": "disk", "bus": "none", "address": "none", "tags": ["logs"], "path": "/dev/vdb", "serial": NET},
        {"type": "disk", "bus": "pci", "address": "0000:00:04.0", "tags": ["system"], "path": "/dev/vda"},
    ]
    before = metadata.plan_metadata(document, {})
    monkeypatch.setattr(device_tags, "read_places_of", lambda server_id: places)
    observed = {**_observe(before), "_places": device_tags.read_places(document)}
    assert metadata.report_metadata(document, observed) == {"pending": True}, "the guest was defined by this run"
    actions = metadata.plan_metadata(document, observed)
    assert {action.verb for action in actions} == {"serve"}
    content = json.loads(actions[0].args["text"])
    assert content["metadata"]["devices"] == wanted
    assert json.loads(daemon.build_answer(content, "/openstack/2016-06-30/meta_data.json"))["devices"] == wanted
    assert "devices" not in json.loads(daemon.build_answer(content, "/openstack/2015-10-15/meta_data.json"))
    settled = {**_observe(actions), "_places": places}
    assert metadata.report_metadata(document, {**settled, "_places": {SERVER: places}}) == {"pending": False}
    bad = _document(disk_tags={"root": "x"}, hardware={"machine": "virt"})
    assert device_tags.read_places(bad) == {}
    assert [action.verb for action in metadata.plan_metadata(bad, {})] == ["refuse"]
