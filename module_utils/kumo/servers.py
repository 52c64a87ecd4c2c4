"""Servers of the document as guests: what is, and what has to be done. Power and reboot are states, not commands.

``state.json`` beside a guest's disk keeps what libvirt cannot: {reboot_done, start_done, off_by, stopping_since,
pressed_at, rebooting, disk, volume_errors, move, rescue}. ``off_by`` says who switched the guest off: ``us``, or
``guest`` (it shut itself down; it then stays off until the document says ``power: off`` or asks for a start). plan_ and
report_ are pure. Next rooms: ``power.py``, ``rescue.py`` and ``moves.py`` plan a part each; ``guests.py`` carries out
the verbs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from . import (
    backups,
    console,
    consoles,
    diagnostics,
    domain_xml,
    files,
    guest_password,
    guest_volumes,
    guests,
    host_facts,
    images,
    incoming,
    libvirt_connection,
    moves,
    names,
    outgoing,
    posted_passwords,
    power,
    probe,
    rebuilds,
    rescue,
    server_images,
    suspension,
    tasks,
)
from .core import Action, state_path
from .errors import KumoError
from .power import build_text
from .server_rows import parse_server

SECTION = "servers"
PARALLEL = True


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
    records = {task_id: row for task_id, row in tasks.read_tasks(document).items() if row["kind"] in KINDS}
    running_tasks: dict = {}
    for record in records.values():
        running_tasks.setdefault(record["object_id"], {})[record["kind"]] = record
    observed: dict = {
        "_tasks": records,
        "_now": time.time(),
        "_virt_type": probe.read_virt_type(document),
        "_taps": _read_taps(),
        "_secrets": guest_volumes.read_secrets(connection, document["settings"]["state_dir"]),
        "_orphans": {"domains": sorted(set(domains) - known), "disks": sorted(folders - known)},
    }
    for server in document["servers"]:
        here = server["id"] in folders
        own_tasks = running_tasks.get(server["id"], {})
        observed[server["id"]] = _read_server(document, server, domains.get(server["id"]), here, fetching, own_tasks)
        observed[server["id"]]["secrets"] = observed["_secrets"]
    running = sum(1 for row in known if observed[row]["state"] == "running")
    observed["_host"] = host_facts.read_host(document, connection, running, observed["_virt_type"])
    return observed


def _read_server(document: dict, server: dict, domain, here: bool, fetching: set, own_tasks: dict) -> dict:
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
        "diagnostics": None,
        "consoles": None,
        "agent": None,
        "posted": posted_passwords.read_posted(document, server["id"]) if here else {},
        "fetching": server.get("image") in fetching,
        "tasks": own_tasks,
        "persistent": False,
        "job": {},
        "secrets": [],
        "disk_size": backups.read_size(directory / "disk") if here else None,
        "backup": False,
        "rescue_image": rescue.read_image_state(document, server, fetching),
        "snapshot": server_images.read_record(directory) if here else None,
    }
    if here and server.get("backup"):
        seen["backup"] = backups.build_path(document, server["id"], server["backup"]["id"]).exists()
    asked = server.get("console") or {}
    if here and asked.get("wanted") is not None:
        seen["console"] = {
            "seq": asked["wanted"],
            "text": console.read_tail(directory / "console.log", asked.get("lines")),
        }
    state = libvirt_connection.read_state(domain) if domain is not None else None
    text = libvirt_connection.read_xml(domain, inactive=True) if state else None
    persistent = libvirt_connection.is_persistent(domain) if text is not None else None
    if persistent is None:
        text = None  # it went between two looks: somebody else's run deletes it
    if text is not None:
        seen.update(defined=True, state=state[0], reason=state[1])
    seen["diagnostics"] = diagnostics.read_answer(server, seen, domain)
    if text is None:
        return seen
    tree = domain_xml.parse_xml(text)
    seen["owned"] = domain_xml.parse_owned(tree)
    seen["defined_volumes"] = sorted(domain_xml.parse_volumes(tree))
    seen["persistent"] = persistent
    if server.get("incoming"):
        return seen  # a guest on its way answers no questions about its devices
    seen["job"] = outgoing.read_job(domain)
    if state[0] == "suspended":
        saved = suspension.read_saved_xml(domain)
        held = domain_xml.parse_volumes(domain_xml.parse_xml(saved)) if saved else {}
        seen["defined_volumes"] = sorted({*seen["defined_volumes"], *held})
    if state[0] in ("running", "paused"):
        live = libvirt_connection.read_xml(domain, inactive=False)
        seen["nics"] = domain_xml.parse_live_nics(live) if live else None
        devices = domain_xml.parse_xml(live) if live else None
        seen["consoles"] = consoles.read_ports(domain.name(), devices) if live else None
        seen["agent"] = guest_password.read_agent(server, domain.name(), devices) if live else None
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
            if seen["defined"] or seen["files"] or seen["tasks"]:
                before = build_text({"state": seen["state"] or "files only"})
                actions.append(Action(SECTION, row["id"], "remove", {}, before, ""))
            continue
        try:
            actions += _plan_row(document, row, seen, observed)
        except KumoError as error:
            actions.append(Action(SECTION, row["id"], "refuse", {"error": str(error)}))
    return actions + _plan_stray_secrets(document, observed, {action.object_id for action in actions})


def _plan_stray_secrets(document: dict, observed: dict, busy: set) -> list[Action]:
    """Passwords that a killed run left in libvirt go; those of guests that come, or use them now, stay."""
    needed = set()
    for row in document["servers"]:
        if row.get("incoming") or row["id"] in busy:
            needed |= {volume.get("attachment") for volume in row.get("volumes") or []}
        needed |= set((((observed[row["id"]]["kept"] or {}).get("move")) or {}).get("attachments") or [])
    strays = [one for one in observed.get("_secrets", []) if one not in needed]
    return [Action(SECTION, one, "drop_secret", {}, "a password in libvirt\n", "") for one in strays]


def _plan_row(document: dict, row: dict, seen: dict, observed: dict) -> list[Action]:
    verbs = moves.plan_tasks(row, seen) + server_images.plan_end(row, seen)
    if row.get("held") and not row.get("backup"):
        verbs += moves.plan_held(seen, seen["kept"])
        return [Action(SECTION, row["id"], verb, {"server": row, **args}, *texts) for verb, args, *texts in verbs]
    server = parse_server(row)
    nics = domain_xml.build_nics(document, server)
    kept = seen["kept"]
    leaving = server["outgoing"] if kept else None
    if server["incoming"]:
        verbs += moves.plan_incoming(server, seen, kept)
    elif leaving and leaving["kind"] == "live":
        verbs += moves.plan_outgoing_live(server, seen, kept)
    elif leaving and seen["defined"] and seen["state"] in moves.OFF:
        verbs += power.plan_off(document, server, seen, kept, observed["_now"])
        verbs += moves.plan_outgoing_cold(document, server, seen, kept)
    else:
        verbs += _plan_server(document, server, nics, seen, observed)
    needs = _build_requires(server, nics)
    return [
        Action(
            SECTION, server["id"], verb, {"server": server, **args}, before, after, needs if verb in STARTING else ()
        )
        for verb, args, before, after in verbs
    ]


def _plan_server(document: dict, server: dict, nics: list[dict], seen: dict, observed: dict) -> list[tuple]:
    """The verbs of a guest that is at home here."""
    verbs: list[tuple] = []
    kept = seen["kept"]
    if kept:
        moves.check_home(server, seen, kept)
        verbs, seen, kept = rebuilds.plan_rebuild(server, seen, kept)
    has_disk = seen["disk"] or not guest_volumes.has_local_root(server)
    if not seen["defined"] or kept is None or not has_disk:
        if seen["fetching"] and not has_disk:
            return []  # pending: the run that finds the image goes on
        verbs.append(("create", {}, "", build_text(_build_outline(server, nics))))
        kept = kept or guests.build_kept(server)
        seen = {**seen, "state": seen["state"] or "shutoff"}
        verbs += moves.plan_growth(server, seen) + moves.plan_settling(kept)
    elif not verbs:
        wanted = guests.build_owned(document, server, nics, kept, observed["_virt_type"])
        have = {name: value for name, value in seen["owned"].items() if name in wanted}
        if wanted != have:
            changed = [name for name in wanted if wanted[name] != have[name]]
            texts = [build_text({name: side[name] for name in changed}) for side in (have, wanted)]
            verbs.append(("redefine", {}, *texts))
        verbs += _plan_live_nics(nics, seen["nics"])
        verbs += guest_volumes.plan_live(server["volumes"], seen["volumes"])
        verbs += moves.plan_backup(server, seen, kept) if server["backup"] else []
        verbs += moves.plan_growth(server, seen) + moves.plan_settling(kept)
    differs = rescue.choose_wanted(server) != rescue.choose_current(kept)
    plan = rescue.plan_rescue if differs else power.plan_power
    steps = plan(document, server, seen, kept, observed["_now"])
    verbs += server_images.plan_snapshot(server, seen, [*verbs, *steps])
    verbs += posted_passwords.plan_forget(server, seen["posted"])
    return verbs + steps + ([] if steps else guest_password.plan_password(server, seen, kept))


STARTING = {
    "create", "rebuild", "start", "reboot_hard", "attach_port", "prepare", "rescue", "rescue_soft",
    "check_rescue_image",
}  # fmt: skip
KINDS = (*moves.KINDS, power.SAVE, server_images.KIND)  # of tasks that are a guest's


def _build_requires(server: dict, nics: list[dict]) -> tuple:
    """A guest is not started on a network or target that failed, nor with a firewall that is not the wanted one."""
    needed = [("images", image) for image in (server["image"], rescue.choose_wanted(server)) if image]
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


def _build_outline(server: dict, nics: list[dict]) -> dict:
    outline = {name: server[name] for name in ("vcpus", "memory_mb", "root_gb", "image", "power")}
    return {**outline, "nics": [{name: nic[name] for name in ("port", "mac", "bridge")} for nic in nics]}


def apply_servers(document: dict, action: Action) -> None:
    """Carry out one verb; KumoError with the reason."""
    if action.verb == "refuse":
        raise KumoError(action.args["error"])
    if action.verb == "drop_secret":
        guest_volumes.apply_drop([action.object_id])
        return
    if action.verb == "remove":
        incoming.drop_secrets_of(document, action.object_id)
        for kind in KINDS:
            tasks.apply_end(document, kind, action.object_id)
        guests.apply_remove(document, action.object_id)
        return
    VERBS[action.verb](document, **action.args)


VERBS = {
    **guests.VERBS,
    **suspension.VERBS,
    **rescue.VERBS,
    **guest_password.VERBS,
    **posted_passwords.VERBS,
    "prepare": incoming.apply_prepare,
    "keep_secrets": incoming.apply_keep_secrets,
    "drop_secrets": incoming.apply_drop_secrets,
    "settle": incoming.apply_settle,
    "receive": incoming.apply_receive,
    "send": outgoing.apply_send,
    "abort_move": outgoing.apply_abort,
    "force_move": outgoing.apply_force,
    "offer": outgoing.apply_offer,
    "hold": outgoing.apply_hold,
    "end_task": outgoing.apply_end_task,
    "note_failure": outgoing.apply_note_failure,
    "keep_backup": backups.apply_keep,
    "drop_backup": backups.apply_drop,
    "restore_backup": backups.apply_restore,
    "grow_disk": backups.apply_grow,
    "rebuild": rebuilds.apply_rebuild,
    "begin_snapshot": server_images.apply_begin,
    "fail_snapshot": server_images.apply_fail,
    "end_snapshot": server_images.apply_end,
}


def report_servers(document: dict, observed: dict) -> dict:
    """``servers``, ``ports``, ``host`` and ``orphans`` as docs/foundation.md has them."""
    servers, moving, posted, pending, up, coming = {}, {}, {}, False, set(), set()
    leaving: dict[str, list[str]] = {}
    for port in document["ports"]:
        leaving.setdefault(port.get("server"), []).append(port["id"])
    for row in document["servers"]:
        seen = observed[row["id"]]
        kept = seen["kept"] or {}
        absent = row.get("wanted", "present") == "absent"
        pending = pending or (not absent and _is_pending(row, seen, kept))
        move = None if absent else moves.report_move(document, row, seen)
        if move:
            moving[row["id"]] = move
            pending = pending or moves.is_pending(row, move)
        pending = pending or (not absent and guest_password.is_pending(row, kept))
        told = None if absent else posted_passwords.report_posted(row, seen["posted"])
        posted |= {row["id"]: told} if told else {}
        snapshot = None if absent else server_images.report_snapshot(row, seen)
        pending = pending or server_images.is_pending(snapshot)
        if not absent and row.get("incoming"):
            coming |= set(row.get("ports") or [])
            continue  # it is told of by the host that it is on
        if not seen["defined"]:
            continue
        if seen["state"] in ("running", "paused"):  # those that are to go out of it too, as long as they are in it
            own = {*(row.get("ports") or []), *leaving.get(row["id"], [])}
            up |= {port for port in own if names.build_tap_name(port) in observed["_taps"]}
        servers[row["id"]] = {
            "state": seen["state"],
            "reason": seen["reason"],
            "reboot_done": kept.get("reboot_done", 0),
            "start_done": kept.get("start_done", 0),
            "rebuild_done": kept.get("rebuild_done", 0),
            "stop_pending": seen["state"] == "running" and kept.get("stopping_since") is not None,
            "ports": [port for port in row.get("ports") or [] if port in up],
            "volumes": sorted(seen["volumes"]) if seen["volumes"] is not None else seen["defined_volumes"],
            "volume_errors": kept.get("volume_errors") or {},
            "console": seen["console"],
            "diagnostics": seen["diagnostics"],
            "password": guest_password.report_password(row, kept),
            "consoles": seen["consoles"],
            "rescue": rescue.choose_current(kept),
            "snapshot": snapshot,
        }
    ports = {
        port["id"]: {"state": "active" if port["id"] in up else "down"}
        for port in document["ports"]
        if port.get("server") and port["id"] not in coming
    }
    return {
        "servers": servers,
        "moves": moving,
        "posted_passwords": posted,
        "tasks": tasks.build_report(observed["_tasks"]),
        "ports": ports,
        "host": observed["_host"],
        "orphans": observed["_orphans"],
        "pending": pending,
    }


def _is_pending(row: dict, seen: dict, kept: dict) -> bool:
    """Something is under way that a later run has to look at."""
    if seen["fetching"] and (row.get("rebuild") or {}).get("wanted", 0) > kept.get("rebuild_done", 0):
        return True
    if not seen["defined"]:
        return seen["fetching"] and not row.get("outgoing") and not row.get("held")
    if power.is_saving(seen):
        return True
    if seen["rescue_image"] == "fetching" and rescue.choose_wanted(row) != rescue.choose_current(kept):
        return True
    if seen["state"] != "running":
        return kept.get("rebooting") is not None
    if set(seen["volumes"] or ()) - {volume["attachment"] for volume in row.get("volumes") or []}:
        return True  # the guest has been asked to let go of a volume, and has not yet
    return kept.get("stopping_since") is not None or kept.get("rebooting") is not None
