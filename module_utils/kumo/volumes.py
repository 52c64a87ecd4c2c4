"""The section volumes: volumes and snapshots of a storage host, made, copied, extended, removed.

Removes only what the document says is absent; what it does not know is an orphan. Copies are tasks of
their own. Backends are ``volume_backend_*.py`` (docs/storage-backends.md); next: ``exports.py``, which offers them.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from . import host_facts, image_formats, images, tasks, volume_backend_file
from .core import Action, state_path
from .errors import KumoError

SECTION = "volumes"
PARALLEL = False
KIND = "volume"
GIB = 1 << 30
MAX_PERCENT = 90
CONTROL_PORT = 67  # of the tgtd that the role storage_node runs; an operator's own has 0
BACKENDS = {"file": volume_backend_file}


def parse_storage(document: dict) -> dict | None:
    """``settings.storage`` with its defaults; None where this host keeps no volumes. KumoError names a wrong field."""
    given = document["settings"].get("storage")
    if given is None:
        return None
    storage = {
        "directory": str(state_path(document)),
        "portal": "127.0.0.1:3260",
        "control_port": CONTROL_PORT,
        "max_percent": MAX_PERCENT,
        **{name: value for name, value in given.items() if value is not None},
    }
    if storage.get("backend") not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise KumoError(f"settings.storage.backend is {storage.get('backend')!r}; this host has {known}")
    if not isinstance(storage["directory"], str) or not Path(storage["directory"]).is_absolute():
        raise KumoError("settings.storage.directory must be an absolute path")
    if not re.fullmatch(r"[0-9A-Za-z.:\[\]-]+:[0-9]{1,5}", str(storage["portal"])):
        raise KumoError(f"settings.storage.portal is {storage['portal']!r}; it must be address:port")
    return storage


def build_backing_path(document: dict, volume_id: str) -> str:
    """The file or device of a volume."""
    storage = parse_storage(document)
    return str(BACKENDS[storage["backend"]].build_path(storage, "volume", volume_id))


def read_volumes(document: dict) -> dict:
    """{id: {kind, state, size_gb, progress, error, task_failed}}, and ``_pool``, ``_orphans``, ``_leftovers``."""
    storage = parse_storage(document)
    observed: dict = {"_pool": None, "_orphans": [], "_leftovers": [], "_tasks": {}}
    if storage is None:
        return observed
    backend = BACKENDS[storage["backend"]]
    whole = backend.read_objects(storage)
    records = {record["object_id"]: record for record in tasks.read_tasks(document, KIND).values()}
    known = {row["id"] for row in [*document["volumes"], *document["snapshots"]]}
    unfinished = backend.read_unfinished(storage)
    running = {object_id for object_id, record in records.items() if record["state"] == "running"}
    for object_id in sorted(known):
        observed[object_id] = _read_state(whole.get(object_id), records.get(object_id), object_id in unfinished)
    observed["_pool"] = {"backend": storage["backend"], **backend.read_pool(storage)}
    observed["_host"] = {} if document["settings"]["hypervisor"] else host_facts.read_machine(document)
    observed["_orphans"] = sorted(set(whole) - known)
    observed["_leftovers"] = sorted(unfinished - running - known)
    observed["_tasks"] = {tasks.build_task_id(KIND, key): record for key, record in records.items()}
    return observed


def _read_state(whole: dict | None, task: dict | None, unfinished: bool) -> dict:
    state = {"state": "missing", "size_gb": None, "progress": None, "error": None, "task_failed": False}
    state["unfinished"] = unfinished
    if whole is not None:
        return {**state, "state": "available", "size_gb": whole["size"] // GIB}
    if task is not None and task["state"] == "running":
        return {**state, "state": "creating", "progress": task["progress"]}
    if task is not None:
        return {**state, "state": "failed", "error": task["error"], "task_failed": True}
    return state


def plan_volumes(document: dict, observed: dict) -> list[Action]:
    """Volumes first, then snapshots of them, then what an interrupted run left."""
    rows = [("volume", row) for row in document["volumes"]] + [("snapshot", row) for row in document["snapshots"]]
    if observed["_pool"] is None:
        sentence = "this host keeps no volumes: its settings.storage is missing"
        return [Action(SECTION, row["id"], "refuse", {"error": sentence}) for _, row in rows]
    exported = {row["id"] for row in document["volumes"] if row.get("exports")}
    absent = [(kind, row) for kind, row in rows if row.get("wanted", "present") == "absent"]
    present = [(kind, row) for kind, row in rows if row.get("wanted", "present") == "present"]
    actions = []
    for kind, row in reversed(absent):  # snapshots before the volumes they are of
        seen = observed[row["id"]]
        if seen["state"] != "missing" or seen["unfinished"]:
            actions.append(Action(SECTION, row["id"], "delete", {}, _text(kind, seen["size_gb"]), ""))
    for kind, row in present:
        try:
            actions += _plan_present(kind, row, observed, exported)
        except KumoError as error:
            actions.append(Action(SECTION, row["id"], "refuse", {"error": str(error)}))
    for object_id in observed["_leftovers"]:
        actions.append(Action(SECTION, object_id, "discard", {}, "half-made volume\n", ""))
    return actions


def _text(kind: str, size_gb: int | None) -> str:
    return f"{kind} {'?' if size_gb is None else size_gb} GiB\n"


def _plan_present(kind: str, row: dict, observed: dict, exported: set) -> list[Action]:
    seen, size_gb = observed[row["id"]], row.get("size_gb")
    if not isinstance(size_gb, int) or isinstance(size_gb, bool) or size_gb < 1:
        raise KumoError(f"{kind} {row['id']}: size_gb is {size_gb!r}; it must be a number of GiB from 1")
    after = _text(kind, size_gb)
    if seen["state"] == "failed":
        return [Action(SECTION, row["id"], "refuse", {"error": seen["error"], "forget": True})]
    if seen["state"] == "creating":
        return []
    if seen["state"] == "available":
        if kind == "volume" and seen["size_gb"] < size_gb:
            return [Action(SECTION, row["id"], "extend", {"size_gb": size_gb}, _text(kind, seen["size_gb"]), after)]
        return []
    if kind == "snapshot":
        of = observed.get(row["volume"], {"state": "missing"})
        if of["state"] != "available":
            raise KumoError(f"snapshot {row['id']}: volume {row['volume']} is not (yet) whole on this host")
        args = {"volume": row["volume"], "size_gb": size_gb, "exported": row["volume"] in exported}
        return [Action(SECTION, row["id"], "snapshot", args, "", after)]
    source = row.get("source") or {}
    if not source:
        return [Action(SECTION, row["id"], "create", {"size_gb": size_gb}, "", after)]
    args = {"size_gb": size_gb, "source": source}
    if "image" in source:
        return [Action(SECTION, row["id"], "copy", args, "", after, (("images", source["image"]),))]
    name, object_id = next(iter(source.items()))
    of = observed.get(object_id, {"state": "missing"})
    if of["state"] != "available":
        raise KumoError(f"volume {row['id']}: its source, {name} {object_id}, is not (yet) whole on this host")
    if name == "volume" and object_id in exported:
        raise KumoError(f"volume {row['id']}: its source, volume {object_id}, is in use; take a snapshot of it first")
    return [Action(SECTION, row["id"], "copy", args, "", after, ((SECTION, object_id),))]


def apply_volumes(document: dict, action: Action) -> None:
    """One planned change; what takes long goes on as a task."""
    storage = parse_storage(document)
    backend, args, object_id = BACKENDS[storage["backend"]] if storage else None, action.args, action.object_id
    if action.verb == "refuse":
        if args.get("forget"):
            tasks.apply_forget(document, KIND, object_id)
        raise KumoError(args["error"])
    if action.verb in ("delete", "discard"):
        tasks.apply_end(document, KIND, object_id)
        backend.apply_delete(storage, object_id)
    elif action.verb == "extend":
        _check_room(storage, backend)
        backend.apply_extend(storage, object_id, args["size_gb"] * GIB)
    elif action.verb == "create":
        _check_room(storage, backend)
        backend.apply_begin(storage, object_id, args["size_gb"] * GIB)
        backend.apply_finish(storage, "volume", object_id)
    elif action.verb == "snapshot":
        _check_room(storage, backend)
        if not backend.apply_snapshot(storage, object_id, args["volume"]):
            if args["exported"]:
                raise KumoError(
                    f"snapshot {object_id}: volume {args['volume']} is in use, and this host's backend "
                    f"{storage['backend']} takes no snapshot of one moment there; detach it first"
                )
            source = backend.build_path(storage, "volume", args["volume"])
            _start_copy(document, storage, "snapshot", object_id, args["size_gb"] * GIB, source, "raw")
    else:
        _check_room(storage, backend)
        source, driver = _find_source(document, storage, backend, args, object_id)
        if source is not None:
            _start_copy(document, storage, "volume", object_id, args["size_gb"] * GIB, source, driver)


def _check_room(storage: dict, backend) -> None:
    """Refuse to make anything while the pool is fuller than its watermark (its data, and its metadata)."""
    pool = backend.read_pool(storage)
    for name in ("used_percent", "metadata_percent"):
        if pool[name] is not None and pool[name] > storage["max_percent"]:
            what = name.split("_")[0].replace("used", "data")
            raise KumoError(
                f"the pool's {what} is {pool[name]} % full; nothing is made above {storage['max_percent']} %: add space"
            )


def _find_source(document: dict, storage: dict, backend, args: dict, volume_id: str) -> tuple[Path | None, str]:
    """(path, format) of what a volume is copied from; no path where its image is still on its way."""
    source = args["source"]
    if "image" not in source:
        kind, object_id = next(iter(source.items()))
        return backend.build_path(storage, kind, object_id), "raw"
    cached = images.read_image(document, source["image"])
    if cached is None:
        return None, ""
    if cached["virtual_size"] > args["size_gb"] * GIB:
        raise KumoError(
            f"volume {volume_id}: image {source['image']} is a disk of {cached['virtual_size']} bytes, "
            f"the volume has {args['size_gb']} GiB"
        )
    return images.build_image_path(document, source["image"]), image_formats.build_driver(cached["disk_format"])


def _start_copy(document: dict, storage: dict, kind: str, object_id: str, size: int, source: Path, driver: str) -> None:
    backend = BACKENDS[storage["backend"]]

    def copy(progress) -> None:
        target = backend.apply_begin(storage, object_id, size)
        apply_copy(source, driver, target, size, progress)
        backend.apply_finish(storage, kind, object_id)

    tasks.apply_start(document, KIND, object_id, copy)


def apply_copy(source: Path, driver: str, target: Path, size: int, progress) -> None:
    """Copy a disk of a format that is said into ``target``, which reads as zeros, with progress."""
    command = ["qemu-img", "convert", "-p", "-n", "--target-is-zero", "-f", driver, "-O", "raw"]
    command += ["-t", "none", "-T", "none"] if os.access(source, os.R_OK) and _takes_direct(target) else []
    running = subprocess.Popen(
        [*command, str(source), str(target)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
    )
    text = b""
    while part := os.read(running.stdout.fileno(), 256):
        text = (text + part)[-64:]
        found = re.findall(rb"\((\d+\.\d+)/100%\)", text)
        if found:
            progress(int(size * float(found[-1]) / 100), size)
    problem = running.stderr.read().decode(errors="replace").strip()
    if running.wait():
        raise KumoError(f"qemu-img convert failed: {problem[:500]}")


def _takes_direct(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    return True


def report_volumes(document: dict, observed: dict) -> dict:
    """``volumes``, ``snapshots``, the pool, tasks and orphans as docs/real-hosts.md has them."""
    report: dict = {"volumes": {}, "snapshots": {}, "pending": False}
    for key in ("volumes", "snapshots"):
        for row in document[key]:
            seen = observed.get(row["id"])
            if seen is None or seen["state"] == "missing":
                continue
            report[key][row["id"]] = {name: seen[name] for name in ("state", "size_gb", "progress", "error")}
            report["pending"] = report["pending"] or seen["state"] == "creating"
    if observed["_pool"] is not None:
        report["host"] = {**observed["_host"], "storage": observed["_pool"]}
        report["orphans"] = {"volumes": observed["_orphans"]}
        report["tasks"] = tasks.build_report(observed["_tasks"])
    return report
