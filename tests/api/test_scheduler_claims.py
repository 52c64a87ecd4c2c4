"""Room is claimed in the creating transaction: 200 creates at once, and deletions among them, never over-commit."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from compute_cloud import COMPUTE, add_image
from sqlalchemy import select

from web.models import Host, Project, Quota, Server, now

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
            session.add(Host(name=name, roles=["hypervisor"], observed={"host": facts}, observed_at=now()))
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
            for name, offer in offers.items():
                used = sum(server.flavor[name] for server in servers)
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
