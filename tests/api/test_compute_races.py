"""Many requests at once: quotas, hosts' room and addresses hold, and nothing answers 500."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from compute_cloud import COMPUTE, add_image, add_network, boot, build_server, find_project, see_host
from sqlalchemy import select

from web.models import Host, Server


def call_all(cloud, requests, user: str = "demo") -> list:
    """The answers to (method, path, body) sent side by side."""
    token = cloud.login(user)

    def send(request):
        method, path, body = request
        headers = {"X-Auth-Token": token, "OpenStack-API-Version": "compute 2.96", "Content-Type": "application/json"}
        return cloud.app.test_client().open(path, method=method, headers=headers, data=json.dumps(body))

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(send, requests))


def test_s21_parallel_creates_hold_the_quota_and_share_no_address(cloud):
    """Of twelve, the five that the quota allows are made, each with an address of its own."""
    image, network = add_image(cloud), add_network(cloud)
    body = {"quota_set": {"instances": 5}}
    cloud.put(f"{COMPUTE}/os-quota-sets/{find_project(cloud)}", body, user="admin")
    create = ("POST", f"{COMPUTE}/servers", build_server(image, networks=[{"uuid": network}]))
    codes = [answer.status_code for answer in call_all(cloud, [create] * 12)]
    assert sorted(codes) == [202] * 5 + [403] * 7
    listed = cloud.get(f"{COMPUTE}/servers/detail").json["servers"]
    assert len({row["addresses"]["private"][0]["addr"] for row in listed}) == 5


def test_parallel_creates_do_not_share_a_hosts_room(cloud):
    """Room for three guests is given to three of eight; the others are ERROR with the reason."""
    image = add_image(cloud)
    with cloud.database.write.begin() as session:
        host = session.scalar(select(Host))
        host.observed = {"host": {**host.observed["host"], "memory_mb": 1024}}  # 150 % of it: three of 512
    answers = call_all(cloud, [("POST", f"{COMPUTE}/servers", build_server(image))] * 8)
    assert {answer.status_code for answer in answers} == {202}
    with cloud.database.read.begin() as session:
        placed = [host_id is not None for host_id in session.scalars(select(Server.host_id))]
    assert sorted(placed) == [False] * 5 + [True] * 3


def test_parallel_verbs_end_in_a_state(cloud):
    """Reboots, stops, tags and deletes of one server at once: each is done or refused, none is lost half-way."""
    server = boot(cloud, add_image(cloud))
    path = f"{COMPUTE}/servers/{server}"
    requests = [
        ("POST", f"{path}/action", {"reboot": {"type": "HARD"}}),
        ("POST", f"{path}/action", {"os-stop": None}),
        ("PUT", f"{path}/metadata/a", {"meta": {"a": "1"}}),
        ("PUT", f"{path}/tags/t", None),
        ("DELETE", path, None),
    ] * 4
    codes = {answer.status_code for answer in call_all(cloud, requests)}
    assert codes <= {200, 201, 202, 204, 409}
    assert cloud.get(path).json["server"]["OS-EXT-STS:task_state"] == "deleting"
    see_host(cloud)
    assert cloud.get(path).status_code == 404
