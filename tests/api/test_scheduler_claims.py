"""Room is claimed in the transaction that wants it: 200 creates at once, with deletions and moves among them, never
over-commit."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from compute_cloud import COMPUTE, add_image, see_host
from sqlalchemy import or_, select

from web.models import Host, Migration, Project, Quota, Server, now

CREATES = 200
CLIENTS = 16
SIZES = {"small": (8, 4096, 40), "middle": (16, 8192, 30), "large": (4, 16384, 100)}  # cores, MiB, GiB


def fill(cloud) -> None:
    """Three hypervisors of other shapes, no quota in the way, and the first answer of each kind of room scarce."""
    with cloud.database.write.begin() as session:
        first = session.scalar(select(Host))
        first.enabled = False
        for name, (vcpus, memory_mb, disk_gb) in SIZES.items():
            facts = {"vcpus": vcpus, "memory_mb": memory_mb, "disk_gb": disk_gb}
            session.add(
                Host(
                    name=name,
                    roles=["hypervisor"],
                    settings={"tunnel_address": "192.0.2.1"},
                    observed={"host": facts},
                    observed_at=now(),
                )
            )
        project = session.scalar(select(Project.id).where(Project.name == "demo"))
        for resource in ("instances", "cores", "ram"):
            session.add(Quota(project_id=project, resource=resource, limit=-1))


def read_over_commitment(cloud) -> list[str]:
    """What is claimed beyond what a host offers."""
    settings, found = cloud.settings.compute, []
    with cloud.database.read() as session:
        for host in session.scalars(select(Host).where(Host.name.in_(SIZES))):
            servers = session.scalars(select(Server).where(Server.host_id == host.id, Server.gone_at.is_(None))).all()
            vcpus, memory_mb, disk_gb = SIZES[host.name]
            offers = {
                "vcpus": vcpus * settings.cpu_allocation_ratio,
                "ram_mb": memory_mb * settings.ram_allocation_percent // 100,
                "disk_gb": disk_gb * settings.disk_allocation_percent // 100,
            }
            moves = session.execute(
                select(Migration, Server)
                .join(Server, Server.id == Migration.server_id)
                .where(or_(Migration.source_host_id == host.id, Migration.dest_host_id == host.id))
                .where(Migration.phase != "ended")
            ).all()
            for name, offer in offers.items():
                used = sum(server.flavor[name] for server in servers)
                for move, server in moves:
                    if move.source_host_id == move.dest_host_id:  # two disks, and room for the larger guest
                        old, new = move.old_flavor[name], move.new_flavor[name]
                        used += (old + new if name == "disk_gb" else max(old, new)) - server.flavor[name]
                    elif server.host_id != host.id:
                        used += move.new_flavor[name] if move.dest_host_id == host.id else move.old_flavor[name]
                if used > offer:
                    found.append(f"{host.name}: {name} {used} of {offer}")
    return found


def test_parallel_creates_never_over_commit(cloud):
    fill(cloud)
    image = add_image(cloud)
    cloud.login("demo")
    chance = random.Random(7)
    flavors = [chance.choice(["1", "n1", "2"]) for _ in range(CREATES)]

    def create(flavor: str) -> int:
        client = cloud.app.test_client()
        headers = {"X-Auth-Token": cloud.login("demo"), "OpenStack-API-Version": "compute 2.37"}
        body = {"name": "s", "flavorRef": flavor, "imageRef": image, "networks": "none"}
        answer = client.post(f"{COMPUTE}/servers", json={"server": body}, headers=headers)
        if answer.status_code == 202 and chance.random() < 0.1:
            client.delete(f"{COMPUTE}/servers/{answer.get_json()['server']['id']}", headers=headers)
        return answer.status_code

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(create, flavors))
    assert set(answers) == {202}
    assert read_over_commitment(cloud) == []
    with cloud.database.read() as session:
        servers = session.scalars(select(Server)).all()
    assert len(servers) == CREATES
    refused = [server for server in servers if server.host_id is None and server.deleted_at is None]
    assert refused
    for server in refused:
        assert server.status == "ERROR"
        assert "No valid host" in server.fault_message
        assert all(name in server.fault_details for name in SIZES)
    placed = {server.host_id for server in servers if server.host_id is not None}
    assert len(placed) == len(SIZES)


def test_parallel_creates_and_moves_never_over_commit(cloud):
    fill(cloud)
    image = add_image(cloud)
    for user in ("demo", "admin"):
        cloud.login(user)
    chance = random.Random(11)
    headers = {
        name: {"X-Auth-Token": cloud.login(name), "OpenStack-API-Version": "compute 2.56"} for name in ("demo", "admin")
    }

    def create(client, flavor: str) -> str:
        body = {"name": "s", "flavorRef": flavor, "imageRef": image, "networks": "none"}
        answer = client.post(f"{COMPUTE}/servers", json={"server": body}, headers=headers["demo"])
        assert answer.status_code == 202, answer.text
        return answer.get_json()["server"]["id"]

    first = [create(cloud.http, "1") for _ in range(24)]
    see_host(cloud)
    actions = {
        "os-migrateLive": lambda: {"host": None, "block_migration": "auto"},
        "migrate": lambda: None,
        "resize": lambda: {"flavorRef": chance.choice(["n1", "2"])},
        "create": lambda: chance.choice(["1", "n1", "2"]),
    }
    wishes = [(chance.choice(list(actions)), chance.choice(first)) for _ in range(120)]

    def ask(wish: tuple[str, str]) -> int:
        client, (name, server) = cloud.app.test_client(), wish
        if name == "create":
            create(client, actions[name]())
            return 202
        path = f"{COMPUTE}/servers/{server}/action"
        return client.post(path, json={name: actions[name]()}, headers=headers["admin"]).status_code

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, wishes))
    assert set(answers) <= {202, 400, 409}  # 400: nowhere is room; 409: it moves already
    assert read_over_commitment(cloud) == []
    with cloud.database.read() as session:
        begun = session.scalars(select(Migration).where(Migration.phase != "ended")).all()
        assert len({move.kind for move in begun}) == 3
        assert len({move.server_id for move in begun}) == len(begun)
