"""The section exports: one iSCSI target for each attachment, with credentials that open nothing else.

tgtd keeps nothing: after its restart the next run makes every target again. A target without an attachment is
pruned, its sessions cut; its name is never used again, so whoever comes back finds nothing. Targets of others
are left alone. Next room: ``tgt.py``, which speaks to tgtd.
"""

from __future__ import annotations

import hashlib

from . import files, tgt, volumes
from .core import Action, state_path
from .errors import KumoError

SECTION = "exports"


def read_exports(document: dict) -> dict:
    """{"targets": {tid: …}, "made": {attachment id: {…}}}; empty where this host exports nothing."""
    storage = volumes.parse_storage(document)
    if storage is None:
        return {"targets": {}, "error": None, "made": {}, "sizes": {}, "portal": None}
    try:
        # Without an export nobody asks for sizes, and LVM takes its time to say them.
        sizes = volumes.BACKENDS[storage["backend"]].read_contents(storage)["objects"] if build_wanted(document) else {}
    except KumoError:  # the section volumes says it of each volume
        sizes = {}
    try:
        targets, error = tgt.read_targets(storage["control_port"]), None
    except KumoError as problem:  # the host's guests are none of tgtd's business
        targets, error = {}, str(problem)
    return {
        "targets": targets,
        "error": error,
        "made": files.read_json(_record(document), {}),
        "sizes": {object_id: one["size"] for object_id, one in sizes.items()},
        "portal": storage["portal"],
    }


def _record(document: dict):
    return state_path(document, "exports.json")


def build_wanted(document: dict) -> dict[str, dict]:
    """{attachment id: {volume, path, username, password, read_only, digest}} of the document."""
    wanted = {}
    for volume in document["volumes"]:
        if volume.get("wanted", "present") == "absent":
            continue
        for export in volume.get("exports") or []:
            known = "\0".join([export["username"], export["password"]])
            wanted[export["id"]] = {
                "volume": volume["id"],
                "path": volumes.build_backing_path(document, volume["id"]),
                "username": export["username"],
                "password": export["password"],
                "read_only": bool(export.get("read_only")),
                # tgtd shows no passwords: what it was given is remembered as a digest.
                "digest": hashlib.sha256(known.encode()).hexdigest(),
            }
    return wanted


def plan_exports(document: dict, observed: dict) -> list[Action]:
    """Remove what nobody is to use any more, then make what is missing."""
    if observed["portal"] is None:
        return []
    wanted = build_wanted(document)
    if observed["error"]:
        return [Action(SECTION, attachment, "refuse", {"error": observed["error"]}) for attachment in sorted(wanted)]
    owned = {one["iqn"][len(tgt.IQN) :]: (tid, one) for tid, one in observed["targets"].items() if _is_ours(one)}
    actions = []
    for attachment, (tid, one) in sorted(owned.items()):
        # What another state directory has made is another's (this machine's cloud beside its tests, say).
        if attachment not in wanted and attachment in observed["made"]:
            actions.append(Action(SECTION, attachment, "remove", {"tid": tid}, f"target {one['iqn']}\n", ""))
    for attachment in sorted(observed["made"].keys() - owned.keys() - wanted.keys()):
        # Its target went with its volume, or with a tgtd that ended, or with a run that was cut before it said so.
        actions.append(Action(SECTION, attachment, "forget", {}, f"account {_account(attachment)}\n", ""))
    for attachment, export in sorted(wanted.items()):
        tid, one = owned.get(attachment, (None, None))
        volume = export["volume"]
        if volume not in observed["sizes"]:
            continue  # it is still being made
        needs = ((volumes.SECTION, volume),)
        if one is not None and not _is_as_wanted(one, export, observed["made"].get(attachment)):
            actions.append(Action(SECTION, attachment, "remove", {"tid": tid}, f"target {one['iqn']}\n", ""))
            one = None
        if one is None:
            after = f"target {tgt.IQN}{attachment}\nvolume {volume}\n"
            actions.append(Action(SECTION, attachment, "export", {"export": export}, "", after, needs))
        elif abs(one["size"] - observed["sizes"][volume] / 1e6) > 1:  # it shows millions of bytes, rounded
            texts = (f"{one['size']} MB\n", f"{observed['sizes'][volume] // 1_000_000} MB\n")
            actions.append(Action(SECTION, attachment, "grow", {"tid": tid, "path": export["path"]}, *texts))
    return actions


def _is_ours(target: dict) -> bool:
    return target["iqn"].startswith(tgt.IQN)


def _is_as_wanted(target: dict, export: dict, made: str | None) -> bool:
    return (
        target["path"] == export["path"]
        and target["accounts"] == [_account(target["iqn"][len(tgt.IQN) :])]
        and target["acl"] == ["ALL"]
        and target["read_only"] == export["read_only"]
        and made == export["digest"]
    )


def _account(attachment: str) -> str:
    return attachment.replace("-", "")


def apply_exports(document: dict, action: Action) -> None:
    """One planned change; each is safe to repeat half-way."""
    storage = volumes.parse_storage(document)
    port = storage["control_port"]
    if action.verb == "refuse":
        raise KumoError(action.args["error"])
    if action.verb == "remove":
        _remove(document, port, action.object_id, action.args["tid"])
    elif action.verb == "forget":
        _forget(document, port, action.object_id)
    elif action.verb == "grow":
        _grow(port, action.args["tid"], action.args["path"])
    else:
        export = action.args["export"]
        volumes.BACKENDS[storage["backend"]].apply_open(storage, "volume", export["volume"])
        _export(document, port, action.object_id, export)


def _export(document: dict, port: int, attachment: str, export: dict) -> None:
    if export["username"] != _account(attachment):
        raise KumoError(f"attachment {attachment}: its user name must be {_account(attachment)}")
    targets = tgt.read_targets(port)
    tid = next(number for number in range(1, len(targets) + 2) if number not in targets)
    # First of all, for the record is what leads to an account of which nothing else is left.
    files.apply_json(_record(document), {**files.read_json(_record(document), {}), attachment: export["digest"]})
    tgt.ask(port, "target", "new", tid=tid, targetname=f"{tgt.IQN}{attachment}")
    try:
        tgt.apply_forget_account(port, _account(attachment))
        tgt.ask(port, "account", "new", user=export["username"], password=export["password"])
        tgt.ask(port, "account", "bind", tid=tid, user=export["username"])
        tgt.ask(port, "device", "new", tid=tid, lun=tgt.LUN, path=export["path"], bstype="rdwr")
        serial = export["volume"].replace("-", "")
        shown = {"vendor_id": "Kumo", "product_id": "volume", "scsi_sn": serial, "scsi_id": f"kumo{serial[:20]}"}
        tgt.ask(port, "device", "update", tid=tid, lun=tgt.LUN, **shown, readonly=str(int(export["read_only"])))
        # Last, for it opens the door: until now nobody may log in.
        tgt.ask(port, "target", "bind", tid=tid, **{"initiator-address": "ALL"})
    except KumoError:
        tgt.ask(port, "target", "delete", tid=tid, force=True)
        tgt.apply_forget_account(port, _account(attachment))
        raise


def _remove(document: dict, port: int, attachment: str, tid: int) -> None:
    """Close the door, cut the sessions, take the target and its account away."""
    target = tgt.read_targets(port).get(tid)
    if target is None or target["iqn"] != tgt.IQN + attachment:
        return
    tgt.apply_removal(port, tid, target)
    _forget(document, port, attachment)


def _forget(document: dict, port: int, attachment: str) -> None:
    """No account is left of it, and then no record that says there may be one."""
    tgt.apply_forget_account(port, _account(attachment))
    made = files.read_json(_record(document), {})
    if made.pop(attachment, None) is not None:
        files.apply_json(_record(document), made)


def _grow(port: int, tid: int, path: str) -> None:
    """tgtd looks at a device's size only when it opens it: closed and opened again, within a session's patience."""
    for step in ({"online": "0"}, {"path": path}, {"online": "1"}):
        tgt.ask(port, "device", "update", tid=tid, lun=tgt.LUN, **step)


def report_exports(document: dict, observed: dict) -> dict:
    """{exports: {attachment id: {iqn, portal, lun}}} of all that is wanted or still there.

    ``pending`` where a volume was whole only after this run's plan, so that nobody has tried to export it yet: what was
    tried has left a record, whatever became of it.
    """
    wanted = build_wanted(document) if observed["portal"] else {}
    exports = {}
    for one in observed["targets"].values():
        attachment = one["iqn"][len(tgt.IQN) :]
        if not _is_ours(one) or (attachment in wanted and one["acl"] != ["ALL"]):
            continue
        exports[attachment] = {"iqn": one["iqn"], "portal": observed["portal"], "lun": tgt.LUN}
    untried = wanted.keys() - exports.keys() - observed["made"].keys() if observed["error"] is None else set()
    return {"exports": exports, "pending": any(wanted[one]["volume"] in observed["sizes"] for one in untried)}
