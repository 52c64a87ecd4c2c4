"""The section dhcp: one dnsmasq per network, in the network's home namespace, for addresses and names.

Owns ``state_dir/networks/<network id>/``. A changed reservation is a SIGHUP where dnsmasq bears it, anything else a
restart. The daemon detaches itself and keeps nothing of the caller open. Texts are built in dnsmasq.py; next:
metadata.py.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from . import dnsmasq, files, legs, namespaces
from .core import Action, state_path
from .errors import KumoError
from .names import choose_home_interface, choose_home_namespace
from .routers import apply_forgetting

SECTION = "dhcp"
PARALLEL = True
FILES = ("dnsmasq.conf", "hosts", "opts")
START_S = 10


def _folder(document: dict, network_id: str) -> Path:
    return state_path(document, "networks", network_id)


def read_account() -> dict:
    """{user, group} that dnsmasq runs as: the package's own, or nobody."""
    for user in ("dnsmasq", "nobody"):
        with contextlib.suppress(KeyError):
            return {"user": user, "group": grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name}
    raise KumoError("this host has neither a user dnsmasq nor a user nobody")


def _read_process(folder: Path) -> dict | None:
    """{pid, inode} of the living dnsmasq of this folder, by its pid file and its command line."""
    text = files.read_text(folder / "pid").strip()
    with contextlib.suppress(OSError, ValueError):
        if f"{folder}/dnsmasq.conf".encode() in Path("/proc", str(int(text)), "cmdline").read_bytes():
            return {"pid": int(text), "inode": os.stat(f"/proc/{int(text)}/ns/net").st_ino}
    return None


def _read_index(namespace: str, interface: str) -> int:
    with contextlib.suppress(OSError, KumoError), namespaces.enter(namespace):
        return socket.if_nametoindex(interface)
    return 0


def read_dhcp(document: dict) -> dict:
    """{account, networks: {id: {files, leases, process, bound, inode, index}}} of what has a folder or shall have one.

    ``bound`` is the interface index that the daemon was started on, ``index`` the one there is now.
    """
    living = namespaces.read_namespaces()
    wanted = {row["id"]: row for row in document["networks"]}
    folders = state_path(document, "networks")
    present = {entry.name for entry in os.scandir(folders)} if folders.is_dir() else set()
    seen = {}
    for network_id in sorted(present | set(wanted)):
        folder = _folder(document, network_id)
        row = {
            "files": {name: files.read_text(folder / name) for name in FILES},
            "leases": dnsmasq.parse_leases(files.read_text(folder / "leases")),
            "process": _read_process(folder),
            "bound": files.read_json(folder / "bound", 0),
            "present": network_id in present,
            "inode": 0,
            "index": 0,
        }
        network = wanted.get(network_id)
        namespace = choose_home_namespace(network) if network else None
        interface = choose_home_interface(network, document["routers"]) if network else None
        if namespace in living and interface:
            row |= {"inode": living[namespace], "index": _read_index(namespace, interface)}
        seen[network_id] = row
    return {"account": read_account(), "networks": seen}


def _list_held(document: dict, network: dict, interface: str) -> list[str]:
    """The home namespace's addresses on a network."""
    if network["home"]["kind"] == "network":
        return legs.build_network_leg(document, network)["addresses"]
    router = next(row for row in document["routers"] if row["id"] == network["home"]["id"])
    ours = next(row for row in router["interfaces"] if row["network"] == network["id"])
    return legs.build_homed_addresses(network, ours)


def plan_dhcp(document: dict, observed: dict) -> list[Action]:
    """start, restart, reload or remove, at most one per network."""
    actions, served = [], set()
    for network in document["networks"]:
        if not network.get("home") or not dnsmasq.list_served(network):
            continue
        served.add(network["id"])
        try:
            action = _plan_network(document, network, observed["networks"][network["id"]], observed["account"])
        except (KumoError, ValueError, KeyError) as error:
            sentence = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            action = Action(SECTION, network["id"], "refuse", {"refuse": sentence})
        actions += [action] if action else []
    for network_id, seen in observed["networks"].items():
        if network_id not in served and seen["present"]:
            before = "dnsmasq runs\n" if seen["process"] else ""
            actions.append(Action(SECTION, network_id, "remove", {"remove": True}, before, ""))
    return actions


def _plan_network(document: dict, network: dict, seen: dict, account: dict) -> Action | None:
    interface = choose_home_interface(network, document["routers"])
    namespace = choose_home_namespace(network)
    home = network["home"]
    if interface is None:
        raise KumoError(f"network {network['id']}: its home, router {home['id']}, has no interface on it")
    held = _list_held(document, network, interface)
    folder, settings = str(_folder(document, network["id"])), document["settings"]
    texts = {
        "dnsmasq.conf": dnsmasq.build_config(network, settings, interface, held, account, folder),
        "hosts": dnsmasq.build_hosts(network),
        "opts": dnsmasq.build_opts(network, settings, held),
    }
    changed = [name for name in FILES if texts[name] != seen["files"][name]]
    reservations = dnsmasq.parse_hosts(texts["hosts"])
    stale = dnsmasq.list_stale(seen["leases"], reservations)
    gone = [row for row in dnsmasq.parse_hosts(seen["files"]["hosts"]) if row not in reservations]
    process = seen["process"]
    if not process:
        verb = "start"
    elif process["inode"] != seen["inode"] or not seen["index"] or seen["bound"] != seen["index"]:
        verb = "restart"  # its namespace or interface was made anew
    elif "dnsmasq.conf" in changed or stale or (changed and not dnsmasq.can_reload(seen["files"]["hosts"])):
        verb = "restart"
    elif changed:
        verb = "reload"
    else:
        return None
    args = {
        "files": {name: texts[name] for name in changed},
        "pid": process["pid"] if process else None,
        "namespace": namespace,
        "interface": interface,
        "group": account["group"],
        "release": stale,
        "forget": sorted({address for _, address in gone}),
    }
    requires = ((home["kind"] + "s", home["id"]), ("networks", network["id"]))
    state = "dnsmasq runs\n" if process else "dnsmasq does not run\n"
    before = state + "".join(seen["files"][name] for name in changed)
    after = "dnsmasq runs\n" + "".join(texts[name] for name in changed)
    return Action(SECTION, network["id"], verb, args, before, after, requires)


def apply_dhcp(document: dict, action: Action) -> None:
    """One planned change; KumoError has dnsmasq's own complaint where it does not start."""
    args, folder = action.args, _folder(document, action.object_id)
    if "refuse" in args:
        raise KumoError(args["refuse"])
    if "remove" in args:
        _apply_end(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return
    # First what the old reservations left: once the new ones are written nothing tells of them.
    if args["forget"]:
        apply_forgetting(args["namespace"], args["forget"])
    group = grp.getgrnam(args["group"]).gr_gid
    for name, text in args["files"].items():
        files.apply_text(folder / name, text, 0o640)
        os.chown(folder / name, 0, group)
    for place in (folder, folder.parent):
        # dnsmasq reads its reservations again as its own user; the umask of a run may be 077.
        place.chmod(0o711)
    if action.verb == "reload":
        os.kill(args["pid"], signal.SIGHUP)
        return
    _apply_end(folder)
    if args["release"]:
        leases = dnsmasq.build_leases(files.read_text(folder / "leases"), args["release"])
        files.apply_text(folder / "leases", leases, 0o640)
    index = _read_index(args["namespace"], args["interface"])
    _apply_start(folder, args["namespace"])
    files.apply_json(folder / "bound", index)


def _apply_end(folder: Path) -> None:
    """End every dnsmasq that has this folder's configuration, whatever its pid file says."""
    config = f"--conf-file={folder}/dnsmasq.conf".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if config in Path("/proc", entry, "cmdline").read_bytes():
                    namespaces.apply_stop(int(entry))
    (folder / "pid").unlink(missing_ok=True)


def _apply_start(folder: Path, namespace: str) -> None:
    with tempfile.TemporaryFile() as said, namespaces.enter(namespace):
        # A file and no pipe: a daemon that kept a pipe open would keep its reader waiting.
        try:
            code = subprocess.run(
                ["dnsmasq", f"--conf-file={folder}/dnsmasq.conf"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                timeout=START_S,
            ).returncode
        except FileNotFoundError:
            raise KumoError("dnsmasq is not installed; the role hypervisor installs dnsmasq-base") from None
        except subprocess.TimeoutExpired:
            raise KumoError(f"dnsmasq did not detach within {START_S} s") from None
        if code:
            said.seek(0)
            raise KumoError(f"dnsmasq does not start: {' '.join(said.read(2000).decode('utf-8', 'replace').split())}")


def report_dhcp(document: dict, observed: dict) -> dict:
    """Nothing of its own: the API shows no DHCP servers, and a failure is in the results."""
    return {}
