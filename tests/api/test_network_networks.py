"""Networks of the Network API: who sees and changes what, lists, tags, quotas, refusals."""

from __future__ import annotations

import pytest
from network_calls import Network


@pytest.fixture
def net(cloud):
    return Network(cloud)


def test_a_network_lives_and_dies(net):
    made = net.make("networks", name="a", description="d")
    assert made["status"] == "ACTIVE"
    assert made["mtu"] == 1500
    assert made["project_id"] == made["tenant_id"] == net.project("demo")
    assert made["revision_number"] == 1
    assert "provider:network_type" not in made
    changed = net.change("networks", made["id"], name="b", mtu=1400, dns_domain="example.org.")
    assert (changed["name"], changed["mtu"], changed["revision_number"]) == ("b", 1400, 2)
    net.remove("networks", made["id"])
    net.refuse(404, "NetworkNotFound", "GET", f"/networks/{made['id']}")


def test_admin_sees_how_it_is_made(net):
    made = net.make("networks", user="admin", **{"provider:network_type": "vxlan"})
    assert made["provider:segmentation_id"] == 1
    assert made["mtu"] == 1450
    again = net.make("networks", user="admin", **{"provider:network_type": "vxlan"})
    assert again["provider:segmentation_id"] == 2
    net.refuse_new(
        409,
        "TunnelIdInUse",
        "networks",
        user="admin",
        **{"provider:network_type": "vxlan", "provider:segmentation_id": 2},
    )


@pytest.mark.parametrize(
    ("user", "status", "kind", "attributes"),
    [
        ("demo", 400, "BadRequest", {"name": "n" * 256}),
        ("demo", 400, "BadRequest", {"name": "a\x00b"}),
        ("demo", 400, "BadRequest", {"surprise": 1}),
        ("demo", 400, "BadRequest", {"admin_state_up": "perhaps"}),
        ("demo", 400, "InvalidInput", {"mtu": 9001}),
        ("demo", 403, "PolicyNotAuthorized", {"shared": True}),
        ("demo", 403, "PolicyNotAuthorized", {"router:external": True}),
        ("demo", 403, "PolicyNotAuthorized", {"provider:network_type": "vxlan"}),
        ("demo", 400, "BadRequest", {"project_id": "f" * 32}),
        ("reader", 403, "PolicyNotAuthorized", {"name": "a"}),
        ("admin", 400, "InvalidInput", {"provider:network_type": "flat"}),
        ("admin", 400, "InvalidInput", {"provider:network_type": "vlan", "provider:physical_network": "moon"}),
        ("admin", 400, "InvalidInput", {"provider:segmentation_id": 5}),
        ("admin", 409, "FlatNetworkInUse", {"provider:network_type": "flat", "provider:physical_network": "public"}),
        ("admin", 400, "BadRequest", {"is_default": True}),
    ],
)
def test_refused_creations(net, user, status, kind, attributes):
    message = net.refuse_new(status, kind, "networks", user=user, **attributes)
    field = next(iter(attributes))
    if kind == "BadRequest":
        assert field in message


@pytest.mark.parametrize("body", ["", "no json", "[]", '{"network": 1}', '{"net": {}}', '{"networks": []}'])
def test_bodies_that_are_none(net, body):
    net.refuse(400, "BadRequest", "POST", "/networks", body)


def test_another_projects_network_is_not_there(net):
    other = net.make("networks", user="other")
    for method, body in (("GET", None), ("PUT", {"network": {"name": "x"}}), ("DELETE", None)):
        net.refuse(404, "NetworkNotFound", method, f"/networks/{other['id']}", body)
    assert other["id"] not in [one["id"] for one in net.list("networks")]
    assert other["id"] in [one["id"] for one in net.list("networks", user="admin")]


def test_shared_and_external_ones_are_seen_but_not_changed(net):
    shared = net.make("networks", user="admin", shared=True)
    for row in (shared, net.public()):
        assert net.read("networks", row["id"])["id"] == row["id"]
        net.refuse_change(403, "PolicyNotAuthorized", "networks", row["id"], name="mine")
        net.refuse(403, "PolicyNotAuthorized", "DELETE", f"/networks/{row['id']}")
        net.refuse_new(
            403, "PolicyNotAuthorized", "subnets", network_id=row["id"], ip_version=4, cidr="10.9.0.0/24"
        )  # fmt: skip
    net.make("ports", network_id=shared["id"])
    net.refuse_change(409, "InvalidSharedSetting", "networks", shared["id"], user="admin", shared=False)
    net.refuse_new(403, "PolicyNotAuthorized", "ports", network_id=net.public()["id"])


def test_bulk_is_all_or_nothing(net):
    answer = net.send("POST", "/networks", {"networks": [{"name": "a"}, {"name": "b"}]})
    assert [one["name"] for one in answer.json["networks"]] == ["a", "b"]
    net.limit("network", 3)
    net.refuse(409, "OverQuota", "POST", "/networks", {"networks": [{"name": "c"}, {"name": "d"}]})
    assert len(net.list("networks", "router:external=false")) == 2


def test_quota(net):
    net.limit("network", 1)
    net.make("networks")
    assert "network" in net.refuse_new(409, "OverQuota", "networks")
    net.make("networks", user="other")


def test_filters(net):
    a = net.make("networks", name="a", description="x")
    b = net.make("networks", name="b", admin_state_up=False)

    def found(query):
        return {one["id"] for one in net.list("networks", query)} - {net.public()["id"]}

    assert found("name=a") == {a["id"]}
    assert found("name=a&name=b") == {a["id"], b["id"]}
    assert found("admin_state_up=False") == {b["id"]}
    assert found("status=ACTIVE") == {a["id"], b["id"]}
    assert found("status=DOWN") == set()
    assert found(f"tenant_id={net.project('other')}") == set()
    assert found(f"project_id={net.project('demo')}&description=x") == {a["id"]}
    assert found("router:external=true") == set()
    assert found(f"id={b['id']}") == {b["id"]}
    net.refuse(400, "HTTPBadRequest", "GET", "/networks?surprise=1")
    net.refuse(400, "InvalidInput", "GET", "/networks?shared=perhaps")
    assert [set(one) for one in net.list("networks", "name=a&fields=id&fields=mtu")] == [{"id", "mtu"}]


def test_pages_in_both_directions(net):
    for name in "dbca":
        net.make("networks", name=name)
    first = net.send("GET", "/networks?router:external=false&sort_key=name&sort_dir=asc&limit=3").json
    assert [one["name"] for one in first["networks"]] == ["a", "b", "c"]
    link = first["networks_links"][0]["href"].split("/v2.0", 1)[1]
    assert [one["name"] for one in net.send("GET", link).json["networks"]] == ["d"]
    marker = net.list("networks", "name=d")[0]["id"]
    query = f"router:external=false&sort_key=name&sort_dir=asc&limit=2&marker={marker}&page_reverse=True"
    assert [one["name"] for one in net.list("networks", query)] == ["b", "c"]
    net.refuse(400, "BadRequest", "GET", "/networks?sort_key=moon")
    net.refuse(400, "BadRequest", "GET", "/networks?limit=-1")


def test_tags(net):
    a, b = net.make("networks", name="a"), net.make("networks", name="b")
    path = f"/networks/{a['id']}/tags"
    assert net.send("PUT", path, {"tags": ["red", "blue"]}).json == {"tags": ["blue", "red"]}
    assert net.send("PUT", path + "/green").status_code == 201
    assert net.send("GET", path + "/green").status_code == 204
    assert net.send("DELETE", path + "/red").status_code == 204
    net.refuse(404, "TagNotFound", "DELETE", path + "/red")
    net.refuse(400, "BadRequest", "PUT", path, {"tags": ["t" * 256]})
    net.refuse(404, "NetworkNotFound", "PUT", path, {"tags": []}, user="other")
    assert [one["id"] for one in net.list("networks", "tags=blue,green")] == [a["id"]]
    assert net.list("networks", "tags=blue,red") == []
    assert [one["id"] for one in net.list("networks", "tags-any=blue,red")] == [a["id"]]
    assert b["id"] in [one["id"] for one in net.list("networks", "not-tags-any=blue")]
    assert net.send("DELETE", path).status_code == 204
    assert net.read("networks", a["id"])["tags"] == []


def test_version_documents_need_no_token(net):
    documents = net.cloud.get("/networking/", user=None).json["versions"]
    assert documents[0]["id"] == "v2.0"
    assert documents[0]["links"][0]["href"].endswith("/networking/v2.0/")
    assert net.send("GET", "/", user=None).json["resources"]
    assert net.send("GET", "/networks", user=None).status_code == 401


def test_extensions(net):
    aliases = {one["alias"] for one in net.list("extensions")}
    assert {"router", "external-net", "security-group", "quotas", "binding"} <= aliases
    assert net.send("GET", "/extensions/router").json["extension"]["alias"] == "router"
    net.refuse(404, "HTTPNotFound", "GET", "/extensions/moon")


def test_quotas_are_read_and_set(net):
    demo = net.project("demo")
    assert net.send("GET", f"/quotas/{demo}").json["quota"]["network"] == 100
    net.refuse(403, "PolicyNotAuthorized", "PUT", f"/quotas/{demo}", {"quota": {"network": 1}})
    changed = net.send("PUT", f"/quotas/{demo}", {"quota": {"network": 1, "check_limit": False}}, user="admin")
    assert changed.json["quota"]["network"] == 1
    net.make("networks")
    details = net.send("GET", f"/quotas/{demo}/details.json").json["quota"]["network"]
    assert details == {"limit": 1, "used": 1, "reserved": 0}
    refused = {"quota": {"network": 0, "check_limit": True}}
    net.refuse(400, "QuotaLimitLowerThanCurrentUsage", "PUT", f"/quotas/{demo}", refused, user="admin")
    assert net.send("GET", f"/quotas/{demo}/default").json["quota"]["network"] == 100
    assert [one["project_id"] for one in net.send("GET", "/quotas", user="admin").json["quotas"]] == [demo]
    net.refuse(404, "TenantQuotaNotFound", "GET", f"/quotas/{net.project('other')}")
    assert net.send("DELETE", f"/quotas/{demo}", user="admin").status_code == 204
    assert net.send("GET", f"/quotas/{demo}").json["quota"]["network"] == 100
    net.refuse(400, "BadRequest", "PUT", f"/quotas/{demo}", {"quota": {"moons": 1}}, user="admin")


def test_zones_and_availability(net):
    assert [one["name"] for one in net.list("availability_zones")] == ["nova"]
    network = net.make("networks")
    net.make("subnets", network_id=network["id"], ip_version=4, cidr="10.0.0.0/24")
    net.make("ports", network_id=network["id"])
    answer = net.send("GET", f"/network-ip-availabilities/{network['id']}", user="admin").json
    shown = answer["network_ip_availability"]
    assert (shown["total_ips"], shown["used_ips"]) == (253, 1)
    assert net.send("GET", "/network-ip-availabilities").status_code == 403


def test_a_change_reaches_the_hosts_that_hold_the_network(net):
    network = net.make("networks")
    port = net.make("ports", network_id=network["id"])
    before = net.generation()
    net.change("networks", network["id"], mtu=1400)
    assert net.generation() == before
    net.bind(port["id"])
    net.change("networks", network["id"], mtu=1300)
    assert net.generation() == before + 1


def test_zones_of_conntrack_are_the_lowest_free(net):
    from sqlalchemy import select

    from web.models import Network as Row

    made = [net.make("networks")["id"] for _ in range(3)]
    net.remove("networks", made[1])
    made.append(net.make("networks")["id"])
    with net.cloud.database.read() as session:
        zones = dict(session.execute(select(Row.id, Row.zone)).all())
    assert [zones[made[0]], zones[made[2]], zones[made[3]]] == [2, 4, 3]
