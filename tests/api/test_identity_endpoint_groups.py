"""OS-EP-FILTER: which endpoints a project's catalog holds, alone or by groups; and policies as stored texts."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from web.models import EndpointGroup, Project, ProjectEndpoint, ProjectEndpointGroup

V3 = "/identity/v3"
EP = "/OS-EP-FILTER"


def ask(cloud, method, path, body=None, status=200, user="admin"):
    answer = cloud.call(method, V3 + path, body, user=user)
    assert answer.status_code == status, (method, path, answer.text)
    return answer.json if answer.data else None


def read_catalog(cloud, user="demo"):
    """{(type, interface)} of the catalog of the user's token."""
    found = cloud.get(f"{V3}/auth/catalog", user=user).json["catalog"]
    return {(one["type"], endpoint["interface"]) for one in found for endpoint in one["endpoints"]}


@pytest.fixture
def project(cloud):
    with cloud.database.read() as session:
        return session.scalar(select(Project.id).where(Project.name == "demo"))


def make_group(cloud, name="g", **filters):
    body = {"endpoint_group": {"name": name, "description": "x", "filters": filters}}
    return ask(cloud, "POST", f"{EP}/endpoint_groups", body, 201)["endpoint_group"]


def test_groups(cloud):
    image = ask(cloud, "GET", "/services?type=image")["services"][0]["id"]
    made = make_group(cloud, service_id=image)
    path = f"{EP}/endpoint_groups/{made['id']}"
    assert made["filters"] == {"service_id": image}
    assert made["links"]["self"].endswith(path)
    assert ask(cloud, "GET", path)["endpoint_group"] == made
    assert cloud.call("HEAD", V3 + path, user="admin").status_code == 200
    assert ask(cloud, "GET", f"{EP}/endpoint_groups?name=g")["endpoint_groups"] == [made]
    found = ask(cloud, "GET", f"{path}/endpoints")["endpoints"]
    assert {one["interface"] for one in found} == {"admin", "internal", "public"}
    changes = {"name": "h", "filters": {"interface": "public", "region_id": "RegionOne"}}
    changed = ask(cloud, "PATCH", path, {"endpoint_group": changes})["endpoint_group"]
    assert changed == {**made, **changes}
    found = ask(cloud, "GET", f"{path}/endpoints")["endpoints"]
    assert {one["interface"] for one in found} == {"public"}
    for wrong in ({"filters": {}}, {"filters": {"color": "red"}}, {"filters": {"interface": "x"}}, {"more": 1}, {}):
        ask(cloud, "PATCH", path, {"endpoint_group": wrong}, 400)
    ask(cloud, "POST", f"{EP}/endpoint_groups", {"endpoint_group": {"name": "x"}}, 400)
    ask(cloud, "GET", f"{EP}/endpoint_groups", status=403, user="demo")
    ask(cloud, "DELETE", path, status=204)
    ask(cloud, "GET", path, status=404)
    ask(cloud, "DELETE", path, status=404)


def test_a_catalog_of_groups(cloud, project):
    """What is associated is all that the project's catalog holds; others' stay; nothing left is everything again."""
    whole = read_catalog(cloud)
    image = ask(cloud, "GET", "/services?type=image")["services"][0]["id"]
    group = make_group(cloud, service_id=image, interface="public")
    path = f"{EP}/endpoint_groups/{group['id']}/projects"
    assert ask(cloud, "GET", path)["projects"] == []
    ask(cloud, "GET", f"{path}/{project}", status=404)
    ask(cloud, "PUT", f"{path}/{project}", status=204)
    ask(cloud, "PUT", f"{path}/{project}", status=204)
    told = ask(cloud, "GET", f"{path}/{project}")["project_endpoint_group"]
    assert (told["endpoint_group_id"], told["project_id"]) == (group["id"], project)
    assert cloud.call("HEAD", f"{V3}{path}/{project}", user="admin").status_code == 200
    assert [one["name"] for one in ask(cloud, "GET", path)["projects"]] == ["demo"]
    assert ask(cloud, "GET", f"{EP}/projects/{project}/endpoint_groups")["endpoint_groups"] == [group]
    assert read_catalog(cloud) == {("image", "public")}
    assert read_catalog(cloud, "other") == whole
    assert cloud.get("/compute/v2.1/servers").status_code == 200, "hidden is not forbidden"
    ask(cloud, "PATCH", f"{EP}/endpoint_groups/{group['id']}", {"endpoint_group": {"filters": {"service_id": "no"}}})
    assert read_catalog(cloud) == whole, "no endpoint fits: as the reference, as if nothing was associated"
    ask(cloud, "DELETE", f"{path}/{project}", status=204)
    ask(cloud, "DELETE", f"{path}/{project}", status=404)
    ask(cloud, "PUT", f"{path}/none", status=404)
    ask(cloud, "PUT", f"{EP}/endpoint_groups/none/projects/{project}", status=404)
    assert read_catalog(cloud) == whole


def test_a_catalog_of_endpoints(cloud, project):
    """Single ones, built-in too; they end with the endpoint, its service, or the project."""
    whole = read_catalog(cloud)
    service = ask(cloud, "POST", "/services", {"service": {"type": "dns"}}, 201)["service"]["id"]
    body = {"service_id": service, "interface": "public", "url": "http://d"}
    own = ask(cloud, "POST", "/endpoints", {"endpoint": body}, 201)["endpoint"]["id"]
    builtin = next(one for one in ask(cloud, "GET", "/endpoints?interface=admin")["endpoints"])["id"]
    path = f"{EP}/projects/{project}/endpoints"
    ask(cloud, "GET", f"{path}/{own}", status=404)
    for one in (own, builtin, own):
        ask(cloud, "PUT", f"{path}/{one}", status=204)
    ask(cloud, "HEAD", f"{path}/{own}", status=204)
    assert {one["id"] for one in ask(cloud, "GET", path)["endpoints"]} == {own, builtin}
    assert [one["name"] for one in ask(cloud, "GET", f"{EP}/endpoints/{own}/projects")["projects"]] == ["demo"]
    assert ("dns", "public") in read_catalog(cloud)
    assert len(read_catalog(cloud)) == 2
    ask(cloud, "PATCH", f"/endpoints/{own}", {"endpoint": {"enabled": False}})
    assert len(read_catalog(cloud)) == 1
    ask(cloud, "DELETE", f"{path}/{builtin}", status=204)
    ask(cloud, "DELETE", f"{path}/{builtin}", status=404)
    ask(cloud, "DELETE", f"/services/{service}", status=204)
    assert ask(cloud, "GET", path)["endpoints"] == []
    assert read_catalog(cloud) == whole
    ask(cloud, "PUT", f"{path}/{own}", status=404)
    ask(cloud, "PUT", f"{path}/{builtin}", status=403, user="demo")


def test_a_project_that_sees_less_is_deleted(cloud):
    made = ask(cloud, "POST", "/projects", {"project": {"name": "p"}}, 201)["project"]["id"]
    group = make_group(cloud, interface="public")["id"]
    endpoint = ask(cloud, "GET", "/endpoints")["endpoints"][0]["id"]
    ask(cloud, "PUT", f"{EP}/endpoint_groups/{group}/projects/{made}", status=204)
    ask(cloud, "PUT", f"{EP}/projects/{made}/endpoints/{endpoint}", status=204)
    ask(cloud, "DELETE", f"/projects/{made}", status=204)
    with cloud.database.read() as session:
        for model, count in ((ProjectEndpoint, 0), (ProjectEndpointGroup, 0), (EndpointGroup, 1)):
            assert session.scalar(select(func.count()).select_from(model)) == count


def test_policies(cloud):
    """Texts kept for services elsewhere; nothing of this cloud reads them."""
    body = {"type": "application/json", "blob": '{"admin": "role:nobody"}'}
    made = ask(cloud, "POST", "/policies", {"policy": body}, 201)["policy"]
    path = f"/policies/{made['id']}"
    assert body.items() <= made.items()
    assert made["links"]["self"].endswith(path)
    assert ask(cloud, "GET", "/policies")["policies"] == [made]
    assert ask(cloud, "GET", "/policies?type=x")["policies"] == []
    changed = ask(cloud, "PATCH", path, {"policy": {"type": "x"}})["policy"]
    assert changed == {**made, "type": "x"} == ask(cloud, "GET", path)["policy"]
    for wrong in ({"blob": 7}, {"type": "x" * 256}):
        ask(cloud, "PATCH", path, {"policy": wrong}, 400)
    ask(cloud, "POST", "/policies", {"policy": {"type": "x"}}, 400)
    ask(cloud, "GET", "/policies", status=403, user="demo")
    ask(cloud, "POST", "/policies", {"policy": body}, 403, user="demo")
    ask(cloud, "DELETE", path, status=204)
    ask(cloud, "GET", path, status=404)
