"""The section volumes: volumes and snapshots of a storage host, made, copied, extended, removed.

Removes only what the document says is absent; what it does not know is an orphan. Copies are tasks of their own, as
is what ``reimages.py`` makes anew. Backends are ``volume_backend_*.py`` (docs/storage-backends.md); next:
``exports.py``, which offers them.
"""

from __future__ import annotations

import re
from pathlib import Path

from . import (
    disk_copies,
    host_facts,
    image_formats,
    images,
    reimages,
    tasks,
    tgt,
    volume_backend_file,
    volume_backend_lvm,
)
from .core import Action, state_path
from .errors import KumoError

SECTION = "volumes"
LAST = ("extend", "reimage")  # of verbs: what is still to be made of a volume as it is comes before
PARALLEL = False
KIND = "volume"
GIB = 1 << 30
MAX_PERCENT = 90
NO_STORAGE = "this host keeps no volumes: its settings.storage is missing"
CONTROL_PORT = 67  # of the tgtd that the role storage_node runs; an operator's own has 0
BACKENDS = {"file": volume_backend_file, "lvm": volume_backend_lvm}


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
    return BACKENDS[storage["backend"]].parse_settings(storage)


def build_backing_path(document: dict, volume_id: str) -> str:
    """The file or device of a volume."""
    storage = parse_storage(document)
    return str(BACKENDS[storage["backend"]].build_path(storage, "volume", volume_id))


def read_volumes(document: dict) -> dict:
    """{id: {state, size_gb, progress, error, task_failed, unfinished, reimage}}; of the host ``_pool`` and others.

    Where the backend cannot be read, ``_problem`` says why and nothing is known of any volume: one host's guests do
    not wait for its disks.
    """
    storage = parse_storage(document)
    observed: dict = {
        "_pool": None,
        "_orphans": [],
        "_leftovers": [],
        "_tasks": {},
        "_host": {},
        "_problem": NO_STORAGE,
    }
    if storage is None:
        return observed
    observed["_host"] = {} if document["settings"]["hypervisor"] else host_facts.read_machine(document)
    # Tasks before what they make: a copy that is finished between the two looks must not read as one never begun.
    records = {record["object_id"]: record for record in tasks.read_tasks(document, KIND).values()}
    remaking = {record["object_id"]: record for record in tasks.read_tasks(document, reimages.KIND).values()}
    try:
        contents = BACKENDS[storage["backend"]].read_contents(storage)
    except KumoError as error:
        return {**observed, "_problem": str(error)}
    whole, unfinished = contents["objects"], contents["unfinished"]
    rows = [*document["volumes"], *document["snapshots"]]
    known = {row["id"] for row in rows}
    tasks_of_all = [*records.values(), *remaking.values()]
    running = {record["object_id"] for record in tasks_of_all if record["state"] == "running"}
    for object_id in sorted(known):
        seen = _read_state(whole.get(object_id), records.get(object_id), object_id in unfinished)
        observed[object_id] = {**seen, "reimage": reimages.read_reimage(document, object_id, remaking.get(object_id))}
    observed["_pool"] = {"backend": storage["backend"], **contents["pool"]}
    observed["_problem"] = None
    observed["_orphans"] = sorted(set(whole) - known)
    observed["_leftovers"] = sorted(unfinished - running - known - set(whole))
    observed["_tasks"] = {tasks.build_task_id(record["kind"], record["object_id"]): record for record in tasks_of_all}
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
    """What goes, volumes, snapshots of them, what an interrupted run left; what makes a volume larger comes last.

    A snapshot or copy is of the size that its volume had when it was asked for.
    """
    rows = [("volume", row) for row in document["volumes"]] + [("snapshot", row) for row in document["snapshots"]]
    if observed["_pool"] is None:
        return [Action(SECTION, row["id"], "refuse", {"error": observed["_problem"]}) for _, row in rows]
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
            remade = _plan_reimage(document, row, observed) if kind == "volume" else None
            if remade is not None:
                actions += remade
            elif kind == "volume" and observed[row["id"]]["state"] == "available":
                actions += _plan_size(document, row, observed)
            else:
                actions += _plan_present(kind, row, observed, exported)
        except KumoError as error:
            actions.append(Action(SECTION, row["id"], "refuse", {"error": str(error)}))
    for object_id in observed["_leftovers"]:
        actions.append(Action(SECTION, object_id, "discard", {}, "half-made volume\n", ""))
    return sorted(actions, key=lambda action: action.verb in LAST)


def _plan_reimage(document: dict, row: dict, observed: dict) -> list[Action] | None:
    """What makes the volume's content anew; None where that is not wanted, and it is as any other."""
    seen = observed[row["id"]]
    if not reimages.is_wanted(row, seen):
        if (seen["reimage"]["task"] or {}).get("state") == "failed":  # killed after its last step
            return [Action(SECTION, row["id"], "forget", {}, "task reimage\n", "")]
        return None
    first = _find_waiting(document, observed, row["id"])
    if row["reimage"]["idle"] and any(observed[object_id]["state"] == "creating" for object_id in first):
        return []
    steps = reimages.plan_reimage(row, seen, _parse_size("volume", row), first)
    actions = [Action(SECTION, row["id"], *step) for step in steps]
    checks = not row["reimage"]["idle"] and seen["state"] == "available"  # it is still in use, and may grow
    return actions + (_plan_size(document, row, observed) if checks else [])


def _find_waiting(document: dict, observed: dict, volume_id: str) -> list[str]:
    """Snapshots and volumes that are still to be made of a volume."""
    rows = [(row, row.get("volume")) for row in document["snapshots"]]
    rows += [(row, (row.get("source") or {}).get("volume")) for row in document["volumes"]]
    wanted = [row["id"] for row, of in rows if of == volume_id and row.get("wanted", "present") == "present"]
    return [object_id for object_id in wanted if observed[object_id]["state"] != "available"]


def _text(kind: str, size_gb: int | None) -> str:
    return f"{kind} {'?' if size_gb is None else size_gb} GiB\n"


def _parse_size(kind: str, row: dict) -> int:
    size_gb = row.get("size_gb")
    if not isinstance(size_gb, int) or isinstance(size_gb, bool) or size_gb < 1:
        raise KumoError(f"{kind} {row['id']}: size_gb is {size_gb!r}; it must be a number of GiB from 1")
    return size_gb


def _plan_size(document: dict, row: dict, observed: dict) -> list[Action]:
    size_gb, before = _parse_size("volume", row), observed[row["id"]]["size_gb"]
    if before >= size_gb:
        return []
    first = _find_waiting(document, observed, row["id"])
    if any(observed[object_id]["state"] == "creating" for object_id in first):
        return []
    texts, requires = (_text("volume", before), _text("volume", size_gb)), tuple((SECTION, one) for one in first)
    return [Action(SECTION, row["id"], "extend", {"size_gb": size_gb, "first": first}, *texts, requires)]


def _plan_present(kind: str, row: dict, observed: dict, exported: set) -> list[Action]:
    seen, size_gb = observed[row["id"]], _parse_size(kind, row)
    after = _text(kind, size_gb)
    if seen["state"] == "failed":
        return [Action(SECTION, row["id"], "refuse", {"error": seen["error"], "forget": KIND})]
    if seen["state"] in ("creating", "available"):
        return []
    if kind == "snapshot":
        of = observed.get(row["volume"], {"state": "missing"})
        if of["state"] != "available":
            raise KumoError(f"snapshot {row['id']}: volume {row['volume']} is not (yet) whole on this host")
        exported_now = row["volume"] in exported and not row.get("resting")
        args = {"volume": row["volume"], "size_gb": size_gb, "exported": exported_now}
        return [Action(SECTION, row["id"], "snapshot", args, "", after)]
    source = row.get("source") or {}
    if not source:
        return [Action(SECTION, row["id"], "create", {"size_gb": size_gb}, "", after)]
    args = {"size_gb": size_gb, "source": source, "exported": source.get("volume") in exported}
    if "image" in source:
        return [Action(SECTION, row["id"], "copy", args, "", after, (("images", source["image"]),))]
    name, object_id = next(iter(source.items()))
    of = observed.get(object_id, {"state": "missing"})
    if of["state"] != "available":
        raise KumoError(f"volume {row['id']}: its source, {name} {object_id}, is not (yet) whole on this host")
    if args["exported"] and not observed["_pool"]["snapshot_in_use"]:
        raise KumoError(f"volume {row['id']}: its source, volume {object_id}, is in use; take a snapshot of it first")
    return [Action(SECTION, row["id"], "copy", args, "", after, ((SECTION, object_id),))]


def apply_volumes(document: dict, action: Action) -> None:
    """One planned change; what takes long goes on as a task."""
    storage = parse_storage(document)
    backend, args, object_id = BACKENDS[storage["backend"]] if storage else None, action.args, action.object_id
    if action.verb == "refuse":
        if args.get("forget"):
            tasks.apply_forget(document, args["forget"], object_id)
        raise KumoError(args["error"])
    if action.verb == "check_image":
        reimages.apply_check(document, object_id, args)
    elif action.verb == "forget":
        tasks.apply_forget(document, reimages.KIND, object_id)
    elif action.verb in ("delete", "discard"):
        tasks.apply_end(document, KIND, object_id)
        reimages.apply_forget(document, object_id)
        _close(storage, str(backend.build_path(storage, "volume", object_id)))
        backend.apply_delete(storage, object_id)
    elif action.verb == "extend":
        if _has_task(document, args["first"]):
            return  # a copy of it has just begun: the next call goes on
        _check_room(storage, backend)
        backend.apply_extend(storage, object_id, args["size_gb"] * GIB)
    elif action.verb == "reimage":
        if _has_task(document, args["first"]):
            return  # a copy of what it holds has just begun: the next call goes on
        _check_room(storage, backend)
        _close(storage, str(backend.build_path(storage, "volume", object_id)))
        reimages.apply_start(document, storage, backend, object_id, args)
    elif action.verb == "create":
        _check_room(storage, backend)
        backend.apply_create(storage, object_id, args["size_gb"] * GIB)
    elif action.verb == "snapshot":
        _check_room(storage, backend)
        if not backend.apply_snapshot(storage, object_id, args["volume"]):
            _start_plain_copy(document, storage, "snapshot", object_id, args, "volume", args["volume"])
    elif "image" in args["source"]:
        _check_room(storage, backend)
        _start_image_copy(document, storage, object_id, args)
    else:
        _check_room(storage, backend)
        kind, source_id = next(iter(args["source"].items()))
        if not backend.apply_clone(storage, object_id, kind, source_id, args["size_gb"] * GIB):
            _start_plain_copy(document, storage, "volume", object_id, args, kind, source_id)


def _close(storage: dict, path: str) -> None:
    """No target of Kumo's holds what is to go: the section exports would only come to it later."""
    try:
        targets = tgt.read_targets(storage["control_port"])
    except KumoError:
        return  # no tgtd, no targets
    for tid, target in targets.items():
        if target["path"] == path and target["iqn"].startswith(tgt.IQN):
            tgt.apply_removal(storage["control_port"], tid, target)


def _has_task(document: dict, object_ids: list[str]) -> bool:
    return any(record["object_id"] in object_ids for record in tasks.read_tasks(document, KIND).values())


def _check_room(storage: dict, backend) -> None:
    """Refuse to make anything while the pool is fuller than its watermark (its data, and its metadata), or not well."""
    pool = backend.read_contents(storage)["pool"]
    if pool["problem"]:
        raise KumoError(pool["problem"])
    for name in ("used_percent", "metadata_percent"):
        if pool[name] is not None and pool[name] > storage["max_percent"]:
            what = name.split("_")[0].replace("used", "data")
            raise KumoError(
                f"the pool's {what} is {pool[name]} % full; nothing is made above {storage['max_percent']} %: add space"
            )


def _start_plain_copy(
    document: dict, storage: dict, kind: str, object_id: str, args: dict, of: str, of_id: str
) -> None:
    """A copy takes its time: it is of one moment only where nobody writes meanwhile."""
    if args["exported"]:
        raise KumoError(
            f"{kind} {object_id}: {of} {of_id} is in use, and this host's backend {storage['backend']} "
            "takes nothing of one moment there; detach it first"
        )
    source = BACKENDS[storage["backend"]].apply_open(storage, of, of_id)
    _start_copy(document, storage, kind, object_id, args["size_gb"] * GIB, source, "raw")


def _start_image_copy(document: dict, storage: dict, volume_id: str, args: dict) -> None:
    image_id, size = args["source"]["image"], args["size_gb"] * GIB
    cached = images.read_image(document, image_id)
    if cached is None:
        return  # it is still on its way
    if cached["virtual_size"] > size:
        raise KumoError(
            f"volume {volume_id}: image {image_id} is a disk of {cached['virtual_size']} bytes, "
            f"the volume has {args['size_gb']} GiB"
        )
    driver = image_formats.build_driver(cached["disk_format"])
    _start_copy(document, storage, "volume", volume_id, size, images.build_image_path(document, image_id), driver)


def _start_copy(document: dict, storage: dict, kind: str, object_id: str, size: int, source: Path, driver: str) -> None:
    backend = BACKENDS[storage["backend"]]

    def copy(progress) -> None:
        target = backend.apply_begin(storage, object_id, size)
        disk_copies.apply_copy(source, driver, target, size, progress)
        backend.apply_finish(storage, kind, object_id)

    tasks.apply_start(document, KIND, object_id, copy)


def report_volumes(document: dict, observed: dict) -> dict:
    """``volumes``, ``snapshots``, the pool, tasks and orphans as docs/real-hosts.md has them."""
    report: dict = {"volumes": {}, "snapshots": {}, "pending": False}
    for key in ("volumes", "snapshots"):
        for row in document[key]:
            seen = observed.get(row["id"])
            if seen is not None and key == "volumes":
                seen = {**seen, **reimages.build_state(row, seen)}
            if seen is None or seen["state"] == "missing":
                continue
            report[key][row["id"]] = {name: seen[name] for name in ("state", "size_gb", "progress", "error")}
            if row.get("reimage"):
                report[key][row["id"]]["reimage_done"] = seen["reimage"]["done"]
            remade = reimages.is_running(seen)
            report["pending"] = report["pending"] or remade or (seen["state"] == "creating" and not row.get("reimage"))
    if observed["_host"]:
        report["host"] = observed["_host"]
    if observed["_pool"] is not None:
        report["host"] = {**observed["_host"], "storage": observed["_pool"]}
        report["orphans"] = {"volumes": observed["_orphans"]}
        report["tasks"] = tasks.build_report(observed["_tasks"])
    return report
