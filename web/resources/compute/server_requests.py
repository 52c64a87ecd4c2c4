"""What a request for a new server refers to, found and checked: flavor, image, key, groups, networks, zone.

Every refusal names the field and says what is wrong with it, before anything is written. Source: Compute
API reference, "Create Server". Next room: `placement.py`, which finds room; `servers.py`, which writes.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import unicodedata
from dataclasses import dataclass

from sqlalchemy import or_, select

from ...allocation import read_default_group
from ...errors import BadRequest, Conflict, Forbidden, OverQuota
from ...http import Context
from ...models import (
    Address,
    Flavor,
    FlavorAccess,
    Host,
    Image,
    ImageMember,
    Keypair,
    Network,
    Port,
    SecurityGroup,
    Subnet,
)
from ...models.quotas import read_limit_of_user
from ...neighbours import ask
from ...policy import rule

FORCE_HOST = rule("compute:servers:create:forced_host", "role:admin")
GIB = 1 << 30
MIB = 1 << 20
RUNNABLE = ("raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "ami", "iso")


def normalize_address(text: str | None) -> str | None:
    """An IP address as it is shown; None where there is none."""
    return str(ipaddress.ip_address(text)) if text else None


@dataclass
class Nic:
    """One wanted interface: an existing port, or a new one on a network."""

    network: Network
    port: Port | None = None
    fixed_ip: str | None = None
    tag: str | None = None


def invalid(name: str, value: object, reason: str) -> BadRequest:
    """The BadRequest for a field of the body."""
    text = repr(value)
    return BadRequest(f"Invalid input for field/attribute {name}. Value: {text[:200]}. {reason}")


def build_hostname(name: str, server_id: str) -> str:
    """A host name of at most 63 letters, digits and dashes out of a server's name (RFC 1123)."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[^a-z0-9-]", "", re.sub(r"[ _.]+", "-", text))[:63].strip("-")
    return text or f"server-{server_id}"


def read_flavor(ctx: Context, flavor_ref: object) -> Flavor:
    """The flavor that the project may use; BadRequest where it is none of them."""
    flavor = ctx.session.get(Flavor, str(flavor_ref))
    usable = flavor is not None and not flavor.disabled
    if usable and not flavor.is_public and not ctx.is_admin:
        usable = ctx.session.get(FlavorAccess, (flavor.id, ctx.project_id)) is not None
    if not usable:
        raise BadRequest(f"Invalid flavorRef: Flavor {flavor_ref} could not be found.")
    return flavor


def find_image(ctx: Context, image_id: str) -> Image:
    """The image that the project may see, and that is active; BadRequest where there is none."""
    image = ctx.session.get(Image, image_id)
    seen = image is not None and image.deleted_at is None and image.status != "deleted"
    if seen and not ctx.is_admin and image.project_id != ctx.project_id:
        seen = image.visibility in ("public", "community")
        if image.visibility == "shared":
            seen = ctx.session.get(ImageMember, (image.id, ctx.project_id)) is not None
    if not seen:
        raise BadRequest(f"Invalid imageRef: Can not find requested image {image_id}")
    if image.status != "active":
        raise BadRequest(f"Invalid imageRef: Image {image_id} is not active; it is {image.status}.")
    return image


def read_image(ctx: Context, image_id: str, flavor: Flavor, on_volume: bool = False) -> Image:
    """The image to boot: active, the project's to see, and not too large for the flavor's own disk."""
    image = find_image(ctx, image_id)
    if image.disk_format not in RUNNABLE:
        raise BadRequest(f"Invalid imageRef: Image {image_id} is unacceptable: no disk in {image.disk_format}.")
    check_memory(image, flavor)
    if flavor.disk_gb and not on_volume:
        # An ISO is not copied onto the disk.
        copied = 0 if image.disk_format == "iso" else image.virtual_size or image.size or 0
        needed = max(image.min_disk * GIB, copied)
        if needed > flavor.disk_gb * GIB:
            raise BadRequest(
                f"Flavor's disk is too small for requested image. Flavor disk is {flavor.disk_gb * GIB} bytes, "
                f"image is {needed} bytes."
            )
    return image


def check_memory(image: Image, flavor: Flavor) -> None:
    """BadRequest where the image needs more memory than the flavor has."""
    if flavor.ram_mb < image.min_ram:
        raise BadRequest(
            f"Flavor's memory is too small for requested image. Flavor memory is {flavor.ram_mb} MB, "
            f"image needs {image.min_ram} MB."
        )


def read_key(ctx: Context, name: str | None) -> Keypair | None:
    if not name:
        return None
    key = ctx.session.scalar(select(Keypair).where(Keypair.user_id == ctx.token.user_id, Keypair.name == name))
    if key is None:
        raise BadRequest(f"Invalid key_name provided: {name!r} is no key pair of yours.")
    return key


def find_group(ctx: Context, named: str, project_id: str) -> SecurityGroup | None:
    """The project's security group of that id or name; Conflict where the name is not unique."""
    rows = ctx.session.scalars(
        select(SecurityGroup)
        .where(SecurityGroup.project_id == project_id, or_(SecurityGroup.id == named, SecurityGroup.name == named))
        .limit(3)
    ).all()
    exact = [row for row in rows if row.id == named] or rows
    if len(exact) > 1:
        raise Conflict(f"Multiple security groups found matching '{named}'. Use an ID to be more specific.")
    return exact[0] if exact else None


def read_groups(ctx: Context, wanted: list[dict] | None) -> list[SecurityGroup] | None:
    """The groups of new ports; None: the project's default one."""
    if not wanted:
        return None
    groups: dict[str, SecurityGroup] = {}
    for entry in wanted:
        group = find_group(ctx, entry["name"], ctx.project_id)
        if group is None and entry["name"] == "default":
            group = read_default_group(ctx.session, ctx.project_id)
        if group is None:
            raise BadRequest(f"Security group {entry['name']} not found for project {ctx.project_id}.")
        groups[group.id] = group
    return list(groups.values())


def read_zone(ctx: Context, given: str | None) -> tuple[str | None, str | None]:
    """(zone, host) of "zone", "zone:host" or "zone:host:node"; hosts are an admin's to choose."""
    zone, _, rest = (given or "").partition(":")
    host, _, node = rest.partition(":")
    host = host or node
    asked = (ctx.body.get("host"), ctx.body.get("hypervisor_hostname"))
    if host and any(asked):
        raise BadRequest("Invalid input for host: availability_zone names a host too.")
    host = host or asked[0] or asked[1]
    if host:
        if not ctx.allows(FORCE_HOST):
            raise Forbidden(f"Policy doesn't allow {FORCE_HOST} to be performed.")
        if ctx.session.scalar(select(Host.id).where(Host.name == host)) is None:
            raise BadRequest(f"Compute host {host} could not be found.")
    if zone and ctx.session.scalar(select(Host.id).where(Host.zone == zone).limit(1)) is None:
        raise invalid("availability_zone", given, "The requested availability zone is not available")
    return zone or None, host or None


def check_user_data(text: str | None) -> str | None:
    try:
        base64.b64decode("".join((text or "").split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("Invalid input for field/attribute user_data. User data needs to be valid base 64.") from None
    return text or None


def check_metadata(ctx: Context, metadata: dict) -> dict:
    limit = read_limit_of_user(ctx.session, ctx.project_id, ctx.token.user_id, "metadata_items")
    if limit != -1 and len(metadata) > limit:
        raise OverQuota(f"Maximum number of metadata items exceeds {limit}: {len(metadata)} were given.")
    return metadata


def check_unsupported(body: dict) -> None:
    """A clear refusal of what no host realises: better than a guest without what was asked for."""
    refused = (("trusted_image_certificates", "Signatures of images are not checked here."),)
    for name, reason in refused:
        if body.get(name):
            raise invalid(name, body[name], reason)


def read_nics(ctx: Context, wanted: object, count: int) -> list[Nic]:
    """The interfaces for ``networks``: a list, "auto", "none", or nothing (as "auto", but none is no error)."""
    if wanted == "none":
        return []
    if wanted is None or wanted == "auto" or wanted == []:
        return choose_network(ctx, must=wanted == "auto")
    nics: list[Nic] = []
    for index, entry in enumerate(wanted):
        where = f"networks/{index}"
        if entry.get("port"):
            if count > 1:
                raise BadRequest(f"Invalid input for {where}/port: a port cannot be given to more than one server.")
            if entry.get("fixed_ip"):
                raise BadRequest(f"Invalid input for {where}/fixed_ip: a port has its addresses already.")
            nics.append(read_port(ctx, entry["port"], [nic.port.id for nic in nics if nic.port]))
            nics[-1].tag = entry.get("tag")
            continue
        if not entry.get("uuid"):
            raise BadRequest(f"Invalid input for {where}: a uuid (of a network) or a port is needed.")
        fixed_ip = entry.get("fixed_ip")
        if fixed_ip and count > 1:
            raise BadRequest(f"Invalid input for {where}/fixed_ip: several servers cannot have one address.")
        network = read_network(ctx, entry["uuid"])
        if fixed_ip:
            _check_free(ctx, network, fixed_ip)
        nics.append(Nic(network, fixed_ip=fixed_ip, tag=entry.get("tag")))
    return nics


def choose_network(ctx: Context, must: bool) -> list[Nic]:
    """The only network that the project has or shares, several are a Conflict; with ``must`` one is made."""
    found = ctx.session.scalars(
        select(Network)
        .where(
            or_(Network.project_id == ctx.project_id, Network.shared),
            Network.external.is_(False),
            Network.id.in_(select(Subnet.network_id)),
        )
        .limit(2)
    ).all()
    if len(found) > 1:
        raise Conflict("Multiple possible networks found, use a Network ID to be more specific.")
    if not found and must:
        found = [_make_network(ctx)]
    return [Nic(network) for network in found]


def _make_network(ctx: Context) -> Network:
    try:
        made = ask(ctx, "network", "GET", "/auto-allocated-topology/{project_id}", project_id=ctx.project_id)
    except Conflict as refusal:
        raise BadRequest(f"Unable to automatically allocate a network: {refusal.message}") from None
    return ctx.session.get(Network, made["id"])


def read_network(ctx: Context, network_id: str) -> Network:
    network = ctx.session.get(Network, network_id)
    usable = network is not None and (network.project_id == ctx.project_id or network.shared or network.external)
    if network is None or not (usable or ctx.is_admin):
        raise BadRequest(f"Network {network_id} could not be found.")
    if network.external and not network.shared and not ctx.is_admin:
        raise Forbidden(f"It is not allowed to create an interface on external network {network_id}")
    if ctx.session.scalar(select(Subnet.id).where(Subnet.network_id == network_id).limit(1)) is None:
        raise BadRequest(f"Network {network_id} requires a subnet in order to boot instances on.")
    return network


def _check_free(ctx: Context, network: Network, address: str) -> None:
    taken = select(Address.id).join(Subnet, Subnet.id == Address.subnet_id)
    taken = taken.where(Subnet.network_id == network.id, Address.address == address)
    if ctx.session.scalar(taken.limit(1)) is not None:
        raise BadRequest(f"Fixed IP address {address} is already in use on network {network.id}.")


def read_port(ctx: Context, port_id: str, given: list[str]) -> Nic:
    port = ctx.session.get(Port, port_id)
    if port is None or (port.project_id != ctx.project_id and not ctx.is_admin):
        raise BadRequest(f"Port id {port_id} could not be found.")
    if port.device_id or port.device_owner.startswith("network:") or port_id in given:
        raise Conflict(f"Port {port_id} is still in use.")
    if not port.addresses:
        raise BadRequest(f"Port {port_id} requires a FixedIP in order to be used.")
    return Nic(ctx.session.get(Network, port.network_id), port=port)
