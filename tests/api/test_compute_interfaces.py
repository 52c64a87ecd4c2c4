"""os-interface, addFixedIp and removeFixedIp: ports that are put into servers and taken out of them."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, add_network, boot, find_project, read_server, see_host
from fake_host import FakeHost
from sqlalchemy import select

from web.models import Address, Host, Port, Quota, Server, ServerAction
from web.reconcile.loop import Worker

NOBODY = "00000000-0000-4000-8000-000000000007"
NETWORKING = "/networking/v2.0"


@pytest.fixture
def net(cloud):
    return add_network(cloud)


@pytest.fixture
def server(cloud, net):
    return boot(cloud, add_image(cloud), networks=[{"uuid": net}])


def path(server: str) -> str:
    return f"{COMPUTE}/servers/{server}/os-interface"


def attach(cloud, server: str, version: str = "2.96", user: str = "demo", **fields):
    return cloud.post(path(server), {"interfaceAttachment": fields}, version=version, user=user)


def add_port(cloud, network: str, user: str = "demo", **attributes) -> str:
    answer = cloud.post(f"{NETWORKING}/ports", {"port": {"network_id": network, **attributes}}, user=user)
    assert answer.status_code == 201, answer.text
    return answer.json["port"]["id"]


def read_port(cloud, port_id: str) -> Port | None:
    with cloud.database.read() as session:
        return session.get(Port, port_id)


def listed(cloud, server: str) -> list[str]:
    return [one["port_id"] for one in cloud.get(path(server)).json["interfaceAttachments"]]


def read_generation(cloud) -> int:
    with cloud.database.read() as session:
        return session.scalar(select(Host.generation))


def test_a_port_of_its_own_comes_and_goes(cloud, server, net):
    before = read_generation(cloud)
    made = attach(cloud, server, net_id=net, fixed_ips=[{"ip_address": "10.0.0.77"}], tag="lan")
    assert made.status_code == 200, made.text
    shown = made.json["interfaceAttachment"]
    assert set(shown) == {"port_id", "net_id", "mac_addr", "port_state", "fixed_ips", "tag"}
    assert (shown["net_id"], shown["fixed_ips"][0]["ip_address"], shown["tag"]) == (net, "10.0.0.77", "lan")
    assert "tag" not in cloud.get(path(server), version="2.69").json["interfaceAttachments"][1]
    assert read_generation(cloud) > before
    port = read_port(cloud, shown["port_id"])
    assert (port.device_id, port.device_index, port.delete_with_device) == (server, 1, True)
    assert port.host_id == read_server(cloud, server).host_id
    addresses = cloud.get(f"{COMPUTE}/servers/{server}").json["server"]["addresses"]["private"]
    assert [one["addr"] for one in addresses] == ["10.0.0.2", "10.0.0.77"]
    assert cloud.delete(f"{path(server)}/{port.id}").status_code == 202
    assert cloud.delete(f"{path(server)}/{port.id}").status_code == 202  # twice is once
    assert port.id in listed(cloud, server)  # its address is taken until the guest was seen without it
    moved = cloud.post(f"{COMPUTE}/servers/{server}/action", {"migrate": None}, user="admin")
    assert (moved.status_code, port.id in moved.text) == (409, True)
    assert attach(cloud, server, net_id=net, fixed_ips=[{"ip_address": "10.0.0.77"}]).status_code in (400, 409)
    see_host(cloud)
    assert len(listed(cloud, server)) == 1
    assert read_port(cloud, port.id) is None
    with cloud.database.read() as session:
        actions = session.scalars(select(ServerAction.action).where(ServerAction.server_id == server)).all()
    assert actions.count("attach_interface") == actions.count("detach_interface") == 1


def test_a_port_of_the_users_is_free_again(cloud, server, net):
    port = add_port(cloud, net, name="mine")
    assert attach(cloud, server, port_id=port).json["interfaceAttachment"]["port_id"] == port
    assert attach(cloud, server, port_id=port).status_code == 409
    assert cloud.delete(f"{NETWORKING}/ports/{port}").status_code == 409
    cloud.delete(f"{path(server)}/{port}")
    assert attach(cloud, server, port_id=port).status_code == 409
    see_host(cloud)
    row = read_port(cloud, port)
    assert (row.device_id, row.device_owner, row.host_id, row.detached_at, row.device_tag) == ("", "", None, None, None)
    assert attach(cloud, server, port_id=port).status_code == 200
    cloud.delete(f"{COMPUTE}/servers/{server}")
    see_host(cloud)


def test_without_a_word_it_is_the_only_network(cloud, server, net):
    assert attach(cloud, server).json["interfaceAttachment"]["net_id"] == net
    add_network(cloud, cidr="10.1.0.0/24")
    assert attach(cloud, server).status_code == 409


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"port_id": NOBODY}, 404),
        ({"net_id": NOBODY}, 404),
        ({"port_id": NOBODY, "net_id": NOBODY}, 400),
        ({"fixed_ips": [{"ip_address": "10.0.0.9"}]}, 400),
        ({"net_id": "NET", "fixed_ips": [{"ip_address": "10.9.0.9"}]}, 400),
        ({"net_id": "NET", "fixed_ips": [{"ip_address": "10.0.0.2"}]}, 409),
        ({"net_id": "NET", "fixed_ips": [{"ip_address": "10.0.0.8"}, {"ip_address": "10.0.0.9"}]}, 400),
        ({"net_id": "NET", "fixed_ips": [{}]}, 400),
        ({"net_id": "x"}, 400),
        ({"net_id": "NET", "tag": "a,b"}, 400),
        ({"net_id": "NET", "what": 1}, 400),
        ({"net_id": "THEIRS"}, 404),
        ({"port_id": "THEIR PORT"}, 404),
        ({"net_id": "PUBLIC"}, 403),
    ],
)
def test_refusals(cloud, server, net, fields, status):
    theirs = add_network(cloud, "other", "10.7.0.0/24")
    public = cloud.get(f"{NETWORKING}/networks?router:external=true").json["networks"][0]["id"]
    names = {"NET": net, "THEIRS": theirs, "PUBLIC": public}
    if fields.get("port_id") == "THEIR PORT":
        names["THEIR PORT"] = add_port(cloud, theirs, "other")
    given = {key: names.get(value, value) if isinstance(value, str) else value for key, value in fields.items()}
    answer = attach(cloud, server, **given)
    assert answer.status_code == status, answer.text
    assert len(listed(cloud, server)) == 1


def test_versions_states_quota_and_others(cloud, server, net):
    assert attach(cloud, server, net_id=net, tag="lan", version="2.48").status_code == 400
    port = listed(cloud, server)[0]
    for wrong in (f"{path(server)}/{NOBODY}", f"{path(NOBODY)}/{port}"):
        assert cloud.delete(wrong).status_code == 404
    assert cloud.delete(f"{path(server)}/{port}", user="other").status_code == 404
    assert attach(cloud, server, net_id=net, user="other").status_code == 404
    with cloud.database.write.begin() as session:
        session.merge(Quota(project_id=find_project(cloud), resource="port", limit=1))
    assert attach(cloud, server, net_id=net).status_code == 403
    cloud.post(f"{COMPUTE}/servers/{server}/action", {"os-stop": None})
    assert attach(cloud, server, net_id=net).status_code == 409  # it is busy
    assert cloud.delete(f"{path(server)}/{port}").status_code == 409
    see_host(cloud)
    assert cloud.delete(f"{path(server)}/{port}").status_code == 202  # of a stopped one


def test_fixed_ip_actions(cloud, server, net):
    action = f"{COMPUTE}/servers/{server}/action"

    def addresses() -> list[str]:
        shown = cloud.get(f"{COMPUTE}/servers/{server}").json["server"]["addresses"]
        return [one["addr"] for one in shown.get("private", [])]

    assert cloud.post(action, {"addFixedIp": {"networkId": net}}).status_code == 202
    assert addresses() == ["10.0.0.2", "10.0.0.3"]
    see_host(cloud)
    with cloud.database.write.begin() as session:  # a second address on the first port
        first = session.scalar(select(Port).where(Port.device_id == server, Port.device_index == 0))
        first.addresses.append(Address(subnet_id=first.addresses[0].subnet_id, address="10.0.0.50"))
    assert cloud.post(action, {"removeFixedIp": {"address": "10.0.0.50"}}).status_code == 202
    assert addresses() == ["10.0.0.2", "10.0.0.3"]
    assert cloud.post(action, {"removeFixedIp": {"address": "10.0.0.3"}}).status_code == 202
    see_host(cloud)
    assert addresses() == ["10.0.0.2"]
    for wrong in ({"address": "10.0.0.3"}, {"address": "x"}, {}):
        assert cloud.post(action, {"removeFixedIp": wrong}).status_code == 400
    assert cloud.post(action, {"addFixedIp": {"networkId": NOBODY}}).status_code == 400
    for body in ({"addFixedIp": {"networkId": net}}, {"removeFixedIp": {"address": "10.0.0.2"}}):
        assert cloud.post(action, body, version="2.44").status_code == 404


def test_a_port_is_let_go_only_once_its_guest_was_seen_without_it(cloud, net):
    """Until then it is in the document's ports, that is behind its firewall, and in no guest's."""
    fake = FakeHost()

    worker = Worker(cloud.settings, cloud.database, run=fake)
    with cloud.database.read() as session:
        host = session.scalar(select(Host.id))
    server = boot(cloud, add_image(cloud), see=False, networks=[{"uuid": net}, {"uuid": net}])
    worker.run_once(host)
    assert read_server(cloud, server).status == "ACTIVE"
    first, second = listed(cloud, server)
    fake.clinging.add(server)
    cloud.delete(f"{path(server)}/{second}")
    worker.run_once(host)
    document = fake.documents[-1]
    assert document["servers"][0]["ports"] == [first]
    assert sorted(port["id"] for port in document["ports"]) == sorted([first, second])
    assert listed(cloud, server) == [first, second]
    fake.clinging.clear()
    fake.fail[server] = "the guest did not answer"
    worker.run_once(host)
    assert listed(cloud, server) == [first, second]
    fake.fail.clear()
    worker.run_once(host)
    assert listed(cloud, server) == [first]
    with cloud.database.read() as session:
        assert session.get(Port, second) is None
        assert session.scalar(select(Server)).status == "ACTIVE"
    worker.pool.shutdown()
