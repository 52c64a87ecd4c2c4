"""What is asked of servers that exist: power, locks, console, groups, metadata, tags, addresses, records."""

from __future__ import annotations

import threading
import time

import pytest
from compute_cloud import COMPUTE, add_image, add_network, boot, read_server, see_host

from web.models import Host
from web.resources.compute import server_console


@pytest.fixture
def server(cloud):
    """The id of an ACTIVE server of demo, without a network."""
    return boot(cloud, add_image(cloud))


def act(cloud, server, action, **options):
    return cloud.post(f"{COMPUTE}/servers/{server}/action", action, **options)


def read_status(cloud, server) -> str:
    return cloud.get(f"{COMPUTE}/servers/{server}").json["server"]["status"]


def test_stop_start_reboot(cloud, server):
    """Each verb becomes wanted state with a deadline, shows as a task, and ends when the host was seen so."""
    path = f"{COMPUTE}/servers/{server}"
    for action, task, status, end in (
        ({"os-stop": None}, "powering-off", "ACTIVE", "SHUTOFF"),
        ({"os-start": None}, "powering-on", "SHUTOFF", "ACTIVE"),
        ({"reboot": {"type": "SOFT"}}, "rebooting", "REBOOT", "ACTIVE"),
        ({"reboot": {"type": "hard"}}, "rebooting_hard", "HARD_REBOOT", "ACTIVE"),
    ):
        assert act(cloud, server, action).status_code == 202
        shown = cloud.get(path).json["server"]
        assert (shown["OS-EXT-STS:task_state"], shown["status"]) == (task, status)
        row = read_server(cloud, server)
        assert row.operation is not None
        assert row.operation_deadline is not None
        see_host(cloud)
        shown = cloud.get(path).json["server"]
        assert (shown["OS-EXT-STS:task_state"], shown["status"]) == (None, end)


@pytest.mark.parametrize(
    ("prepare", "action", "status"),
    [
        (None, {"os-start": None}, 409),
        ({"os-stop": None}, {"os-stop": None}, 409),
        ({"os-stop": None}, {"reboot": {"type": "SOFT"}}, 409),
        ({"os-stop": None}, {"reboot": {"type": "HARD"}}, 202),
        ({"reboot": {"type": "SOFT"}}, {"os-stop": None}, 202),
        (None, {"reboot": {"type": "WARM"}}, 400),
        (None, {"reboot": {}}, 400),
        (None, {"reboot": None}, 400),
        (None, {"reboot": {"type": "HARD", "now": True}}, 400),
        (None, {"migrate": None}, 403),
        (None, {"shelf": None}, 400),
        (None, {"os-start": None, "os-stop": None}, 400),
        (None, {}, 400),
        (None, {"forceDelete": None}, 202),
    ],
)
def test_what_is_allowed(cloud, server, prepare, action, status):
    if prepare:
        assert act(cloud, server, prepare).status_code == 202
        see_host(cloud)
    answer = act(cloud, server, action)
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json["badRequest"]["message"]


def test_lock(cloud, server):
    """A locked server refuses its owner and obeys an admin; the reason shows from 2.73 on."""
    assert act(cloud, server, {"lock": {"locked_reason": "x"}}, version="2.72").status_code == 400
    assert act(cloud, server, {"lock": {"locked_reason": "audit"}}, version="2.73").status_code == 202
    path = f"{COMPUTE}/servers/{server}"
    shown = cloud.get(path, version="2.73").json["server"]
    assert (shown["locked"], shown["locked_reason"]) == (True, "audit")
    for method, where, body in (
        ("POST", f"{path}/action", {"os-stop": None}),
        ("DELETE", path, None),
        ("PUT", path, {"server": {"name": "x"}}),
    ):
        assert cloud.call(method, where, body).status_code == 409
    assert act(cloud, server, {"os-stop": None}, user="admin").status_code == 202
    assert act(cloud, server, {"unlock": None}).status_code == 202
    assert cloud.get(path, version="2.73").json["server"]["locked"] is False
    assert cloud.delete(path).status_code == 204


def test_console_output(cloud, server):
    """The host is asked, and its answer returned, cut to the lines wanted."""
    stop = threading.Event()

    def play():
        while not stop.is_set():
            see_host(cloud, console="one\ntwo\nthree\n")
            time.sleep(0.05)

    player = threading.Thread(target=play)
    player.start()
    try:
        for length, text in (
            (None, "one\ntwo\nthree\n"),
            (2, "two\nthree"),
            ("1", "three"),
            (-1, "one\ntwo\nthree\n"),
        ):
            answer = act(cloud, server, {"os-getConsoleOutput": {"length": length}})
            assert answer.status_code == 200, answer.text
            assert answer.json == {"output": text}
        assert act(cloud, server, {"os-getConsoleOutput": None}).json["output"].startswith("one")
        assert act(cloud, server, {"os-getConsoleOutput": {"length": "x"}}).status_code == 400
    finally:
        stop.set()
        player.join(10)


def test_console_output_of_a_host_that_does_not_answer(cloud, server, monkeypatch):
    """503 after a bounded wait; 409 at once where the host is known to be down; 404 to others."""
    monkeypatch.setattr(server_console, "WAIT_S", 0.3)
    assert act(cloud, server, {"os-getConsoleOutput": {}}).status_code == 503
    assert act(cloud, server, {"os-getConsoleOutput": {}}, user="other").status_code == 404
    with cloud.database.write.begin() as session:
        session.get(Host, read_server(cloud, server).host_id).forced_down = True
    answer = act(cloud, server, {"os-getConsoleOutput": {}})
    assert answer.status_code == 409
    assert "host is down" in answer.text


def test_security_groups(cloud):
    """A group is added to and removed from every port of the server, and its host is told."""
    network = add_network(cloud)
    server = boot(cloud, add_image(cloud), networks=[{"uuid": network}, {"uuid": network}])
    cloud.post("/networking/v2.0/security-groups", {"security_group": {"name": "web"}})
    path = f"{COMPUTE}/servers/{server}/os-security-groups"

    def read_generation():
        with cloud.database.read.begin() as session:
            return session.get(Host, read_server(cloud, server).host_id).generation

    before = read_generation()
    assert act(cloud, server, {"addSecurityGroup": {"name": "web"}}).status_code == 202
    assert act(cloud, server, {"addSecurityGroup": {"name": "web"}}).status_code == 202
    assert read_generation() > before
    assert [one["name"] for one in cloud.get(path).json["security_groups"]] == ["default", "web"]
    ports = cloud.get(f"/networking/v2.0/ports?device_id={server}").json["ports"]
    assert [len(port["security_groups"]) for port in ports] == [2, 2]
    assert act(cloud, server, {"removeSecurityGroup": {"name": "web"}}).status_code == 202
    assert [one["name"] for one in cloud.get(path).json["security_groups"]] == ["default"]
    assert act(cloud, server, {"removeSecurityGroup": {"name": "web"}}).status_code == 404
    assert act(cloud, server, {"addSecurityGroup": {"name": "nope"}}).status_code == 404
    assert act(cloud, server, {"addSecurityGroup": {}}).status_code == 400


def test_metadata(cloud, server):
    path = f"{COMPUTE}/servers/{server}/metadata"
    assert cloud.get(path).json == {"metadata": {}}
    assert cloud.post(path, {"metadata": {"a": "1", "b": "2"}}).json == {"metadata": {"a": "1", "b": "2"}}
    assert cloud.put(f"{path}/c", {"meta": {"c": "3"}}).json == {"meta": {"c": "3"}}
    assert cloud.get(f"{path}/c").json == {"meta": {"c": "3"}}
    assert cloud.delete(f"{path}/a").status_code == 204
    assert cloud.get(path).json == {"metadata": {"b": "2", "c": "3"}}
    assert cloud.put(path, {"metadata": {"z": "9"}}).json == {"metadata": {"z": "9"}}
    assert cloud.get(f"{path}/a").status_code == 404
    assert cloud.delete(f"{path}/a").status_code == 404
    for bad in (
        {},
        {"metadata": []},
        {"metadata": {"a": "x" * 256}},
        {"metadata": {"a": None}},
        {"metadata": {"": "x"}},
    ):
        assert cloud.post(path, bad).status_code == 400
    assert cloud.put(f"{path}/c", {"meta": {"d": "3"}}).status_code == 400
    many = {"metadata": {f"k{n}": "" for n in range(129)}}
    assert cloud.put(path, many).status_code == 403
    assert cloud.get(path).json == {"metadata": {"z": "9"}}


def test_tags(cloud, server):
    path = f"{COMPUTE}/servers/{server}/tags"
    assert cloud.get(path, version="2.25").status_code == 404
    assert cloud.put(f"{path}/b", version="2.26").status_code == 201
    assert cloud.put(f"{path}/b", version="2.26").status_code == 204
    assert cloud.put(path, {"tags": ["b", "a"]}, version="2.26").json == {"tags": ["a", "b"]}
    assert cloud.get(f"{path}/a", version="2.26").status_code == 204
    assert cloud.get(f"{path}/z", version="2.26").status_code == 404
    assert cloud.delete(f"{path}/a", version="2.26").status_code == 204
    assert cloud.delete(f"{path}/a", version="2.26").status_code == 404
    assert cloud.get(path, version="2.26").json == {"tags": ["b"]}
    assert cloud.delete(path, version="2.26").status_code == 204
    for bad in ({"tags": ["a", "a"]}, {"tags": ["x" * 61]}, {"tags": "a"}, {}):
        assert cloud.put(path, bad, version="2.26").status_code == 400
    assert cloud.put(f"{path}/{'x' * 61}", version="2.26").status_code == 400


def test_ips_and_interfaces(cloud):
    network = add_network(cloud)
    server = boot(cloud, add_image(cloud), networks=[{"uuid": network}])
    path = f"{COMPUTE}/servers/{server}"
    addresses = {"private": [{"version": 4, "addr": "10.0.0.2"}]}
    assert cloud.get(f"{path}/ips").json == {"addresses": addresses}
    assert cloud.get(f"{path}/ips/private").json == addresses
    assert cloud.get(f"{path}/ips/other").status_code == 404
    listed = cloud.get(f"{path}/os-interface").json["interfaceAttachments"]
    assert listed[0]["net_id"] == network
    one = cloud.get(f"{path}/os-interface/{listed[0]['port_id']}").json["interfaceAttachment"]
    assert one == listed[0]
    assert cloud.get(f"{path}/os-interface/nope").status_code == 404


def test_floating_addresses_show(cloud):
    """A floating address shows beside the fixed one it leads to, with the port's MAC."""
    network = add_network(cloud)
    server = boot(cloud, add_image(cloud), networks=[{"uuid": network}])
    router = cloud.post("/networking/v2.0/routers", {"router": {"name": "r"}}).json["router"]["id"]
    subnet = cloud.get(f"/networking/v2.0/subnets?network_id={network}").json["subnets"][0]["id"]
    cloud.put(f"/networking/v2.0/routers/{router}/add_router_interface", {"subnet_id": subnet})
    public = cloud.get("/networking/v2.0/networks?router:external=true").json["networks"][0]["id"]
    body = {"router": {"external_gateway_info": {"network_id": public}}}
    assert cloud.put(f"/networking/v2.0/routers/{router}", body).status_code == 200
    port = cloud.get(f"/networking/v2.0/ports?device_id={server}").json["ports"][0]["id"]
    body = {"floatingip": {"floating_network_id": public, "port_id": port}}
    made = cloud.post("/networking/v2.0/floatingips", body)
    assert made.status_code == 201, made.text
    listed = cloud.get(f"{COMPUTE}/servers/{server}").json["server"]["addresses"]["private"]
    assert [one["OS-EXT-IPS:type"] for one in listed] == ["fixed", "floating"]
    assert listed[1]["addr"] == made.json["floatingip"]["floating_ip_address"]
    assert listed[0]["OS-EXT-IPS-MAC:mac_addr"] == listed[1]["OS-EXT-IPS-MAC:mac_addr"]


def test_instance_actions(cloud, server):
    """What was asked is recorded with its request id, and readable from 2.21 on when the server is gone."""
    answer = act(cloud, server, {"os-stop": None})
    path = f"{COMPUTE}/servers/{server}/os-instance-actions"
    listed = cloud.get(path).json["instanceActions"]
    assert [one["action"] for one in listed] == ["stop", "create"]
    assert listed[0]["request_id"] == answer.headers["X-Compute-Request-Id"]
    one = cloud.get(f"{path}/{listed[0]['request_id']}", version="2.84").json["instanceAction"]
    assert one["events"][0]["hostId"]
    assert "host" not in one["events"][0]
    assert cloud.get(f"{path}/req-nope").status_code == 404
    cloud.delete(f"{COMPUTE}/servers/{server}")
    see_host(cloud)
    assert cloud.get(path, version="2.20").status_code == 404
    paged = cloud.get(f"{path}?limit=2", version="2.58").json
    assert [one["action"] for one in paged["instanceActions"]] == ["delete", "stop"]
    assert "marker" in paged["instanceActions_links"][0]["href"]
    rest = cloud.get(f"{path}?marker={listed[0]['request_id']}", version="2.58").json
    assert [one["action"] for one in rest["instanceActions"]] == ["create"]
    assert cloud.get(f"{path}?limit=x", version="2.58").status_code == 400
    assert cloud.get(path, user="other", version="2.58").status_code == 404
