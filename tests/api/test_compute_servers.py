"""Servers: created, listed, shown, updated, deleted."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, add_network, boot, build_server, read_server, see_host
from sqlalchemy import event, func, select

from web.models import Host, Port, Server


def test_create_show_delete(cloud):
    """A server is BUILD, then ACTIVE with its addresses, then deleting, then gone with its ports."""
    image, network = add_image(cloud), add_network(cloud)
    body = build_server(image, networks=[{"uuid": network}], key_name=None)
    answer = cloud.post(f"{COMPUTE}/servers", body, version="2.96")
    assert answer.status_code == 202
    made = answer.json["server"]
    assert set(made) == {"id", "links", "OS-DCF:diskConfig", "security_groups", "adminPass"}
    assert answer.headers["Location"].endswith(f"/servers/{made['id']}")
    path = f"{COMPUTE}/servers/{made['id']}"
    shown = cloud.get(path, version="2.96").json["server"]
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("BUILD", "spawning")
    assert shown["addresses"]["private"][0]["addr"] == "10.0.0.2"
    assert shown["security_groups"] == [{"name": "default"}]
    see_host(cloud)
    shown = cloud.get(path, version="2.96").json["server"]
    assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("ACTIVE", 1)
    assert cloud.delete(path).status_code == 204
    assert cloud.delete(path).status_code == 204
    assert cloud.get(path).json["server"]["OS-EXT-STS:task_state"] == "deleting"
    see_host(cloud)
    assert cloud.get(path).status_code == 404
    assert cloud.delete(path).status_code == 404
    with cloud.database.read.begin() as session:
        assert session.scalar(select(func.count()).select_from(Port).where(Port.device_id == made["id"])) == 0


def test_create_touches_its_host(cloud):
    """The host's generation grows with the request, whose id it records."""
    image = add_image(cloud)
    with cloud.database.read.begin() as session:
        before = session.scalar(select(Host.generation))
    boot(cloud, image, see=False)
    with cloud.database.read.begin() as session:
        assert session.scalar(select(Host.generation)) > before


LONG = "x" * 256
BAD = [
    ("name of 256 characters", {"name": LONG}, 400, "name"),
    ("empty name", {"name": ""}, 400, "name"),
    ("name with a line break", {"name": "a\nb"}, 400, "name"),
    ("name that is no text", {"name": 5}, 400, "name"),
    ("unknown flavor", {"flavorRef": "nope"}, 400, "Flavor nope could not be found"),
    ("flavor of a wrong type", {"flavorRef": ["1"]}, 400, "flavorRef"),
    ("unknown image", {"imageRef": "00000000-0000-0000-0000-000000000007"}, 400, "imageRef"),
    ("image that is no UUID", {"imageRef": "tiny"}, 400, "imageRef"),
    ("no image", {"imageRef": ""}, 400, "imageRef"),
    ("unknown field", {"colour": "red"}, 400, "colour"),
    ("unknown key", {"key_name": "nope"}, 400, "key_name"),
    ("unknown group", {"security_groups": [{"name": "nope"}]}, 400, "Security group nope not found"),
    ("unknown network", {"networks": [{"uuid": "00000000-0000-0000-0000-000000000007"}]}, 400, "Network"),
    ("unknown port", {"networks": [{"port": "00000000-0000-0000-0000-000000000007"}]}, 400, "Port"),
    ("network of nothing", {"networks": [{}]}, 400, "networks/0"),
    ("network with an unknown key", {"networks": [{"vlan": 1}]}, 400, "vlan"),
    ("network mode unknown", {"networks": "some"}, 400, "networks"),
    ("user data that is no base64", {"user_data": "%%%"}, 400, "user_data"),
    ("user data of odd length", {"user_data": "YWJ"}, 400, "user_data"),
    ("metadata value too long", {"metadata": {"k": LONG}}, 400, "metadata"),
    ("metadata of a wrong type", {"metadata": {"k": 1}}, 400, "metadata"),
    ("too much metadata", {"metadata": {f"k{n}": "" for n in range(129)}}, 403, "metadata"),
    ("unknown zone", {"availability_zone": "mars"}, 400, "availability_zone"),
    ("a host, by no admin", {"availability_zone": "nova:here"}, 403, "forced_host"),
    ("more at least than at most", {"min_count": 3, "max_count": 2}, 400, "min_count"),
    ("count of nothing", {"min_count": 0}, 400, "min_count"),
    ("count that is no number", {"min_count": True}, 400, "min_count"),
    ("config drive of a wrong type", {"config_drive": "maybe"}, 400, "config_drive"),
    ("volume", {"block_device_mapping_v2": [{"source_type": "volume", "uuid": "x"}]}, 400, "block_device_mapping_v2"),
    ("certificates", {"trusted_image_certificates": ["x"]}, 400, "trusted_image_certificates"),
    ("tag with a comma", {"tags": ["a,b"]}, 400, "tags"),
    ("too many tags", {"tags": [str(n) for n in range(51)]}, 400, "tags"),
    ("host name with a line break", {"hostname": "web\n"}, 400, "hostname"),
    ("host name with a slash", {"hostname": "web/1"}, 400, "hostname"),
]


@pytest.mark.parametrize(("fields", "status", "text"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_s32_create_refuses(cloud, fields, status, text):
    """Bad input is refused with the name of the field, and nothing is written."""
    answer = cloud.post(f"{COMPUTE}/servers", build_server(add_image(cloud), **fields), version="2.96")
    assert answer.status_code == status, answer.text
    body = answer.json["badRequest" if status == 400 else "forbidden"]
    assert text in body["message"]
    assert "secret-canary" not in answer.text
    assert body["code"] == status
    with cloud.database.read.begin() as session:
        assert session.scalar(select(func.count()).select_from(Server)) == 0
        assert session.scalar(select(func.count()).select_from(Port)) == 0


@pytest.mark.parametrize("body", ["{", "[]", "null", '"x"', "", "{}", '{"server": 5}', '{"server": {}, "x": 1}'])
def test_create_needs_a_json_object(cloud, body):
    answer = cloud.call("POST", f"{COMPUTE}/servers", body)
    assert answer.status_code == 400
    assert answer.json["badRequest"]["code"] == 400


IMAGES = [
    ("queued", {"status": "queued"}, "not active"),
    ("saving", {"status": "saving"}, "not active"),
    ("deactivated", {"status": "deactivated"}, "not active"),
    ("deleted", {"status": "deleted"}, "Can not find"),
    ("of another project, private", {"visibility": "private"}, "Can not find"),
    ("of another project, shared with nobody", {"visibility": "shared"}, "Can not find"),
    ("needs more memory", {"min_ram": 513}, "memory is too small"),
    ("needs more disk", {"min_disk": 2}, "disk is too small"),
    ("a kernel", {"disk_format": "aki"}, "unacceptable"),
]


@pytest.mark.parametrize(("columns", "text"), [case[1:] for case in IMAGES], ids=[case[0] for case in IMAGES])
def test_create_refuses_images(cloud, columns, text):
    """An image that cannot be booted, or not by this project, is a 400 that says why."""
    answer = cloud.post(f"{COMPUTE}/servers", build_server(add_image(cloud, **columns)), version="2.96")
    assert answer.status_code == 400
    assert text in answer.json["badRequest"]["message"]


def test_s07_virtual_size_above_the_flavors_disk_is_refused(cloud):
    """Refused before a row is written: m1.tiny has 1 GiB."""
    image = add_image(cloud, virtual_size=(1 << 30) + 1)
    answer = cloud.post(f"{COMPUTE}/servers", build_server(image), version="2.96")
    assert answer.status_code == 400
    assert "disk is too small" in answer.text
    assert cloud.get(f"{COMPUTE}/servers").json["servers"] == []


@pytest.mark.parametrize(
    ("resource", "limit", "fields", "text"),
    [
        ("instances", 1, {}, "Quota exceeded for instances: Requested 1, but already used 1 of 1 instances"),
        ("cores", 1, {}, "Quota exceeded for cores"),
        ("ram", 600, {}, "Quota exceeded for ram"),
        ("instances", 2, {"min_count": 2, "max_count": 2}, "Requested 2, but already used 1 of 2"),
    ],
)
def test_quota(cloud, resource, limit, fields, text):
    """A limit that is reached is a 403 in the reference's words; deleting makes room."""
    image = add_image(cloud)
    first = boot(cloud, image)
    project = cloud.get(f"{COMPUTE}/servers/{first}").json["server"]["tenant_id"]
    body = {"quota_set": {resource: limit}}
    assert cloud.put(f"{COMPUTE}/os-quota-sets/{project}", body, user="admin").status_code == 200
    answer = cloud.post(f"{COMPUTE}/servers", build_server(image, **fields), version="2.96")
    assert answer.status_code == 403
    assert text in answer.json["forbidden"]["message"]
    cloud.delete(f"{COMPUTE}/servers/{first}")
    see_host(cloud)
    boot(cloud, image)


def test_several_as_many_as_the_quota_allows(cloud):
    """Between min_count and max_count it is the quota that decides; names and host names are numbered."""
    image = add_image(cloud)
    boot(cloud, image, min_count=1, max_count=12, name="many", return_reservation_id=False)
    rows = cloud.get(f"{COMPUTE}/servers/detail?sort_key=launch_index&sort_dir=asc", user="admin").json["servers"]
    assert rows == []
    rows = cloud.get(f"{COMPUTE}/servers/detail?sort_key=launch_index&sort_dir=asc", version="2.90").json["servers"]
    assert [row["name"] for row in rows] == [f"many-{n}" for n in range(1, 11)]
    assert rows[2]["OS-EXT-SRV-ATTR:hostname"] == "many-3"


def test_reservation_id(cloud):
    body = build_server(add_image(cloud), return_reservation_id=True, max_count=2)
    answer = cloud.post(f"{COMPUTE}/servers", body, version="2.96")
    assert answer.status_code == 202
    assert set(answer.json) == {"reservation_id"}
    found = cloud.get(f"{COMPUTE}/servers?reservation_id={answer.json['reservation_id']}").json["servers"]
    assert len(found) == 2


def test_no_valid_host_is_an_error_server(cloud):
    """202, then ERROR with the fault; an admin reads the reason for each host; deleting it is final at once."""
    image = add_image(cloud)
    with cloud.database.write.begin() as session:
        session.scalar(select(Host)).enabled = False
    server = boot(cloud, image, see=False)
    shown = cloud.get(f"{COMPUTE}/servers/{server}").json["server"]
    assert (shown["status"], shown["hostId"]) == ("ERROR", "")
    assert shown["fault"]["message"].startswith("No valid host was found.")
    assert "details" not in shown["fault"]
    told = cloud.get(f"{COMPUTE}/servers/{server}", user="admin").json["server"]["fault"]["details"]
    assert "it is disabled" in told
    for action in ({"os-start": None}, {"reboot": {"type": "HARD"}}, {"os-stop": None}):
        assert cloud.post(f"{COMPUTE}/servers/{server}/action", action).status_code == 409
    assert cloud.delete(f"{COMPUTE}/servers/{server}").status_code == 204
    assert cloud.get(f"{COMPUTE}/servers/{server}").status_code == 404


def test_ports_networks_and_groups(cloud):
    """A chosen address, an existing port, groups by name and by id; the port outlives the server, unbound."""
    image, network = add_image(cloud), add_network(cloud)
    group = cloud.post("/networking/v2.0/security-groups", {"security_group": {"name": "web"}}).json["security_group"]
    port = cloud.post("/networking/v2.0/ports", {"port": {"network_id": network}}).json["port"]
    server = boot(
        cloud,
        image,
        networks=[{"port": port["id"]}, {"uuid": network, "fixed_ip": "10.0.0.77"}],
        security_groups=[{"name": "web"}, {"name": "default"}, {"name": group["id"]}],
    )
    listed = cloud.get(f"{COMPUTE}/servers/{server}/os-interface").json["interfaceAttachments"]
    assert [one["fixed_ips"][0]["ip_address"] for one in listed] == [port["fixed_ips"][0]["ip_address"], "10.0.0.77"]
    bound = cloud.get(f"/networking/v2.0/ports/{port['id']}").json["port"]
    assert (bound["device_id"], bound["device_owner"]) == (server, "compute:nova")
    shown = cloud.get(f"{COMPUTE}/servers/{server}").json["server"]
    assert [one["name"] for one in shown["security_groups"]] == ["default", "web"]
    for networks, status in (
        ([{"port": port["id"]}], 409),
        ([{"uuid": network, "fixed_ip": "10.0.0.77"}], 400),
        ([{"uuid": network, "fixed_ip": "192.168.9.9"}], 400),
    ):
        body = build_server(image, networks=networks)
        assert cloud.post(f"{COMPUTE}/servers", body, version="2.96").status_code == status


def test_network_of_another_project_and_without_a_subnet(cloud):
    image = add_image(cloud)
    for network in (add_network(cloud, "admin"), add_network(cloud, cidr=None)):
        body = build_server(image, networks=[{"uuid": network}])
        answer = cloud.post(f"{COMPUTE}/servers", body, version="2.96")
        assert answer.status_code == 400
        assert network in answer.text


def test_networks_that_are_left_out(cloud):
    """The project's only network is taken; of two, none is guessed."""
    image = add_image(cloud)
    add_network(cloud)
    server = boot(cloud, image, networks="auto")
    assert "private" in cloud.get(f"{COMPUTE}/servers/{server}").json["server"]["addresses"]
    add_network(cloud, cidr="10.1.0.0/24", name="second")
    answer = cloud.post(f"{COMPUTE}/servers", build_server(image, networks="auto"), version="2.96")
    assert answer.status_code == 409


def test_block_device_mapping_of_an_image(cloud):
    """The form that clients send for an image on the local disk is the same as imageRef."""
    image = add_image(cloud)
    mapping = {"uuid": image, "source_type": "image", "destination_type": "local", "boot_index": 0}
    server = boot(cloud, image, block_device_mapping_v2=[{**mapping, "delete_on_termination": True}])
    assert read_server(cloud, server).image_id == image


def test_scheduler_hints(cloud):
    """Empty hints are fine; a hint that would not be honoured is refused."""
    body = build_server(add_image(cloud))
    assert cloud.post(f"{COMPUTE}/servers", {**body, "os:scheduler_hints": {}}, version="2.96").status_code == 202
    answer = cloud.post(f"{COMPUTE}/servers", {**body, "os:scheduler_hints": {"group": "x"}}, version="2.96")
    assert answer.status_code == 400
    assert "group" in answer.text


def test_an_admin_chooses_the_host(cloud):
    image = add_image(cloud)
    host = cloud.settings.kumo.hostname
    server = boot(cloud, image, user="admin", availability_zone=f"nova:{host}")
    shown = cloud.get(f"{COMPUTE}/servers/{server}", user="admin").json["server"]
    assert shown["OS-EXT-SRV-ATTR:host"] == host
    body = build_server(image, host="nowhere")
    assert cloud.post(f"{COMPUTE}/servers", body, user="admin", version="2.96").status_code == 400


def test_update(cloud):
    server = boot(cloud, add_image(cloud))
    path = f"{COMPUTE}/servers/{server}"
    fields = {
        "name": "db1",
        "description": "x",
        "accessIPv4": "10.9.9.9",
        "accessIPv6": "2001:DB8:0::1",
        "hostname": "db1.example",
    }
    answer = cloud.put(path, {"server": fields}, version="2.96")
    assert answer.status_code == 200
    shown = answer.json["server"]
    assert (shown["name"], shown["accessIPv4"], shown["OS-EXT-SRV-ATTR:hostname"]) == ("db1", "10.9.9.9", "db1.example")
    assert shown["accessIPv6"] == "2001:db8::1"
    assert cloud.put(path, {"server": {}}, version="2.96").json["server"]["name"] == "db1"
    for bad in ({"name": LONG}, {"status": "ACTIVE"}, {"accessIPv4": "nope"}, {"hostname": "a b"}):
        assert cloud.put(path, {"server": bad}, version="2.96").status_code == 400


def test_disk_config_is_kept(cloud):
    """Said at create and update; nothing of a guest depends on it, as with the reference's own driver."""
    server = boot(cloud, add_image(cloud), **{"OS-DCF:diskConfig": "AUTO"})
    path = f"{COMPUTE}/servers/{server}"
    assert cloud.get(path).json["server"]["OS-DCF:diskConfig"] == "AUTO"
    answer = cloud.put(path, {"server": {"OS-DCF:diskConfig": "MANUAL"}})
    assert answer.json["server"]["OS-DCF:diskConfig"] == cloud.get(path).json["server"]["OS-DCF:diskConfig"] == "MANUAL"


def test_s27_other_projects_and_paths(cloud):
    """Another project's server is not there; a path's project must be the token's; readers only read."""
    server = boot(cloud, add_image(cloud))
    path = f"{COMPUTE}/servers/{server}"
    for method, body in (("GET", None), ("PUT", {"server": {"name": "x"}}), ("DELETE", None)):
        assert cloud.call(method, path, body, user="other").status_code == 404
    assert cloud.post(f"{path}/action", {"os-stop": None}, user="other").status_code == 404
    assert cloud.get(f"{COMPUTE}/servers", user="other").json["servers"] == []
    project = cloud.get(path).json["server"]["tenant_id"]
    assert cloud.get(f"{COMPUTE}/{project}/servers/{server}").status_code == 200
    answer = cloud.get(f"{COMPUTE}/{'0' * 32}/servers/{server}")
    assert answer.status_code == 400
    assert "project_id" in answer.text
    assert cloud.get(path, user="reader").status_code == 200
    image = add_image(cloud)
    for method, where, body in (
        ("POST", f"{COMPUTE}/servers", build_server(image)),
        ("DELETE", path, None),
        ("POST", f"{path}/action", {"os-stop": None}),
        ("PUT", f"{path}/tags/x", None),
        ("PUT", f"{path}/metadata", {"metadata": {}}),
    ):
        assert cloud.call(method, where, body, user="reader", version="2.96").status_code == 403
    assert cloud.get(path).json["server"]["status"] == "ACTIVE"


def test_detail_of_a_thousand_servers_takes_few_queries(cloud):
    """The number of statements does not grow with the number of servers, addresses included."""
    image, network = add_image(cloud), add_network(cloud, cidr="10.0.0.0/16")
    server = boot(cloud, image, networks=[{"uuid": network}])
    counted = []

    def count(connection, cursor, statement, *rest):
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            counted.append(statement)

    def ask() -> int:
        counted.clear()
        event.listen(cloud.database.engine, "before_cursor_execute", count)
        try:
            rows = cloud.get(f"{COMPUTE}/servers/detail?limit=1000", version="2.96").json["servers"]
        finally:
            event.remove(cloud.database.engine, "before_cursor_execute", count)
        assert all(row["addresses"]["private"] for row in rows)
        return len(rows)

    assert ask() == 1
    before = len(counted)
    _copy_server(cloud, server, network, 999)
    assert ask() == 1000
    assert len(counted) == before <= 12, "\n".join(counted)


def _copy_server(cloud, server: str, network: str, count: int) -> None:
    from web.models import Address, Subnet

    with cloud.database.write.begin() as session:
        row = session.scalar(select(Server).where(Server.id == server))
        subnet = session.scalar(select(Subnet.id).where(Subnet.network_id == network))
        taken = set(session.scalars(select(Address.address)))
        names = [column.key for column in Server.__mapper__.column_attrs if column.key not in ("number", "id")]
        values = {name: getattr(row, name) for name in names}
        for number in range(count):
            copy = Server(**values)
            session.add(copy)
            session.flush()
            port = Port(
                project_id=row.project_id,
                network_id=network,
                mac_address=f"fa:16:3e:01:{number >> 8:02x}:{number & 255:02x}",
                device_id=copy.id,
                host_id=row.host_id,
            )
            session.add(port)
            session.flush()
            address = f"10.0.{1 + (number >> 8)}.{number & 255}"
            assert address not in taken
            session.add(Address(port_id=port.id, subnet_id=subnet, address=address))
