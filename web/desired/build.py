"""The whole document of a host from its rows. Pure: the same rows give the same bytes."""

from __future__ import annotations

from .networks import build_networks, build_routers
from .rows import Rows
from .security import build_ports, build_security_groups
from .servers import build_images, build_servers
from .volumes import build_snapshots, build_volumes

DOCUMENT_VERSION = 1


def build_settings(rows: Rows, settings) -> dict:
    """The document's ``settings``: the cloud's, with the host's own on top."""
    network = settings.network
    public = {
        "bridge": network.public_bridge,
        "addresses": [f"{network.public_gateway}/{network.public_cidr.split('/')[1]}"],
        "masquerade": network.public_masquerade,
        "interface": network.public_interface or None,
    }
    roles = {} if "hypervisor" in rows.host.roles else {"hypervisor": False}
    return {
        **roles,
        "state_dir": settings.worker.host_state_dir,
        "virt_type": settings.compute.virt_type,
        "image_cache_max_age_s": settings.compute.image_cache_max_age_s,
        "image_cache_max_bytes": settings.compute.image_cache_max_bytes,
        "stop_timeout_s": settings.compute.stop_timeout_s,
        "dns_domain": network.dns_domain,
        "dns_servers": list(network.dns_servers),
        "physical_networks": {"public": public},
        **(rows.host.settings or {}),
    }


def build_document(rows: Rows, settings, fence: int = 0) -> dict:
    """The host's complete document (docs/host-document.md)."""
    storage = {}
    if "storage" in rows.host.roles:
        storage = {"volumes": build_volumes(rows), "snapshots": build_snapshots(rows)}
    return {
        "version": DOCUMENT_VERSION,
        "host": rows.host.name,
        "generation": rows.host.generation,
        "fence": fence,
        "settings": build_settings(rows, settings),
        "images": build_images(rows, settings),
        "networks": build_networks(rows),
        "routers": build_routers(rows),
        "security_groups": build_security_groups(rows),
        "ports": build_ports(rows),
        **storage,
        "servers": build_servers(rows, settings),
    }
