"""Servers and images of a host's document, from rows. Pure."""

from __future__ import annotations

import netaddr

from ..models.host_images import build_source, build_upload
from .made_of import build_block_devices, build_made_of
from .moves import build_move, choose_part
from .questions import build_questions
from .rows import Rows
from .volumes import build_attached, find_root_volume, lacks_volumes, waits_for_targets


def build_images(rows: Rows, settings) -> list[dict]:
    """The document's ``images``: what the host's guests are made from, and where it gets it."""
    return [
        {
            "id": image.id,
            "checksum": f"{image.os_hash_algo}:{image.os_hash_value}"
            if image.os_hash_value
            else f"md5:{image.checksum}",
            "size": image.size,
            "disk_format": image.disk_format,
            "virtual_size": image.virtual_size or image.size,
            "source": build_source(rows.host, image.id, settings),
            **({"fetch": rows.image_fetches[image.id]} if rows.image_fetches.get(image.id) else {}),
        }
        for image in rows.images
    ]


def _public_address(rows: Rows, port_ids: list[str]) -> str | None:
    found = [row.address for row in rows.floating_ips if row.port_id in port_ids]
    return found[0] if found else None


def _build_metadata(rows: Rows, server, ports) -> dict:
    keys = []
    if server.key_name and server.key_data:
        keys = [{"name": server.key_name, "type": server.key_type or "ssh", "data": server.key_data}]
    return {
        "uuid": server.id,
        "hostname": server.hostname,
        "name": server.name,
        "project_id": server.project_id,
        "availability_zone": rows.host.zone,
        "launch_index": server.launch_index,
        "keys": keys,
        "meta": dict(server.metadata_),
        "user_data": server.user_data,
        "instance_type": server.flavor["name"],
        "ec2_id": f"i-{server.number:08x}",
        "image_ec2_id": f"ami-{int(server.image_id[:8], 16):08x}" if server.image_id else None,
        "reservation_id": server.reservation_id,
        "security_groups": sorted({group.name for port in ports for group in port.security_groups}),
        **build_block_devices(server),
        "public_ipv4": _public_address(rows, [port.id for port in ports]),
        "local_ipv4": next(
            (row.address for port in ports for row in port.addresses if netaddr.valid_ipv4(row.address)), None
        ),
    }


def _build_held(server, move) -> dict:
    """A guest that is wanted elsewhere; what is here is kept until somebody says so."""
    return {
        "id": server.id,
        "project_id": server.project_id,
        "wanted": "present",
        "power": "off",
        "reboot": {"wanted": 0, "type": "SOFT"},
        "start": {"wanted": 0},
        "vcpus": move.old_flavor["vcpus"],
        "memory_mb": move.old_flavor["ram_mb"],
        "root_gb": move.old_flavor["disk_gb"],
        "image": server.base_image_id,
        "console": None,
        "held": True,
    }


def _build_snapshot(rows: Rows, server, part: str, move, settings) -> dict:
    """The image that is to be made of the guest, where it is at home and goes nowhere."""
    wanted = rows.server_images.get(server.id)
    if wanted is None or part != "home" or move is not None:
        return {}
    upload = build_upload(rows.host, wanted.image_id, settings)
    return {"snapshot": {"image": wanted.image_id, "attempt": wanted.attempt, **upload}}


def _build_posted_password(server) -> dict:
    """What the guest has posted, so that whichever host has it knows; and how often that was cleared."""
    cleared, text = server.password_cleared or 0, server.observed_posted_password or ""
    return {"posted_password": {"cleared": cleared, "text": text}} if cleared or text else {}


def _build_rebuild(server, root) -> dict:
    """A guest on a volume is rebuilt once that is made anew."""
    waits = root is not None and root.is_reimaged
    wanted = server.observed_rebuild_done if waits else server.rebuild_wanted
    return {"rebuild": {"wanted": wanted}} if wanted else {}


def _is_held(rows: Rows, server, root) -> bool:
    """Whether the guest is off, whatever is wanted of it: its volumes are closed to it, or are to be."""
    return waits_for_targets(rows, server) or (root is not None and root.is_kept_from_guests)


def build_servers(rows: Rows, settings) -> list[dict]:
    """The document's ``servers``; a tombstone carries no more than its id."""
    documents = []
    for server in rows.servers:
        part, move = choose_part(rows, server)
        if part == "none":
            continue
        if part == "absent":
            documents.append({"id": server.id, "project_id": server.project_id, "wanted": "absent"})
            continue
        if part == "home" and lacks_volumes(rows, server):
            continue  # its guest is made once all its disks are there
        if part == "held":
            documents.append(_build_held(server, move))
            continue
        volumes, root = build_attached(rows, server), find_root_volume(rows, server)
        # One that is to go out of the guest keeps its firewall (build_ports) until it is seen gone.
        ports = [port for port in rows.ports if port.device_id == server.id and port.detached_at is None]
        ports.sort(key=lambda port: (port.device_index, port.id))
        console = None
        if server.console_wanted > server.observed_console_done:
            console = {"wanted": server.console_wanted, "lines": server.console_lines}
        documents.append(
            {
                "id": server.id,
                "project_id": server.project_id,
                "wanted": "present",
                "name": server.name,
                "power": "off" if server.shelve is not None else server.power,
                "reboot": {"wanted": server.reboot_wanted, "type": server.reboot_type},
                "start": {"wanted": server.start_wanted},
                **_build_rebuild(server, root),
                "stop": {"graceful": server.stop_graceful},
                "vcpus": server.flavor["vcpus"],
                "memory_mb": server.flavor["ram_mb"],
                "root_gb": server.flavor["disk_gb"],
                "image": server.base_image_id,
                "ports": [port.id for port in ports],
                **({"volumes": volumes} if volumes else {}),
                **build_made_of(server),
                "console": console,
                **build_questions(server),
                **({"rescue": {"image": server.rescue_image_id}} if server.rescue_image_id else {}),
                "metadata": _build_metadata(rows, server, ports),
                **_build_posted_password(server),
                **build_move(rows, server, part, move),
                **_build_snapshot(rows, server, part, move, settings),
                **({"held": True, "power": "off"} if part == "home" and _is_held(rows, server, root) else {}),
            }
        )
    return documents
