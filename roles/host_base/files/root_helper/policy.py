"""The allow-list of kumo-root: which commands, and which places and names a document may speak of.

A document is not trusted: whoever holds the account kumo can write one. It may ask for anything inside the
places below, and for nothing outside them. Lines of a file are `name = words`; names and their meaning:

    commands         apply, check, probe          sections         what apply and check may bring about
    state_dirs       where modules keep files     image_dirs       where images may be copied from
    storage_dirs     of the backend file          volume_groups    of the backend lvm
    bridges          of physical networks         interfaces       NICs that may be put under them
    peers            addresses or networks of hosts that guests may move to and from
    image_services   where guests' disks may be put as images: the cloud's own image service (http://HOST:PORT)
"""

import ipaddress
import os
import re
import stat

NAMES = (
    "commands", "sections", "state_dirs", "image_dirs", "storage_dirs", "volume_groups", "bridges", "interfaces",
    "peers", "image_services",
)  # fmt: skip
COMMANDS = ("apply", "check", "probe")
STATE_DIR = "/var/lib/kumo/host"
LVM_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,126}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PORTAL = re.compile(r"(\[[0-9a-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
# Texts of people, which no section makes a line of a configuration or of a command of.
FREE = ("servers",)
# The parts of a document that become lines of dnsmasq's, iproute2's and iptables' files.
LINES = ("settings", "networks", "routers", "security_groups", "ports", "volumes", "snapshots", "images")
SPACED = ("value",)  # a DHCP option's value may hold blanks


class PolicyError(Exception):
    """What is refused, and why."""


def check_owner(path: str, what: str) -> os.stat_result:
    """``path`` is root's, no symbolic link, and nobody else may write to it (or, a sticky directory, replace in it)."""
    try:
        seen = os.lstat(path)
    except OSError as error:
        raise PolicyError(f"{what} {path!r}: {error.strerror}; run `kumo host prepare` for this host") from None
    if stat.S_ISLNK(seen.st_mode):
        raise PolicyError(f"{what}: {path!r} is a symbolic link")
    if seen.st_uid != 0:
        raise PolicyError(f"{what}: {path!r} is not root's")
    if seen.st_mode & 0o022 and not (stat.S_ISDIR(seen.st_mode) and seen.st_mode & stat.S_ISVTX):
        raise PolicyError(f"{what}: {path!r} may be written to by others than root")
    return seen


def check_directory(path: str, what: str) -> None:
    """The directory and all above it are root's."""
    at = "/"
    check_owner(at, what)
    for part in path.strip("/").split("/"):
        at = os.path.join(at, part)
        seen = check_owner(at, what)
        if not stat.S_ISDIR(seen.st_mode):
            raise PolicyError(f"{what}: {at!r} is no directory")


def parse_policy(text: str, where: str) -> dict:
    """{name: words} of a file's text."""
    found: dict = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        name, sign, words = line.partition("=")
        if not sign or name.strip() not in NAMES:
            raise PolicyError(f"{where}:{number}: this is no line of an allow-list")
        found.setdefault(name.strip(), []).extend(words.split())
    return found


def read_policy(directory: str) -> dict:
    """The allow-list: every *.conf of a directory, all of them root's; nothing is allowed by default."""
    check_directory(directory, "allow-list")
    merged: dict = {name: [] for name in NAMES}
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".conf"):
            continue
        path = os.path.join(directory, name)
        check_owner(path, "allow-list")
        with open(path, encoding="utf-8") as stream:
            for key, words in parse_policy(stream.read(), path).items():
                merged[key] += words
    sections = merged.pop("sections")
    merged["commands"] = {name: sections for name in merged["commands"] if name in COMMANDS}
    for key in ("state_dirs", "image_dirs", "storage_dirs"):
        for path in merged[key]:
            _check_path(path, f"allow-list: {key}")
    for text in merged["peers"]:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            raise PolicyError(f"allow-list: peers: {text!r} is no address or network") from None
    return merged


def _check_path(path, what: str) -> None:
    if not isinstance(path, str) or not path.startswith("/") or os.path.normpath(path) != path or path == "/":
        raise PolicyError(f"{what} {path!r} is no plain absolute path")


def is_below(path: str, directories) -> bool:
    """Whether a plain absolute path lies in one of the directories."""
    return any(path.startswith(directory.rstrip("/") + "/") for directory in directories)


def check_document(document: dict, allowed: dict) -> None:
    """PolicyError for what root may not be led to by a document that has the right form."""
    settings = document.get("settings") or {}
    state_dir = settings.get("state_dir", STATE_DIR)
    if state_dir not in allowed["state_dirs"]:
        raise PolicyError(f"document.settings.state_dir {state_dir!r} is not allowed")
    check_directory(state_dir, "document.settings.state_dir")
    for name in LINES:
        check_lines(document.get(name), f"document.{name}")
    for name, row in (settings.get("physical_networks") or {}).items():
        _check_physical(row, allowed, f"document.settings.physical_networks.{name}")
    if settings.get("tunnel_address") is not None:
        _parse_address(settings["tunnel_address"], "document.settings.tunnel_address")
    if settings.get("storage"):
        _check_storage(settings["storage"], allowed)
    peers = [ipaddress.ip_network(text) for text in allowed["peers"]]
    for index, server in enumerate(document.get("servers") or []):
        _check_peer(server, peers, f"document.servers[{index}]")
        if server.get("snapshot"):
            _check_upload(server["snapshot"], allowed, f"document.servers[{index}].snapshot")
    for index, image in enumerate(document.get("images") or []):
        _check_source(image["source"], allowed, f"document.images[{index}].source")


def check_lines(value, where: str, spaced: bool = False) -> None:
    """No text that becomes part of a line may end it, or (but for a DHCP option's value) begin another word."""
    if isinstance(value, str):
        if not value.isprintable() or (" " in value and not spaced):
            raise PolicyError(f"{where}: {value[:60]!r} holds a blank or a control character")
    elif isinstance(value, dict):
        for name, item in value.items():
            check_lines(name, where)
            check_lines(item, f"{where}.{name}", spaced or name in SPACED)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_lines(item, f"{where}[{index}]", spaced)


def _parse_address(text: str, where: str):
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        raise PolicyError(f"{where}: {text!r} is no address") from None
    if address.ip.is_loopback or address.ip.is_multicast or address.ip.is_unspecified:
        raise PolicyError(f"{where}: {text!r} is no address for a bridge")
    return address


def _check_peer(server: dict, peers: list, where: str) -> None:
    """A guest may be sent to, and its disk be fetched from, a hypervisor of this cloud and nobody else."""
    offer = (server.get("incoming") or {}).get("offer") or {}
    outgoing = server.get("outgoing") or {}
    for name, place in (("outgoing", outgoing), ("incoming.offer", offer)):
        text = place.get("address")
        if text is None:
            continue
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise PolicyError(f"{where}.{name}.address {text[:60]!r} is no address") from None
        if not any(address in network for network in peers):
            raise PolicyError(f"{where}.{name}.address {text!r} is not allowed")
    port = offer.get("port")
    if port is not None and not 1024 <= port <= 65535:
        raise PolicyError(f"{where}.incoming.offer.port {port} is not allowed")
    if offer.get("name") is not None and not UUID.fullmatch(offer["name"]):
        raise PolicyError(f"{where}.incoming.offer.name is no migration's id")


def _check_upload(snapshot: dict, allowed: dict, where: str) -> None:
    """A guest's disk goes to this cloud's image service and nowhere else."""
    check_lines(snapshot, where)
    path = rf"/image/hosts/{UUID.pattern}/images/{UUID.pattern}"
    bases = (base.rstrip("/") for base in allowed["image_services"])
    if not any(re.fullmatch(re.escape(base) + path, snapshot["url"]) for base in bases):
        raise PolicyError(f"{where}.url {snapshot['url'][:120]!r} is not allowed")


def _check_physical(row: dict, allowed: dict, where: str) -> None:
    if row["bridge"] not in allowed["bridges"]:
        raise PolicyError(f"{where}.bridge {row['bridge']!r} is not allowed")
    if row.get("interface") and row["interface"] not in allowed["interfaces"]:
        raise PolicyError(f"{where}.interface {row['interface']!r} is not allowed")
    for text in row.get("addresses") or []:
        if _parse_address(text, f"{where}.addresses").network.prefixlen < 8:
            raise PolicyError(f"{where}.addresses: {text!r} would take half the world's routes")


def _check_storage(storage: dict, allowed: dict) -> None:
    where = "document.settings.storage"
    if not PORTAL.fullmatch(storage["portal"]):
        raise PolicyError(f"{where}.portal {storage['portal']!r} is not address:port")
    directory = storage.get("directory")
    if directory is not None:
        if directory not in (*allowed["storage_dirs"], *allowed["state_dirs"]):
            raise PolicyError(f"{where}.directory {directory!r} is not allowed")
        check_directory(directory, f"{where}.directory")
    for name in ("volume_group", "thin_pool"):
        if storage.get(name) is not None and not LVM_NAME.fullmatch(storage[name]):
            raise PolicyError(f"{where}.{name} {storage[name]!r} is no name of LVM's")
    if storage["backend"] == "lvm" and storage.get("volume_group") not in allowed["volume_groups"]:
        raise PolicyError(f"{where}.volume_group {storage.get('volume_group')!r} is not allowed")


def _check_source(source: dict, allowed: dict, where: str) -> None:
    if set(source) == {"path"}:
        _check_path(source["path"], f"{where}.path")
        if not is_below(source["path"], allowed["image_dirs"]):
            raise PolicyError(f"{where}.path {source['path']!r} is not allowed")
        return
    headers = source.get("headers", {})
    texts = isinstance(headers, dict) and all(isinstance(text, str) for text in headers.values())
    if not set(source) <= {"url", "headers"} or not texts:
        raise PolicyError(f"{where} is neither {{path}} nor {{url, headers}}")
    if not isinstance(source.get("url"), str) or not re.match(r"https?://", source["url"]):
        raise PolicyError(f"{where}.url is no http or https address")
