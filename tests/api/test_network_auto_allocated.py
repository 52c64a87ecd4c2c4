"""A project without a network gets one with all that belongs to it, once, and may have it taken away again."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, boot, build_server, find_project, see_host
from sqlalchemy import select

from web.models import Network

NETWORKING = "/networking/v2.0"
PATH = f"{NETWORKING}/auto-allocated-topology"


def read(cloud, what: str) -> list[dict]:
    return cloud.get(f"{NETWORKING}/{what}?project_id={find_project(cloud)}").json[what]


def test_it_is_made_once_and_taken_away(cloud):
    """Asked for by name, as one's own, and by an administrator; with a way outside; gone without a trace."""
    project = find_project(cloud)
    dry = cloud.get(f"{PATH}/{project}?fields=dry-run")
    assert (dry.status_code, dry.json["auto_allocated_topology"]["id"]) == (200, "dry-run=pass")
    assert read(cloud, "networks") == []
    made = cloud.get(f"{PATH}/None").json["auto_allocated_topology"]
    assert (made["tenant_id"], made["id"]) == (project, read(cloud, "networks")[0]["id"])
    assert cloud.get(f"{PATH}/{project}", user="admin").json["auto_allocated_topology"] == made
    (subnet,), (router,) = read(cloud, "subnets"), read(cloud, "routers")
    assert (subnet["network_id"], subnet["cidr"]) == (made["id"], "10.0.0.0/26")
    assert router["external_gateway_info"]["enable_snat"] is True
    assert cloud.get(f"{PATH}/{project}", user="other").status_code == 404
    assert cloud.delete(f"{PATH}/{project}").status_code == 204
    assert [read(cloud, what) for what in ("networks", "subnets", "routers", "ports")] == [[], [], [], []]
    assert cloud.delete(f"{PATH}/{project}").status_code == 404


def test_its_range_is_free_and_others_may_have_the_same(cloud):
    body = {"network": {"name": "mine"}}
    network = cloud.post(f"{NETWORKING}/networks", body).json["network"]["id"]
    subnet = {"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/25"}}
    assert cloud.post(f"{NETWORKING}/subnets", subnet).status_code == 201
    cloud.get(f"{PATH}/None")
    assert sorted(one["cidr"] for one in read(cloud, "subnets")) == ["10.0.0.0/25", "10.0.0.128/26"]
    assert cloud.get(f"{PATH}/None", user="other").status_code == 200
    found = cloud.get(f"{NETWORKING}/subnets", user="other").json["subnets"]
    assert "10.0.0.0/26" in [one["cidr"] for one in found]


def test_servers_that_ask_for_any_network_share_it(cloud):
    image = add_image(cloud)
    first, second = (boot(cloud, image, networks="auto") for _ in range(2))
    shown = [cloud.get(f"{COMPUTE}/servers/{one}").json["server"]["addresses"] for one in (first, second)]
    assert [list(one) for one in shown] == [["auto_allocated_network"]] * 2
    assert len(read(cloud, "networks")) == 1
    assert cloud.delete(f"{PATH}/None").status_code == 409
    for one in (first, second):
        cloud.delete(f"{COMPUTE}/servers/{one}")
    see_host(cloud)
    assert cloud.delete(f"{PATH}/None").status_code == 204


@pytest.mark.parametrize("path", [PATH, "servers"])
def test_without_a_way_outside_there_is_none(cloud, path):
    with cloud.database.write.begin() as session:
        session.execute(Network.__table__.update().values(external=False))
    if path == PATH:
        for query in ("", "?fields=dry-run"):
            answer = cloud.get(f"{PATH}/None{query}")
            assert answer.status_code == 409
            assert "No default router:external network" in answer.text
    else:
        answer = cloud.post(f"{COMPUTE}/servers", build_server(add_image(cloud), networks="auto"), version="2.96")
        assert answer.status_code == 400
        assert "No default router:external network" in answer.text
    with cloud.database.read() as session:
        assert session.scalars(select(Network.name)).all() == ["public"]
