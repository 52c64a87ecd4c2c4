"""What tests of the Compute API stand on: images, networks, keys as rows; a host played by `see_host`."""

from __future__ import annotations

from sqlalchemy import select

from web.allocation import end_port_use
from web.models import (
    ConsoleLog,
    Host,
    Image,
    Network,
    Port,
    Project,
    Server,
    Subnet,
    new_uuid,
    now,
)
from web.reconcile.status import refresh_status

COMPUTE = "/compute/v2.1"
STATES = {"on": "running", "off": "shutoff", "paused": "paused", "suspended": "suspended"}
ZONES = iter(range(1000, 65000))


def find_project(cloud, name: str = "demo") -> str:
    with cloud.database.read.begin() as session:
        return session.scalar(select(Project.id).where(Project.name == name))


def add_image(cloud, **columns) -> str:
    """The id of an image; by default active, public, qcow2 of 100 MiB."""
    values = {
        "id": new_uuid(),
        "name": "tiny",
        "status": "active",
        "visibility": "public",
        "disk_format": "qcow2",
        "container_format": "bare",
        "size": 10 << 20,
        "virtual_size": 100 << 20,
        "checksum": "0" * 32,
        "project_id": find_project(cloud, "admin"),
    } | columns
    with cloud.database.write.begin() as session:
        session.add(Image(**values))
    return values["id"]


def add_network(cloud, project: str = "demo", cidr: str | None = "10.0.0.0/24", **columns) -> str:
    """The id of a network of the project with one subnet (without ``cidr``: none)."""
    network_id, project_id = new_uuid(), find_project(cloud, project)
    with cloud.database.write.begin() as session:
        values = {"id": network_id, "project_id": project_id, "name": "private", "zone": next(ZONES)} | columns
        session.add(Network(**values))
        session.flush()
        if cidr:
            base = cidr.rsplit(".", 1)[0]
            pools = [{"start": f"{base}.2", "end": f"{base}.254"}]
            session.add(
                Subnet(
                    project_id=project_id,
                    network_id=network_id,
                    ip_version=4,
                    cidr=cidr,
                    gateway_ip=f"{base}.1",
                    allocation_pools=pools,
                )
            )
    return network_id


def build_server(image_id: str, **fields) -> dict:
    """A body for POST /servers; without networks unless ``fields`` say so."""
    return {"server": {"name": "web1", "flavorRef": "1", "imageRef": image_id, "networks": "none"} | fields}


def boot(cloud, image_id: str, user: str = "demo", see: bool = True, version: str = "2.96", **fields) -> str:
    """The id of a new server, ACTIVE where ``see``."""
    answer = cloud.post(f"{COMPUTE}/servers", build_server(image_id, **fields), user=user, version=version)
    assert answer.status_code == 202, answer.text
    if see:
        see_host(cloud)
    return answer.json["server"]["id"]


def see_host(cloud, console: str = "") -> None:
    """Play the worker: every host has done all that is wanted of it."""
    with cloud.database.write.begin() as session:
        for host in session.scalars(select(Host)):
            host.observed_generation, host.observed_at = host.generation, now()
        wanted = select(Server).where(Server.host_id.is_not(None), Server.gone_at.is_(None))
        for server in session.scalars(wanted).all():
            if server.deleted_at is not None:
                server.gone_at = now()
                for port in session.scalars(select(Port).where(Port.device_id == server.id)).unique().all():
                    session.delete(port)
            else:
                server.observed_state = STATES[server.power]
                server.observed_reason = "user" if server.power == "paused" else ""
                shown = server.power in ("on", "paused")
                ports = {"vnc": 5900 + server.number, "serial": 40000 + server.number} if shown else {}
                server.observed_consoles = {"host": server.host_id, **ports}
                server.observed_rescue = server.rescue_image_id
                server.observed_reboot_done = server.reboot_wanted
                server.observed_start_done = server.start_wanted
                server.observed_rebuild_done = server.rebuild_wanted
                server.built_at = server.built_at or now()
                server.operation = server.operation_deadline = None
                if server.console_wanted > server.observed_console_done:
                    log = session.get(ConsoleLog, server.id)
                    if log is None:
                        log = ConsoleLog(server_id=server.id, number=0, text="")
                        session.add(log)
                    log.number, log.text = server.console_wanted, console
                    server.observed_console_done = server.console_wanted
            refresh_status(server)
        for port in session.scalars(select(Port).where(Port.detached_at.is_not(None))).unique().all():
            end_port_use(session, port)


def read_server(cloud, server_id: str) -> Server:
    """The row of a server, detached."""
    with cloud.database.read.begin() as session:
        return session.scalar(select(Server).where(Server.id == server_id))
