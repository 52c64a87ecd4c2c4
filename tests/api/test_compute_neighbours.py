"""The Compute API's older words for images, networks and volumes: os-floating-ips, os-floating-ip-pools,
os-security-groups, os-security-group-rules, os-networks, os-tenant-networks, images, os-volumes, os-snapshots; and
os-floating-ips-bulk, os-security-group-default-rules, which are gone."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, add_network, boot, find_project
from volume_calls import Storage

from web.app import create_app

NETWORKING = "/networking/v2.0"
NOBODY = "00000000-0000-4000-8000-000000000007"


def call(cloud, method: str, path: str, body=None, status: int = 200, **options):
    """The answer's body; the status is checked."""
    answer = cloud.call(method, f"{COMPUTE}{path}", body, **{"version": "2.1", **options})
    assert answer.status_code == status, answer.text
    return answer.get_json(silent=True)


@pytest.fixture
def site(cloud):
    """(server, its network) behind a router that leads outside."""
    network = add_network(cloud)
    server = boot(cloud, add_image(cloud), networks=[{"uuid": network}])
    router = cloud.post(f"{NETWORKING}/routers", {"router": {"name": "r"}}).json["router"]["id"]
    subnet = cloud.get(f"{NETWORKING}/subnets?network_id={network}").json["subnets"][0]["id"]
    cloud.put(f"{NETWORKING}/routers/{router}/add_router_interface", {"subnet_id": subnet})
    public = cloud.get(f"{NETWORKING}/networks?router:external=true").json["networks"][0]["id"]
    gateway = {"router": {"external_gateway_info": {"network_id": public}}}
    assert cloud.put(f"{NETWORKING}/routers/{router}", gateway).status_code == 200
    return server, network


LISTS = [
    ("/os-floating-ips", "floating_ips", "2.35"),
    ("/os-floating-ip-pools", "floating_ip_pools", "2.35"),
    ("/os-security-groups", "security_groups", "2.35"),
    ("/os-networks", "networks", "2.35"),
    ("/os-tenant-networks", "networks", "2.35"),
    ("/images", "images", "2.35"),
    ("/images/detail", "images", "2.35"),
    ("/images/{image}/metadata", "metadata", "2.38"),
    ("/os-volumes", "volumes", "2.35"),
    ("/os-volumes/detail", "volumes", "2.35"),
    ("/os-snapshots", "snapshots", "2.35"),
    ("/os-snapshots/detail", "snapshots", "2.35"),
]


def test_until_when_they_are_there(cloud):
    image = add_image(cloud)
    for path, key, last in LISTS:
        url = path.format(image=image)
        assert key in call(cloud, "GET", url, version=last), path
        call(cloud, "GET", url, status=404, version=f"2.{int(last[2:]) + 1}")


def test_floating_ips(cloud, site):
    server, _ = site
    assert call(cloud, "GET", "/os-floating-ip-pools") == {"floating_ip_pools": [{"name": "public"}]}
    made = call(cloud, "POST", "/os-floating-ips", {"pool": "public"})["floating_ip"]
    assert set(made) == {"id", "ip", "fixed_ip", "instance_id", "pool"}
    assert (made["pool"], made["fixed_ip"], made["instance_id"]) == ("public", None, None)
    call(cloud, "POST", "/os-floating-ips", {"pool": "nope"}, 404)
    second = call(cloud, "POST", "/os-floating-ips", {"pool": None})["floating_ip"]
    action = f"/servers/{server}/action"

    def act(name: str, status: int, version: str = "2.1", **fields):
        return call(cloud, "POST", action, {name: fields}, status, version=version)

    act("addFloatingIp", 202, address=made["ip"])
    shown = call(cloud, "GET", f"/os-floating-ips/{made['id']}")["floating_ip"]
    assert (shown["instance_id"], shown["fixed_ip"]) == (server, "10.0.0.2")
    assert {one["id"] for one in call(cloud, "GET", "/os-floating-ips")["floating_ips"]} == {made["id"], second["id"]}
    act("addFloatingIp", 404, address="198.51.100.1")
    act("addFloatingIp", 400, address=second["ip"], fixed_address="10.0.0.9")
    act("addFloatingIp", 400, address=second["ip"])  # its only address has one
    act("removeFloatingIp", 409, address=second["ip"])
    act("removeFloatingIp", 202, version="2.43", address=made["ip"])
    act("removeFloatingIp", 404, version="2.44", address=made["ip"])
    act("addFloatingIp", 404, version="2.44", address=made["ip"])
    assert call(cloud, "GET", f"/os-floating-ips/{made['id']}")["floating_ip"]["instance_id"] is None
    call(cloud, "GET", f"/os-floating-ips/{made['id']}", status=404, user="other")
    call(cloud, "DELETE", f"/os-floating-ips/{made['id']}", status=404, user="other")
    call(cloud, "DELETE", f"/os-floating-ips/{made['id']}", status=202)
    call(cloud, "DELETE", f"/os-floating-ips/{made['id']}", status=404)
    error = call(cloud, "GET", f"/os-floating-ips/{NOBODY}", status=404)
    assert set(error) == {"itemNotFound"}  # compute's own format


def test_security_groups(cloud):
    body = {"security_group": {"name": "web", "description": "the web"}}
    made = call(cloud, "POST", "/os-security-groups", body)["security_group"]
    assert set(made) == {"id", "name", "description", "tenant_id", "rules"}
    assert (made["name"], made["rules"], made["tenant_id"]) == ("web", [], find_project(cloud))
    one = f"/os-security-groups/{made['id']}"
    rule = {"parent_group_id": made["id"], "ip_protocol": "TCP", "from_port": "22", "to_port": 22}
    first = call(cloud, "POST", "/os-security-group-rules", {"security_group_rule": rule})["security_group_rule"]
    assert first == {
        "id": first["id"], "parent_group_id": made["id"], "ip_protocol": "tcp", "from_port": 22, "to_port": 22,
        "group": {}, "ip_range": {"cidr": "0.0.0.0/0"},
    }  # fmt: skip
    call(cloud, "POST", "/os-security-group-rules", {"security_group_rule": rule}, 400)
    grouped = {**rule, "from_port": 80, "to_port": 81, "group_id": made["id"]}
    second = call(cloud, "POST", "/os-security-group-rules", {"security_group_rule": grouped})["security_group_rule"]
    assert (second["group"]["name"], second["ip_range"]) == ("web", {})
    six = {"parent_group_id": made["id"], "ip_protocol": "icmp", "from_port": -1, "to_port": -1, "cidr": "::/0"}
    third = call(cloud, "POST", "/os-security-group-rules", {"security_group_rule": six})["security_group_rule"]
    assert third["from_port"] is None
    for wrong in ({**grouped, "cidr": "10.0.0.0/8"}, {**rule, "cidr": "x"}, {**rule, "from_port": 70000}, {}):
        call(cloud, "POST", "/os-security-group-rules", {"security_group_rule": wrong}, 400)
    ids = {one["id"] for one in call(cloud, "GET", one)["security_group"]["rules"]}
    assert ids == {first["id"], second["id"], third["id"]}
    call(cloud, "DELETE", f"/os-security-group-rules/{first['id']}", status=202)
    call(cloud, "DELETE", f"/os-security-group-rules/{first['id']}", status=404)
    changed = {"security_group": {"name": "www", "description": "x"}}
    assert call(cloud, "PUT", one, changed)["security_group"]["name"] == "www"
    names = {group["name"] for group in call(cloud, "GET", "/os-security-groups")["security_groups"]}
    assert names == {"default", "www"}
    for method in ("GET", "DELETE"):
        call(cloud, method, one, status=404, user="other")
    call(cloud, "POST", "/os-security-groups", {"security_group": {"name": ""}}, 400)
    call(cloud, "DELETE", one, status=202)
    call(cloud, "GET", one, status=404)


def test_networks(cloud):
    network = add_network(cloud)
    theirs = add_network(cloud, "other", "10.7.0.0/24")
    labels = {one["id"]: one["label"] for one in call(cloud, "GET", "/os-networks")["networks"]}
    assert labels[network] == "private"
    assert theirs not in labels
    shown = call(cloud, "GET", f"/os-networks/{network}")["network"]
    assert (shown["label"], shown["bridge"]) == ("private", None)
    brief = call(cloud, "GET", f"/os-tenant-networks/{network}")["network"]
    assert brief == {"id": network, "label": "private", "cidr": "None"}
    call(cloud, "GET", f"/os-networks/{theirs}", status=404)


def test_images(cloud):
    project = find_project(cloud)
    image = add_image(cloud, name="mine", project_id=project, properties={"a": "1"}, min_disk=1, min_ram=64)
    other = add_image(cloud, name="big", project_id=project, min_disk=9)
    private = add_image(cloud, project_id=find_project(cloud, "other"), visibility="private")
    shown = call(cloud, "GET", f"/images/{image}")["image"]
    assert set(shown) == {
        "id", "name", "links", "status", "progress", "created", "updated", "minDisk", "minRam", "metadata",
        "OS-EXT-IMG-SIZE:size",
    }  # fmt: skip
    assert (shown["status"], shown["progress"], shown["metadata"]) == ("ACTIVE", 100, {"a": "1"})
    assert [link["rel"] for link in shown["links"]] == ["self", "bookmark", "alternate"]
    for query, expected in (
        ("", {image, other}),
        ("?name=mine", {image}),
        ("?minDisk=2", {other}),
        ("?minRam=64", {image}),
        ("?status=SAVING", set()),
        ("?changes-since=2999-01-01T00:00:00Z", set()),
        (f"?server={NOBODY}", set()),
    ):
        assert {one["id"] for one in call(cloud, "GET", f"/images/detail{query}")["images"]} == expected, query
    assert len(call(cloud, "GET", "/images?limit=1")["images"]) == 1
    call(cloud, "GET", "/images?minDisk=x", status=400)
    call(cloud, "GET", f"/images/{private}", status=404)
    meta = f"/images/{image}/metadata"
    assert call(cloud, "POST", meta, {"metadata": {"b": "2"}}) == {"metadata": {"a": "1", "b": "2"}}
    assert call(cloud, "PUT", f"{meta}/b", {"meta": {"b": "3"}}) == {"meta": {"b": "3"}}
    assert call(cloud, "GET", f"{meta}/b") == {"meta": {"b": "3"}}
    call(cloud, "PUT", f"{meta}/b", {"meta": {"c": "3"}}, 400)
    assert call(cloud, "PUT", meta, {"metadata": {"c": "4"}}, version="2.38") == {"metadata": {"c": "4"}}
    call(cloud, "DELETE", f"{meta}/c", status=204)
    call(cloud, "DELETE", f"{meta}/c", status=404)
    call(cloud, "GET", f"{meta}/c", status=404)
    assert call(cloud, "GET", meta) == {"metadata": {}}
    call(cloud, "POST", meta, {"metadata": {str(n): "x" for n in range(129)}}, 403)
    call(cloud, "POST", meta, {"metadata": {"x": 1}}, 400)
    call(cloud, "POST", meta, {"metadata": {"x": "1"}}, 403, user="other")
    call(cloud, "DELETE", f"/images/{image}", status=403, user="other")
    call(cloud, "DELETE", f"/images/{image}", status=204)
    call(cloud, "GET", f"/images/{image}", status=404)


def test_volumes_and_snapshots(cloud):
    storage = Storage(cloud)
    body = {"volume": {"size": 1, "display_name": "v", "display_description": "d", "metadata": {"a": "1"}}}
    made = call(cloud, "POST", "/os-volumes", body)["volume"]
    assert set(made) == {
        "id", "status", "size", "displayName", "displayDescription", "availabilityZone", "volumeType", "snapshotId",
        "metadata", "createdAt", "attachments",
    }  # fmt: skip
    assert (made["displayName"], made["displayDescription"], made["attachments"]) == ("v", "d", [{}])
    storage.run()
    one = f"/os-volumes/{made['id']}"
    assert call(cloud, "GET", one)["volume"]["status"] == "available"
    assert [volume["id"] for volume in call(cloud, "GET", "/os-volumes/detail")["volumes"]] == [made["id"]]
    snapshot = {"snapshot": {"volume_id": made["id"], "display_name": "s"}}
    shot = call(cloud, "POST", "/os-snapshots", snapshot)["snapshot"]
    assert (shot["volumeId"], shot["displayName"], shot["size"]) == (made["id"], "s", 1)
    storage.run()
    assert call(cloud, "GET", f"/os-snapshots/{shot['id']}")["snapshot"]["status"] == "available"
    assert len(call(cloud, "GET", "/os-snapshots")["snapshots"]) == 1
    for method, path in (("GET", one), ("DELETE", one), ("GET", f"/os-snapshots/{shot['id']}")):
        call(cloud, method, path, status=404, user="other")
    call(cloud, "DELETE", f"/os-snapshots/{shot['id']}", status=202)
    storage.run()
    call(cloud, "DELETE", one, status=202)
    storage.run()
    call(cloud, "GET", one, status=404)
    for wrong in ({}, {"size": 0}, {"size": "x"}, {"size": 1, "what": 1}):
        call(cloud, "POST", "/os-volumes", {"volume": wrong}, 400)
    call(cloud, "POST", "/os-snapshots", {"snapshot": {"volume_id": NOBODY}}, 404)
    storage.worker.pool.shutdown()


def test_what_a_reader_may_not_do_by_older_words_either(cloud):
    """The permission of the older word and that of the other service must both be had."""
    image = add_image(cloud, project_id=find_project(cloud))
    for method, path, body in (
        ("POST", "/os-floating-ips", {"pool": None}),
        ("POST", "/os-security-groups", {"security_group": {"name": "g"}}),
        ("DELETE", f"/images/{image}", None),
        ("POST", f"/images/{image}/metadata", {"metadata": {"a": "1"}}),
        ("POST", "/os-volumes", {"volume": {"size": 1}}),
    ):
        call(cloud, method, path, body, 403, user="reader")


def test_an_operators_policy_of_the_other_service_holds(cloud, settings):
    with open(settings.policy.file, "w", encoding="utf-8") as stream:
        stream.write('"network:floatingips:create": "!"\n')
    strict = create_app(settings, database=cloud.database).test_client()
    answer = strict.post(
        f"{COMPUTE}/os-floating-ips", json={"pool": None}, headers={"X-Auth-Token": cloud.login("demo")}
    )
    assert answer.status_code == 403


def test_what_went_with_nova_network(cloud):
    for method, path in (
        ("POST", "/os-networks"),
        ("DELETE", f"/os-networks/{NOBODY}"),
        ("POST", f"/os-networks/{NOBODY}/action"),
        ("POST", "/os-tenant-networks"),
        ("GET", "/os-floating-ips-bulk"),
        ("GET", "/os-security-group-default-rules"),
        ("DELETE", f"/os-security-group-default-rules/{NOBODY}"),
    ):
        call(cloud, method, path, {} if method == "POST" else None, 410, user="admin")
