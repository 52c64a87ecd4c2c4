"""Regions, services and endpoints: what operators make, change and take out is what tokens' catalogs hold."""

from __future__ import annotations

V3 = "/identity/v3"
DEFAULT = {"id": "default"}


def read_catalog(cloud, user="demo"):
    """{type: {(region, interface): url}} of a new token, which is the same that /auth/catalog has."""
    password = {"user": {"name": user, "domain": DEFAULT, "password": f"{user}-secret"}}
    scope = {"project": {"name": user, "domain": DEFAULT}}
    body = {"auth": {"identity": {"methods": ["password"], "password": password}, "scope": scope}}
    found = cloud.http.post(f"{V3}/auth/tokens", json=body).json["token"]["catalog"]
    assert cloud.get(f"{V3}/auth/catalog", user=user).json["catalog"] == found
    return {one["type"]: {(e["region"], e["interface"]): e["url"] for e in one["endpoints"]} for one in found}


def ask(cloud, method, path, body=None, status=200, user="admin"):
    answer = cloud.call(method, V3 + path, body, user=user)
    assert answer.status_code == status, (method, path, answer.text)
    return answer.json if answer.data else None


def test_a_service_of_the_operators_own(cloud):
    """In the catalog with its first endpoint, with the project's id filled in; gone with the service."""
    builtin = read_catalog(cloud)
    service = ask(cloud, "POST", "/services", {"service": {"type": "dns", "name": "d", "description": "x"}}, 201)[
        "service"
    ]
    assert service["enabled"] is True
    assert read_catalog(cloud) == builtin
    body = {"service_id": service["id"], "interface": "public", "url": "http://d/$(project_id)s", "region": "R2"}
    endpoint = ask(cloud, "POST", "/endpoints", {"endpoint": body}, 201)["endpoint"]
    assert (endpoint["region_id"], endpoint["region"]) == ("R2", "R2")
    assert {one["id"] for one in ask(cloud, "GET", "/regions", user="demo")["regions"]} == {"RegionOne", "R2"}
    project = cloud.get(f"{V3}/auth/projects").json["projects"][0]["id"]
    assert read_catalog(cloud) == {**builtin, "dns": {("R2", "public"): f"http://d/{project}"}}
    unscoped = cloud.login("admin")
    scope = {"identity": {"methods": ["token"], "token": {"id": unscoped}}, "scope": {"system": {"all": True}}}
    told = cloud.http.post(f"{V3}/auth/tokens", json={"auth": scope}).json["token"]["catalog"]
    assert "dns" not in {one["type"] for one in told}, "a URL that needs a project is in no catalog without one"
    for path, kind in ((f"/services/{service['id']}", "service"), (f"/endpoints/{endpoint['id']}", "endpoint")):
        assert ask(cloud, "PATCH", path, {kind: {"enabled": False}})[kind]["enabled"] is False
        assert read_catalog(cloud) == builtin
        assert ask(cloud, "GET", path)[kind]["enabled"] is False
        ask(cloud, "PATCH", path, {kind: {"enabled": True}})
    ask(cloud, "PATCH", f"/endpoints/{endpoint['id']}", {"endpoint": {"url": "http://e/%(tenant_id)s"}})
    assert read_catalog(cloud)["dns"] == {("R2", "public"): f"http://e/{project}"}
    assert len(ask(cloud, "GET", f"/endpoints?service_id={service['id']}&region=R2")["endpoints"]) == 1
    assert [one["name"] for one in ask(cloud, "GET", "/services?type=dns")["services"]] == ["d"]
    ask(cloud, "DELETE", "/regions/R2", status=403)
    ask(cloud, "DELETE", f"/services/{service['id']}", status=204)
    ask(cloud, "DELETE", f"/services/{service['id']}", status=404)
    ask(cloud, "GET", f"/endpoints/{endpoint['id']}", status=404)
    ask(cloud, "DELETE", "/regions/R2", status=204)
    assert read_catalog(cloud) == builtin


def test_built_in_ones_changed_and_taken_out(cloud):
    """A changed endpoint is as its row says, the others go on following the settings; one taken out is gone."""
    found = ask(cloud, "GET", "/services?type=image")["services"][0]
    path = f"/endpoints?service_id={found['id']}&interface=public"
    endpoint = ask(cloud, "GET", path)["endpoints"][0]
    ask(cloud, "PATCH", f"/endpoints/{endpoint['id']}", {"endpoint": {"url": "https://images.example"}})
    cloud.settings.api.public_url = "http://elsewhere"
    places = read_catalog(cloud)
    assert places["image"]["RegionOne", "public"] == "https://images.example"
    assert places["image"]["RegionOne", "internal"].startswith("http://elsewhere/")
    ask(cloud, "DELETE", f"/endpoints/{endpoint['id']}", status=204)
    assert ("RegionOne", "public") not in read_catalog(cloud)["image"]
    ask(cloud, "DELETE", f"/services/{found['id']}", status=204)
    assert "image" not in read_catalog(cloud)
    ask(cloud, "GET", f"/services/{found['id']}", status=404)
    ask(cloud, "DELETE", "/regions/RegionOne", status=403)


def test_regions(cloud):
    """Ids of one's choice or random ones; a tree without rings; those with others below them stay."""
    ask(cloud, "PUT", "/regions/r1", {"region": {"description": "x"}}, 201)
    ask(cloud, "PUT", "/regions/r1", {"region": {}}, 409)
    ask(cloud, "PUT", "/regions/r3", {"region": {"id": "r4"}}, 400)
    made = ask(cloud, "POST", "/regions", {"region": {"id": "r2", "parent_region_id": "r1"}}, 201)["region"]
    assert made == ask(cloud, "GET", "/regions/r2")["region"]
    assert len(ask(cloud, "POST", "/regions", {"region": {}}, 201)["region"]["id"]) == 32
    assert [one["id"] for one in ask(cloud, "GET", "/regions?parent_region_id=r1")["regions"]] == ["r2"]
    ask(cloud, "PATCH", "/regions/r1", {"region": {"parent_region_id": "r2"}}, 400)
    ask(cloud, "POST", "/regions", {"region": {"parent_region_id": "none"}}, 400)
    assert ask(cloud, "PATCH", "/regions/r1", {"region": {"description": "y"}})["region"]["description"] == "y"
    ask(cloud, "DELETE", "/regions/r1", status=403)
    ask(cloud, "DELETE", "/regions/r2", status=204)
    ask(cloud, "DELETE", "/regions/r1", status=204)
    ask(cloud, "GET", "/regions/r1", status=404)


def test_refused(cloud):
    service = ask(cloud, "GET", "/services?type=image")["services"][0]["id"]
    good = {"service_id": service, "interface": "public", "url": "http://x", "region_id": "RegionOne"}
    for change, named in (
        ({"service_id": "none"}, "service_id"),
        ({"region_id": "none"}, "region_id"),
        ({"interface": "private"}, "interface"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "http://x/$(admin_token)s"}, "url"),
        ({"enabled": "True"}, "enabled"),
        ({"description": 7}, "description"),
    ):
        answer = cloud.post(f"{V3}/endpoints", {"endpoint": {**good, **change}}, user="admin")
        assert answer.status_code == 400, (change, answer.text)
        assert named in answer.json["error"]["message"]
        made = ask(cloud, "POST", "/endpoints", {"endpoint": good}, 201)["endpoint"]
        if "service_id" not in change:
            ask(cloud, "PATCH", f"/endpoints/{made['id']}", {"endpoint": change}, 400)
        ask(cloud, "DELETE", f"/endpoints/{made['id']}", status=204)
    ask(cloud, "POST", "/services", {"service": {"name": "x"}}, 400)
    ask(cloud, "POST", "/services", {"service": {"type": "x", "enabled": "True"}}, 400)
    for method, path, body in (
        ("POST", "/services", {"service": {"type": "x"}}),
        ("POST", "/endpoints", {"endpoint": good}),
        ("POST", "/regions", {"region": {}}),
        ("DELETE", f"/services/{service}", None),
        ("GET", "/services", None),
        ("GET", "/endpoints", None),
    ):
        ask(cloud, method, path, body, 403, user="demo")
