"""Servers of the document as guests: what is, and what has to be done. Power and reboot are states, not commands.

``state.json`` beside a guest's disk keeps what libvirt cannot: {reboot_done, start_done, off_by, stopping_since,
pressed_at, rebooting, disk}. ``off_by`` says who switched the guest off: ``us``, or ``guest`` (it shut itself
down; it then stays off until the document says ``power: off`` or asks for a start). plan_ and report_ are pure.
Next room: ``guests.py`` carries out the verbs.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from . import (
    console,
    domain_xml,
    files,
    guest_volumes,
    guests,
    host_facts,
    images,
    libvirt_connection,
    names,
    probe,
    tasks,
)
from .core import Action, state_path
from .errors import KumoError
from .server_rows import parse_server

SECTION = "servers"
PARALLEL = True
# A guest that is still booting does not hear the power button: press it again.
PRESS_EVERY_S = 5


def read_servers(document: dict) -> dict:
    """{server id: what _read_server gives}, and the host's own under keys that begin with ``_``."""
    connection = libvirt_connection.connect()
    domains = libvirt_connection.read_domains(connection)
    directory = state_path(document, "servers")
    folders = set(os.listdir(directory)) if directory.is_dir() else set()
    fetching = {
        record["object_id"]
        for record in tasks.read_tasks(document, images.KIND).values()
        if record["state"] == "running"
    }
    known = {server["id"] for server in document["servers"]}
    observed: dict = {
        "_now": time.time(),
        "_virt_type": probe.read_virt_type(document),
        "_taps": _read_taps(),
        "_orphans": {"domains": sorted(set(domains) - known), "disks": sorted(folders - known)},
    }
    for server in document["servers"]:
        here = server["id"] in folders
        observed[server["id"]] = _read_server(document, server, domains.get(server["id"]), here, fetching)
    running = sum(1 for row in known if observed[row]["state"] == "running")
    observed["_host"] = host_facts.read_host(document, connection, running, observed["_virt_type"])
    return observed


def _read_server(document: dict, server: dict, domain, here: bool, fetching: set) -> dict:
    directory = guests.build_directory(document, server["id"])
    seen = {
        "defined": False,
        "state": None,
        "reason": "",
        "owned": None,
        "nics": None,
        "volumes": None,
        "defined_volumes": [],
        "files": here,
        "disk": here and (directory / "disk").exists(),
        "kept": guests.read_kept(document, server["id"]) if here else None,
        "console": None,
        "fetching": server.get("image") in fetching,
    }
    asked = server.get("console") or {}
    if here and asked.get("wanted") is not None:
        seen["console"] = {
            "seq": asked["wanted"],
            "text": console.read_tail(directory / "console.log", asked.get("lines")),
        }
    state = libvirt_connection.read_state(domain) if domain is not None else None
    text = libvirt_connection.read_xml(domain, inactive=True) if state else None
    if text is None:
        return seen
    seen.update(defined=True, state=state[0], reason=state[1])
    tree = domain_xml.parse_xml(text)
    seen["owned"] = domain_xml.parse_owned(tree)
    seen["defined_volumes"] = sorted(domain_xml.parse_volumes(tree))
    if state[0] == "running":
        live = libvirt_connection.read_xml(domain, inactive=False)
        seen["nics"] = domain_xml.parse_live_nics(live) if live else None
        seen["volumes"] = guest_volumes.find_live(domain, live) if live else None
    return seen


def _read_taps() -> list[str]:
    """The names of Kumo's tap devices that are up."""
    prefix = names.build_tap_name("")
    up = []
    for name in os.listdir("/sys/class/net"):
        if name.startswith(prefix):
            flags = files.read_text(Path("/sys/class/net", name, "flags")).strip()
            if flags and int(flags, 16) & 1:  # IFF_UP
                up.append(name)
    return sorted(up)


def plan_servers(document: dict, observed: dict) -> list[Action]:
    """The verbs for each server, in order; pure."""
    actions: list[Action] = []
    for row in document["servers"]:
        seen = observed[row["id"]]
        if row.get("wanted", "present") == "absent":
            if seen["defined"] or seen["files"]:
                before = _text({"state": seen["state"] or "files only"})
                actions.append(Action(SECTION, row["id"], "remove", {}, before, ""))
            continue
        try:
            actions += _plan_server(document, parse_server(row), seen, observed)
        except KumoError as error:
            actions.append(Action(SECTION, row["id"], "refuse", {"error": str(error)}))
    return actions


def _plan_server(document: dict, server: dict, seen: dict, observed: dict) -> list[Action]:
    nics = domain_xml.build_nics(document, server)
    verbs: list[tuple] = []
    kept = seen["kept"]
    has_disk = seen["disk"] or not guest_volumes.has_local_root(server)
    if not seen["defined"] or kept is None or not has_disk:
        if seen["fetching"] and not has_disk:
            return []  # pending: the run that finds the image goes on
        verbs.append(("create", {}, "", _text(_build_outline(server, nics))))
        kept = kept or guests.build_kept(server)
        seen = {**seen, "state": seen["state"] or "shutoff"}
    else:
        wanted = guests.build_owned(document, server, nics, kept, observed["_virt_type"])
        have = {name: value for name, value in seen["owned"].items() if name in wanted}
        if wanted != have:
            changed = [name for name in wanted if wanted[name] != have[name]]
            texts = [_text({name: side[name] for name in changed}) for side in (have, wanted)]
            verbs.append(("redefine", {}, *texts))
        verbs += _plan_live_nics(nics, seen["nics"])
        verbs += guest_volumes.plan_live(server["volumes"], seen["volumes"])
    power = _plan_on if server["power"] == "on" else _plan_off
    verbs += power(document, server, seen, kept, observed["_now"])
    needs = _build_requires(server, nics)
    return [
        Action(
            SECTION, server["id"], verb, {"server": server, **args}, before, after, needs if verb in STARTING else ()
        )
        for verb, args, before, after in verbs
    ]


STARTING = {"create", "start", "reboot_hard", "attach_port"}


def _build_requires(server: dict, nics: list[dict]) -> tuple:
    """A guest is not started on a network or target that failed, nor with a firewall that is not the wanted one."""
    needed = [("images", server["image"])] if server["image"] else []
    needed += [("networks", network) for network in sorted({nic["network"] for nic in nics})]
    needed += [("firewall", "host")] if nics else []
    needed += [("firewall", nic["port"]) for nic in nics]
    needed += [("exports", volume["attachment"]) for volume in server["volumes"]]  # where this host makes them
    return tuple(needed)


def _plan_live_nics(nics: list[dict], live: list[dict] | None) -> list[tuple]:
    """Ports added to, removed from or changed on a running guest (``live`` is None where it does not run)."""
    if live is None:
        return []
    wanted = {nic["tap"]: nic for nic in nics}
    have = {nic["tap"]: nic for nic in live if (nic["tap"] or "").startswith(names.build_tap_name(""))}
    verbs: list[tuple] = []
    for tap in sorted(have.keys() - wanted.keys()):
        verbs.append(("detach_port", {"mac": have[tap]["mac"]}, f"NIC {have[tap]['mac']}\n", ""))
    for tap, nic in wanted.items():
        if tap not in have:
            verbs.append(("attach_port", {"nic": nic}, "", f"NIC {nic['mac']} on {nic['bridge']}\n"))
        elif have[tap]["link"] != nic["link"]:
            texts = [f"NIC {nic['mac']} {link}\n" for link in (have[tap]["link"], nic["link"])]
            verbs.append(("update_port", {"nic": nic}, *texts))
    return verbs


def _plan_on(document: dict, server: dict, seen: dict, kept: dict, now: float) -> list[tuple]:
    state, reboot, starts = seen["state"], server["reboot"]["wanted"], server["start"]["wanted"]
    limit = document["settings"]["stop_timeout_s"]
    ours = kept["off_by"] == "us" or kept["rebooting"] is not None
    if state in ("shutoff", "crashed"):
        asked = starts > kept["start_done"] or reboot > kept["reboot_done"]
        if seen["reason"] == "shutdown" and kept["off_by"] is None and not ours and not asked:
            return [_record({"off_by": "guest"}, "the guest shut itself down\n")]
        if kept["off_by"] == "guest" and not asked:
            return []
        return [("start", {}, _text({"state": state, "reason": seen["reason"]}), _text({"state": "running"}))]
    if state != "running":  # paused or suspended: by an operator or an error, not ours to wake
        return []
    if reboot > kept["reboot_done"]:
        soft = kept["rebooting"]
        rebooted = _text({"reboot_done": reboot})
        before = _text({"reboot_done": kept["reboot_done"]})
        if server["reboot"]["type"] == "HARD" or (soft and _is_over(soft["since"], now, limit)):
            return [("reboot_hard", {}, before, rebooted)]
        if soft is None:
            return [("reboot_soft", {}, before, rebooted)]
        return _press(kept, now)
    changes: dict = {}
    if kept["stopping_since"] is not None:
        # Asked to stop, then to run: it may still go down (and is started then), or have missed the button.
        if not _is_over(kept["stopping_since"], now, limit):
            return []
        changes["stopping_since"] = None
    if kept["off_by"] is not None:
        changes["off_by"] = None
    if kept["rebooting"] is not None:
        changes["rebooting"] = None
    if starts > kept["start_done"]:
        changes["start_done"] = starts
    return [_record(changes, _text({"state": "running"}))] if changes else []


def _plan_off(document: dict, server: dict, seen: dict, kept: dict, now: float) -> list[tuple]:
    texts = (_text({"state": seen["state"]}), _text({"state": "shutoff"}))
    if seen["state"] in ("shutoff", None):
        done = guests.build_off(server)
        changes = {name: value for name, value in done.items() if kept[name] != value}
        if not seen["defined"]:
            return []  # just created, and never started: the state written with it says so
        return [_record(changes, texts[1])] if changes else []
    if seen["state"] == "crashed" or not server["stop"]["graceful"] or seen["state"] != "running":
        return [("destroy", {}, *texts)]
    if kept["stopping_since"] is None:
        return [("stop", {}, *texts)]
    if _is_over(kept["stopping_since"], now, document["settings"]["stop_timeout_s"]):
        return [("destroy", {}, *texts)]
    return _press(kept, now)


def _press(kept: dict, now: float) -> list[tuple]:
    if not _is_over(kept["pressed_at"] or 0, now, PRESS_EVERY_S):
        return []
    return [("press_power_button", {}, "", "power button pressed again\n")]


def _record(changes: dict, after: str) -> tuple:
    return ("record", {"changes": changes}, "", after)


def _is_over(since: float, now: float, limit: float) -> bool:
    """Whether ``limit`` seconds have passed; also where the clock was set back."""
    return not since <= now < since + limit


def _text(values: dict) -> str:
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def _build_outline(server: dict, nics: list[dict]) -> dict:
    outline = {name: server[name] for name in ("vcpus", "memory_mb", "root_gb", "image", "power")}
    return {**outline, "nics": [{name: nic[name] for name in ("port", "mac", "bridge")} for nic in nics]}


def apply_servers(document: dict, action: Action) -> None:
    """Carry out one verb; KumoError with the reason."""
    if action.verb == "refuse":
        raise KumoError(action.args["error"])
    if action.verb == "remove":
        guests.apply_remove(document, action.object_id)
        return
    guests.VERBS[action.verb](document, **action.args)


def report_servers(document: dict, observed: dict) -> dict:
    """``servers``, ``ports``, ``host`` and ``orphans`` as docs/foundation.md has them."""
    servers, pending, up = {}, False, set()
    for row in document["servers"]:
        seen = observed[row["id"]]
        kept = seen["kept"] or {}
        absent = row.get("wanted", "present") == "absent"
        pending = pending or (not absent and _is_pending(row, seen, kept))
        if not seen["defined"]:
            continue
        if seen["state"] == "running":
            up |= {port for port in row.get("ports") or [] if names.build_tap_name(port) in observed["_taps"]}
        servers[row["id"]] = {
            "state": seen["state"],
            "reason": seen["reason"],
            "reboot_done": kept.get("reboot_done", 0),
            "start_done": kept.get("start_done", 0),
            "stop_pending": seen["state"] == "running" and kept.get("stopping_since") is not None,
            "ports": [port for port in row.get("ports") or [] if port in up],
            "volumes": sorted(seen["volumes"]) if seen["volumes"] is not None else seen["defined_volumes"],
            "volume_errors": kept.get("volume_errors") or {},
            "console": seen["console"],
        }
    ports = {
        port["id"]: {"state": "active" if port["id"] in up else "down"}
        for port in document["ports"]
        if port.get("server")
    }
    return {
        "servers": servers,
        "ports": ports,
        "host": observed["_host"],
        "orphans": observed["_orphans"],
        "pending": pending,
    }


def _is_pending(row: dict, seen: dict, kept: dict) -> bool:
    """Something is under way that a later run has to look at."""
    if not seen["defined"]:
        return seen["fetching"]
    if seen["state"] != "running":
        return kept.get("rebooting") is not None
    if set(seen["volumes"] or ()) - {volume["attachment"] for volume in row.get("volumes") or []}:
        return True  # the guest has been asked to let go of a volume, and has not yet
    return kept.get("stopping_since") is not None or kept.get("rebooting") is not None
