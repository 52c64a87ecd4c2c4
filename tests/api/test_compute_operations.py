"""What operators look at and set: quotas, limits, zones, hypervisors, services, usage; and key pairs."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, boot, find_project, see_host
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from web.models import Host

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJd1m7Qn4m7rYwZy6m0rV0lq3h2c0xJ0oE7nF3bGk1yA me@here"


def admin_get(cloud, path, version="2.96"):
    return cloud.get(COMPUTE + path, user="admin", version=version)


def test_limits(cloud):
    boot(cloud, add_image(cloud))
    limits = cloud.get(f"{COMPUTE}/limits").json["limits"]
    assert limits["rate"] == []
    absolute = limits["absolute"]
    assert (absolute["maxTotalInstances"], absolute["totalInstancesUsed"]) == (10, 1)
    assert (absolute["totalCoresUsed"], absolute["totalRAMUsed"]) == (1, 512)
    demo = find_project(cloud)
    assert cloud.get(f"{COMPUTE}/limits?tenant_id={demo}", user="other").status_code == 403
    assert admin_get(cloud, f"/limits?tenant_id={demo}").json["limits"]["absolute"]["totalInstancesUsed"] == 1


def test_quota_sets(cloud):
    demo, path = find_project(cloud), f"{COMPUTE}/os-quota-sets/{find_project(cloud)}"
    boot(cloud, add_image(cloud))
    assert cloud.get(path).json["quota_set"]["instances"] == 10
    put = {"quota_set": {"instances": 3, "ram": -1}}
    assert cloud.put(path, put).status_code == 403
    assert cloud.put(path, put, user="admin").json["quota_set"]["instances"] == 3
    shown = cloud.get(path).json["quota_set"]
    assert (shown["id"], shown["instances"], shown["ram"], shown["cores"]) == (demo, 3, -1, 20)
    detail = cloud.get(f"{path}/detail").json["quota_set"]
    assert detail["instances"] == {"limit": 3, "in_use": 1, "reserved": 0}
    assert cloud.get(f"{path}/defaults").json["quota_set"]["instances"] == 10
    for bad in ({"instances": -2}, {"instances": "x"}, {"colour": 1}, {"instances": 0}, {"instances": None}):
        assert cloud.put(path, {"quota_set": bad}, user="admin").status_code == 400
    assert cloud.put(path, {"quota_set": {"instances": 0, "force": True}}, user="admin").status_code == 200
    assert cloud.get(path, user="other").status_code == 403
    assert admin_get(cloud, "/os-quota-sets/nope").status_code == 400
    assert cloud.delete(path, user="admin").status_code == 202
    assert cloud.get(path).json["quota_set"]["instances"] == 10
    assert admin_get(cloud, "/os-quota-class-sets/default").json["quota_class_set"]["cores"] == 20
    assert admin_get(cloud, "/os-quota-class-sets/nope").status_code == 404


def test_availability_zones(cloud):
    listed = cloud.get(f"{COMPUTE}/os-availability-zone").json["availabilityZoneInfo"]
    assert listed == [{"zoneName": "nova", "zoneState": {"available": True}, "hosts": None}]
    assert cloud.get(f"{COMPUTE}/os-availability-zone/detail").status_code == 403
    detail = admin_get(cloud, "/os-availability-zone/detail").json["availabilityZoneInfo"][0]
    service = detail["hosts"][cloud.settings.kumo.hostname]["nova-compute"]
    assert (service["active"], service["available"]) == (True, True)


def test_hypervisors(cloud):
    """Sizes as they were seen, use as it was given out, guests where they are asked for."""
    server = boot(cloud, add_image(cloud))
    host = cloud.settings.kumo.hostname
    assert cloud.get(f"{COMPUTE}/os-hypervisors").status_code == 403
    listed = admin_get(cloud, "/os-hypervisors?with_servers=true").json["hypervisors"]
    assert listed[0]["servers"] == [{"name": f"kumo-{server}", "uuid": server}]
    assert (listed[0]["state"], listed[0]["status"]) == ("up", "enabled")
    shown = admin_get(cloud, f"/os-hypervisors/{listed[0]['id']}", "2.87").json["hypervisor"]
    assert (shown["vcpus"], shown["vcpus_used"], shown["memory_mb_used"]) == (8, 1, 512)
    assert shown["service"]["host"] == host
    sums = admin_get(cloud, "/os-hypervisors/statistics", "2.87").json["hypervisor_statistics"]
    assert (sums["count"], sums["running_vms"]) == (1, 1)
    uptime = admin_get(cloud, f"/os-hypervisors/{listed[0]['id']}/uptime", "2.87").json["hypervisor"]["uptime"]
    assert "load average: 0.10" in uptime
    assert len(admin_get(cloud, f"/os-hypervisors?hypervisor_hostname_pattern={host[:2]}").json["hypervisors"]) == 1
    assert admin_get(cloud, "/os-hypervisors?hypervisor_hostname_pattern=nope").status_code == 404
    assert admin_get(cloud, "/os-hypervisors/nope").status_code == 404
    assert admin_get(cloud, "/os-hypervisors?marker=nope").status_code == 400
    assert admin_get(cloud, f"/os-hypervisors/{host[:2]}/servers", "2.52").json["hypervisors"][0]["servers"]
    assert admin_get(cloud, "/os-hypervisors/nope/search", "2.52").status_code == 404


def test_services(cloud):
    """A disabled host gets no guests; forced down it counts as down."""
    host = cloud.settings.kumo.hostname
    service = admin_get(cloud, "/os-services").json["services"][0]
    assert (service["host"], service["state"], service["status"]) == (host, "up", "enabled")
    path = f"{COMPUTE}/os-services/{service['id']}"
    body = {"status": "disabled", "disabled_reason": "maintenance", "forced_down": True}
    changed = cloud.put(path, body, user="admin", version="2.53").json["service"]
    assert (changed["status"], changed["disabled_reason"], changed["state"]) == ("disabled", "maintenance", "down")
    image = add_image(cloud)
    server = boot(cloud, image, see=False)
    assert cloud.get(f"{COMPUTE}/servers/{server}").json["server"]["status"] == "ERROR"
    for bad in ({}, {"status": "odd"}, {"disabled_reason": "x"}, {"colour": 1}):
        assert cloud.put(path, bad, user="admin", version="2.53").status_code == 400
    assert cloud.put(path, {"status": "enabled"}, version="2.53").status_code == 403
    assert cloud.put(f"{COMPUTE}/os-services/nope", body, user="admin", version="2.53").status_code == 404
    old = {"host": host, "binary": "nova-compute"}
    for name, fields, key, value in (
        ("enable", old, "status", "enabled"),
        ("disable", old, "status", "disabled"),
        ("disable-log-reason", {**old, "disabled_reason": "x"}, "disabled_reason", "x"),
        ("force-down", {**old, "forced_down": False}, "forced_down", False),
    ):
        answer = cloud.put(f"{COMPUTE}/os-services/{name}", fields, user="admin", version="2.52")
        assert answer.json["service"][key] == value
    cloud.put(f"{COMPUTE}/os-services/enable", old, user="admin", version="2.52")
    second = f"{COMPUTE}/os-services"
    assert cloud.delete(f"{second}/{service['id']}", user="admin", version="2.52").status_code == 404  # no number
    assert cloud.delete(f"{second}/{service['id']}", version="2.53").status_code == 403
    alive = boot(cloud, image)
    refused = cloud.delete(f"{second}/{service['id']}", user="admin", version="2.53")
    assert (refused.status_code, "hosting instances" in refused.text) == (409, True)
    cloud.delete(f"{COMPUTE}/servers/{alive}")
    see_host(cloud)
    number = admin_get(cloud, "/os-services", "2.52").json["services"][0]["id"]
    assert cloud.delete(f"{second}/{number}", user="admin", version="2.52").status_code == 204
    assert admin_get(cloud, "/os-services").json["services"] == []
    assert admin_get(cloud, "/os-hypervisors").json["hypervisors"] == []
    assert cloud.get(f"{COMPUTE}/servers/{boot(cloud, image)}").json["server"]["status"] == "ERROR"
    with cloud.database.write.begin() as session:
        session.get(Host, service["id"]).roles = ["hypervisor"]
    assert admin_get(cloud, "/os-services?binary=nova-scheduler").json["services"] == []
    assert admin_get(cloud, "/os-services?host=nope").json["services"] == []


def test_usage(cloud):
    """Hours of servers, also of those that are gone; others' only to admins."""
    server, demo = boot(cloud, add_image(cloud)), find_project(cloud)
    usage = cloud.get(f"{COMPUTE}/os-simple-tenant-usage/{demo}").json["tenant_usage"]
    assert usage["server_usages"][0]["instance_id"] == server
    assert usage["total_hours"] >= 0
    cloud.delete(f"{COMPUTE}/servers/{server}")
    see_host(cloud)
    every = admin_get(cloud, "/os-simple-tenant-usage?detailed=1").json["tenant_usages"]
    assert every[0]["server_usages"][0]["state"] == "terminated"
    assert cloud.get(f"{COMPUTE}/os-simple-tenant-usage/{demo}", user="other").status_code == 403
    assert cloud.get(f"{COMPUTE}/os-simple-tenant-usage").status_code == 403
    assert cloud.get(f"{COMPUTE}/os-simple-tenant-usage/{demo}?start=x").status_code == 400
    late = "start=2026-02-01T00:00:00&end=2026-01-01T00:00:00"
    assert cloud.get(f"{COMPUTE}/os-simple-tenant-usage/{demo}?{late}").status_code == 400


def test_extensions(cloud):
    listed = cloud.get(f"{COMPUTE}/extensions").json["extensions"]
    assert "os-keypairs" in [one["alias"] for one in listed]
    assert cloud.get(f"{COMPUTE}/extensions/os-keypairs").json["extension"]["name"] == "Keypairs"
    assert cloud.get(f"{COMPUTE}/extensions/os-fping").status_code == 404


def test_keypairs(cloud):
    """A generated key's private half is in one answer only; an admin sees others' from 2.10 on."""
    path = f"{COMPUTE}/os-keypairs"
    made = cloud.post(path, {"keypair": {"name": "k1"}}, version="2.91").json["keypair"]
    assert made["private_key"].startswith("-----BEGIN")
    assert cloud.post(path, {"keypair": {"name": "k1"}}, version="2.91").status_code == 409
    assert "private_key" not in cloud.get(f"{path}/k1").json["keypair"]
    imported = cloud.post(path, {"keypair": {"name": "me@here.x", "public_key": ED25519}}, version="2.92")
    assert imported.status_code == 201, imported.text
    assert "private_key" not in imported.json["keypair"]
    assert cloud.get(f"{path}/k1", user="other").status_code == 404
    user = made["user_id"]
    assert cloud.get(f"{path}/k1?user_id={user}", user="admin", version="2.9").status_code == 404
    assert cloud.get(f"{path}/k1?user_id={user}", user="admin", version="2.10").status_code == 200
    assert cloud.get(f"{path}?user_id={user}", user="other", version="2.10").status_code == 403
    first = cloud.get(f"{path}?limit=1", version="2.35").json
    assert [one["keypair"]["name"] for one in first["keypairs"]] == ["k1"]
    rest = cloud.get(f"{path}?marker=k1", version="2.35").json
    assert [one["keypair"]["name"] for one in rest["keypairs"]] == ["me@here.x"]
    assert cloud.get(f"{path}?marker=nope", version="2.35").status_code == 400
    assert cloud.delete(f"{path}/k1", version="2.2").status_code == 204
    assert cloud.delete(f"{path}/k1").status_code == 404


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"name": "a/b"},
        {"name": "a.b"},
        {"name": "a\n"},
        {"name": 5},
        {},
        {"name": "k", "public_key": "nonsense"},
        {"name": "k", "public_key": "ssh-rsa AAAA"},
        {"name": "k", "type": "x509", "public_key": ED25519},
        {"name": "k", "type": "pgp"},
        {"name": "k", "colour": "red"},
    ],
)
def test_keypairs_refuse(cloud, fields):
    assert cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": fields}, version="2.91").status_code == 400


def test_a_certificate(cloud):
    """Made, with the user's principal name, or brought; the private half is in the first answer alone."""
    path = f"{COMPUTE}/os-keypairs"
    made = cloud.post(path, {"keypair": {"name": "win", "type": "x509"}}, version="2.2").json["keypair"]
    certificate = x509.load_pem_x509_certificate(made["public_key"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert made["user_id"].encode() + b"@localhost" in names[0].value
    key = serialization.load_pem_private_key(made["private_key"].encode(), None)
    assert key.public_key() == certificate.public_key()
    assert len(made["fingerprint"].split(":")) == 20
    shown = cloud.get(f"{path}/win", version="2.2").json["keypair"]
    assert (shown["type"], shown["public_key"], "private_key" in shown) == ("x509", made["public_key"], False)
    body = {"name": "again", "type": "x509", "public_key": made["public_key"]}
    assert cloud.post(path, {"keypair": body}, version="2.92").json["keypair"]["fingerprint"] == made["fingerprint"]


def test_quota_of_keypairs(cloud):
    demo = find_project(cloud)
    cloud.put(f"{COMPUTE}/os-quota-sets/{demo}", {"quota_set": {"key_pairs": 0}}, user="admin")
    answer = cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": {"name": "k"}})
    assert answer.status_code == 403
    assert "too many key pairs" in answer.text


def test_a_host_that_was_never_seen_takes_no_guest(cloud):
    """Its size is not known; the fault says that it is down."""
    from sqlalchemy import select

    with cloud.database.write.begin() as session:
        host = session.scalar(select(Host))
        host.observed, host.observed_at = {}, None
    server = boot(cloud, add_image(cloud), see=False)
    fault = cloud.get(f"{COMPUTE}/servers/{server}", user="admin").json["server"]["fault"]
    assert "it is down" in fault["details"]
