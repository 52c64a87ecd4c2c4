"""The section metadata: what the metadata service tells each guest, one file per address of its ports.

Writes ``state_dir/metadata/<namespace>/<address>.json`` (for a link-local address
``<address>%<interface>.json``: it is unique on its interface only) and removes what no port has any more.
The daemon ``kumo_metadata.py`` (role hypervisor) listens in every namespace that has a directory here,
knows a guest by nothing but the namespace and address it asks from, and reads its file at each request:
a new directory is noticed within a second, a changed file at once. Next: ``servers.py``.

A file holds ``{"metadata": the server's part of the document, "network_data": OpenStack's
network_data.json, "local_ipv4": the server's first fixed IPv4 address or null, "address": …,
"posted_password": {server, cleared, text} (``posted_passwords.py``)}``. User data may be private: the files
are root's alone, and no text of a diff shows what is in them.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json

from . import device_tags, files, posted_passwords
from .chains import build_link_local, parse_mac
from .core import Action, state_path
from .errors import KumoError
from .names import build_tap_name, choose_home_interface, choose_home_namespace

SECTION = "metadata"
HOST = "host"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(value) -> str:
    return json.dumps(value, sort_keys=True)


def read_metadata(document: dict) -> dict:
    """{namespace: {address: SHA-256 of the file}} of what is served now; a namespace may have none.

    ``_places`` beside them is where guests have their tagged devices (``device_tags.py``).
    """
    found: dict[str, dict] = {}
    places = device_tags.read_places(document)
    if places:
        found["_places"] = places
    base = state_path(document, "metadata")
    if not base.is_dir():
        return found
    for directory in sorted(base.iterdir()):
        if directory.is_dir():
            rows = found.setdefault(directory.name, {})
            for path in sorted(directory.glob("*.json")):
                with contextlib.suppress(FileNotFoundError):
                    rows[path.name.removesuffix(".json")] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _build_subnet_network(name: str, address, subnet: dict, link: str, network_id: str) -> dict:
    """One entry of ``networks`` (OpenStack's network_data.json schema) for an address of a port."""
    row = {"id": name, "link": link, "network_id": network_id}
    if address.version == 4 and subnet.get("dhcp", True):
        return {**row, "type": "ipv4_dhcp"}
    mode = subnet.get("ipv6_mode")
    if address.version == 6 and mode:
        return {**row, "type": "ipv6_slaac" if mode == "slaac" else f"ipv6_{mode}"}
    cidr = ipaddress.ip_network(subnet["cidr"], strict=False)
    routes = [
        {"network": str(ipaddress.ip_network(route["destination"]).network_address),
         "netmask": str(ipaddress.ip_network(route["destination"]).netmask), "gateway": route["nexthop"]}
        for route in subnet.get("host_routes") or []
    ]  # fmt: skip
    if subnet.get("gateway_ip"):
        whole = "0.0.0.0" if address.version == 4 else "::"
        routes.insert(0, {"network": whole, "netmask": whole, "gateway": subnet["gateway_ip"]})
    return {
        **row,
        "type": f"ipv{address.version}",
        "ip_address": str(address),
        "netmask": str(cidr.netmask),
        "routes": routes,
        "services": [{"type": "dns", "address": server} for server in subnet.get("dns_nameservers") or []],
    }


def build_network_data(ports: list[dict], networks: dict[str, dict]) -> dict:
    """OpenStack's network_data.json for a server's ports, in NIC order: {links, networks, services}."""
    data: dict[str, list] = {"links": [], "networks": [], "services": []}
    for port in ports:
        network = networks.get(port["network"])
        if network is None:
            continue
        link = build_tap_name(port["id"])
        mtu = network.get("mtu")
        mac = str(port.get("mac", "")).lower()
        data["links"].append(
            {"id": link, "vif_id": port["id"], "type": "bridge", "mtu": mtu, "ethernet_mac_address": mac}
        )
        for text in port.get("addresses") or []:
            address = ipaddress.ip_address(text)
            for subnet in network.get("subnets") or []:
                if address not in ipaddress.ip_network(subnet["cidr"], strict=False):
                    continue
                name = f"network{len(data['networks'])}"
                data["networks"].append(_build_subnet_network(name, address, subnet, link, network["id"]))
                for server in subnet.get("dns_nameservers") or []:
                    service = {"type": "dns", "address": server}
                    if service not in data["services"]:
                        data["services"].append(service)
    return data


def _build_content(server: dict, mine: list[dict], networks: dict, devices: list[dict]) -> dict:
    addresses = [ipaddress.ip_address(address) for port in mine for address in port.get("addresses") or []]
    return {
        "metadata": {**server["metadata"], "devices": devices} if devices else server["metadata"],
        "network_data": build_network_data(mine, networks),
        "local_ipv4": next((str(address) for address in addresses if address.version == 4), None),
    }


def build_content(document: dict, server: dict, places: dict | None = None) -> dict:
    """All that a server (its row of the document) is told of itself; KumoError names what of it is wrong.

    ``places`` are those of its devices, as device_tags.parse_places has them.
    """
    networks = {network["id"]: network for network in document["networks"]}
    ports = {port["id"]: port for port in document["ports"]}
    mine = [ports[port] for port in server.get("ports") or [] if port in ports]
    try:
        devices = device_tags.build_devices(document, server, places or {}, ports)
        return _build_content(server, mine, networks, devices)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KumoError(f"server {server['id']}: its metadata cannot be built: {error}") from None


def _build_server_files(
    document: dict, server: dict, networks: dict, ports: dict, places: dict
) -> dict[tuple[str, str], str]:
    """{(namespace, address): text of the file} of one server; KumoError names what of it is wrong."""
    mine = [ports[port] for port in server.get("ports") or [] if port in ports]
    built: dict[tuple[str, str], str] = {}
    try:
        devices = device_tags.build_devices(document, server, places.get(server["id"], {}), ports)
        content = _build_content(server, mine, networks, devices)
        content["posted_password"] = {"server": server["id"], **posted_passwords.parse_wanted(server)}
        for port in mine:
            network = networks.get(port["network"])
            namespace = choose_home_namespace(network) if network else None
            if namespace is None:
                continue
            keys = [str(ipaddress.ip_address(address)) for address in port.get("addresses") or []]
            interface = choose_home_interface(network, document["routers"])
            if interface:
                keys.append(f"{build_link_local(parse_mac(port.get('mac')))}%{interface}")
            for key in keys:
                built[(namespace, key)] = _write({**content, "address": key})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KumoError(f"server {server['id']}: its metadata cannot be built: {error}") from None
    return built


def plan_metadata(document: dict, observed: dict) -> list[Action]:
    """``serve`` for every address whose file differs, ``forget`` for every address no port has any more."""
    networks = {network["id"]: network for network in document["networks"]}
    ports = {port["id"]: port for port in document["ports"]}
    places = observed.get("_places", {})
    observed = {name: rows for name, rows in observed.items() if name != "_places"}
    actions: list[Action] = []
    wanted: dict[tuple[str, str], str] = {}
    for server in document["servers"]:
        if server.get("wanted") == "absent" or not server.get("metadata"):
            continue
        try:
            built = _build_server_files(document, server, networks, ports, places)
        except KumoError as error:
            actions.append(Action(SECTION, server["id"], "refuse", {"error": str(error)}, "", f"refused: {error}\n"))
            continue
        for (namespace, address), text in sorted(built.items()):
            wanted[(namespace, address)] = text
            seen = observed.get(namespace, {}).get(address)
            if seen == _digest(text):
                continue
            place = f"metadata of server {server['id']} for {address} in {namespace}"
            args = {"namespace": namespace, "address": address, "text": text}
            before = f"{place}: sha256 {seen}\n" if seen else ""
            after = f"{place}: sha256 {_digest(text)}\n"
            actions.append(Action(SECTION, server["id"], "serve", args, before, after))
    for namespace, rows in sorted(observed.items()):
        for address in sorted(rows):
            if (namespace, address) not in wanted:
                args = {"namespace": namespace, "address": address}
                actions.append(Action(SECTION, HOST, "forget", args, f"metadata for {address} in {namespace}\n", ""))
        if not any(name == namespace for name, _ in wanted):
            args = {"namespace": namespace}
            actions.append(Action(SECTION, HOST, "leave", args, f"metadata service in {namespace}\n", ""))
    return actions


def apply_metadata(document: dict, action: Action) -> None:
    """One file written or removed, or an empty directory removed (the daemon then leaves that namespace)."""
    args = action.args
    if action.verb == "refuse":
        raise KumoError(args["error"])
    directory = state_path(document, "metadata", args["namespace"])
    if action.verb == "serve":
        files.apply_text(directory / f"{args['address']}.json", args["text"])
    elif action.verb == "forget":
        (directory / f"{args['address']}.json").unlink(missing_ok=True)
    elif directory.is_dir():
        for path in directory.glob(".*"):  # what a killed write left behind
            path.unlink(missing_ok=True)
        try:
            directory.rmdir()
        except OSError as error:
            raise KumoError(f"{directory} cannot be removed: {error.strerror}") from None


def report_metadata(document: dict, observed: dict) -> dict:
    """Nothing that the API stores; pending where a guest that this run has defined has its devices somewhere now."""
    if not observed.get("_places"):
        return {}
    return {"pending": any(action.verb == "serve" for action in plan_metadata(document, observed))}
