"""Volumes wanted and volumes seen in, actions out."""

import uuid

import pytest
from ansible.module_utils.kumo import volumes
from ansible.module_utils.kumo.errors import KumoError

VOLUME, OTHER, SNAPSHOT, IMAGE = (str(uuid.UUID(int=number)) for number in range(1, 5))
MISSING = {"state": "missing", "size_gb": None, "progress": None, "error": None, "task_failed": False,
           "unfinished": False, "reimage": {"done": 0, "task": None}}  # fmt: skip
WHOLE = {**MISSING, "state": "available", "size_gb": 1}


def build_volume(volume_id=VOLUME, **more) -> dict:
    return {"id": volume_id, "wanted": "present", "size_gb": 1, "source": None, "exports": [], **more}


def build_snapshot(**more) -> dict:
    return {"id": SNAPSHOT, "volume": VOLUME, "wanted": "present", "size_gb": 1, **more}


def plan(rows: list, snapshots=(), seen: dict | None = None, problem=None, leftovers=(), clones=False) -> list[tuple]:
    document = {"settings": {"state_dir": "/state", "storage": {"backend": "file"}}, "volumes": rows}
    document["snapshots"] = list(snapshots)
    known = [row["id"] for row in [*rows, *snapshots]]
    observed = {**dict.fromkeys(known, MISSING), **(seen or {})}
    observed |= {"_pool": None if problem else {"snapshot_in_use": clones}, "_problem": problem}
    observed |= {"_leftovers": list(leftovers), "_orphans": [], "_tasks": {}}
    actions = volumes.plan_volumes(document, observed)
    return [(action.verb, action.object_id, action.args.get("error") or "") for action in actions]


@pytest.mark.parametrize(
    ("rows", "snapshots", "seen", "wanted"),
    [
        pytest.param([build_volume()], [], {}, [("create", VOLUME)], id="blank"),
        pytest.param([build_volume()], [], {VOLUME: WHOLE}, [], id="there"),
        pytest.param([build_volume(source={"image": IMAGE})], [], {}, [("copy", VOLUME)], id="image"),
        pytest.param(
            [build_volume(source={"image": IMAGE})],
            [],
            {VOLUME: {**MISSING, "state": "creating", "unfinished": True}},
            [],
            id="being copied",
        ),
        pytest.param(
            [build_volume()],
            [],
            {VOLUME: {**MISSING, "state": "failed", "error": "disk full"}},
            [("refuse", VOLUME)],
            id="failed: told once",
        ),
        pytest.param([build_volume(size_gb=2)], [], {VOLUME: WHOLE}, [("extend", VOLUME)], id="larger"),
        pytest.param([build_volume()], [], {VOLUME: {**WHOLE, "size_gb": 2}}, [], id="never smaller"),
        pytest.param(
            [build_volume(size_gb=2)],
            [build_snapshot()],
            {VOLUME: WHOLE},
            [("snapshot", SNAPSHOT), ("extend", VOLUME)],
            id="larger after its snapshot",
        ),
        pytest.param(
            [build_volume(size_gb=2), build_volume(OTHER, source={"volume": VOLUME})],
            [],
            {VOLUME: WHOLE, OTHER: {**MISSING, "state": "creating"}},
            [],
            id="not larger while it is copied",
        ),
        pytest.param([build_volume(wanted="absent")], [], {VOLUME: WHOLE}, [("delete", VOLUME)], id="tombstone"),
        pytest.param([build_volume(wanted="absent")], [], {}, [], id="gone"),
        pytest.param(
            [build_volume(wanted="absent")],
            [],
            {VOLUME: {**MISSING, "unfinished": True}},
            [("delete", VOLUME)],
            id="tombstone of a half-made one",
        ),
        pytest.param(
            [build_volume(wanted="absent")],
            [build_snapshot(wanted="absent")],
            {VOLUME: WHOLE, SNAPSHOT: WHOLE},
            [("delete", SNAPSHOT), ("delete", VOLUME)],
            id="snapshots go before their volume",
        ),
        pytest.param(
            [build_volume()], [build_snapshot()], {VOLUME: WHOLE}, [("snapshot", SNAPSHOT)], id="snapshot"
        ),
        pytest.param([build_volume(size_gb=0)], [], {}, [("refuse", VOLUME)], id="no size"),
        pytest.param(
            [build_volume(), build_volume(OTHER, source={"volume": VOLUME})],
            [],
            {VOLUME: WHOLE},
            [("copy", OTHER)],
            id="copy of a volume",
        ),
        pytest.param(
            [build_volume(exports=[{}]), build_volume(OTHER, source={"volume": VOLUME})],
            [],
            {VOLUME: WHOLE},
            [("refuse", OTHER)],
            id="no copy of what somebody writes",
        ),
    ],
)  # fmt: skip
def test_plan(rows, snapshots, seen, wanted):
    assert [(verb, object_id) for verb, object_id, _ in plan(rows, snapshots, seen)] == wanted


def test_what_somebody_writes_is_cloned_where_that_is_of_one_moment():
    rows = [build_volume(exports=[{}]), build_volume(OTHER, source={"volume": VOLUME})]
    assert plan(rows, seen={VOLUME: WHOLE}, clones=True) == [("copy", OTHER, "")]


def test_a_host_that_cannot_read_its_storage_says_why_for_each():
    rows = [build_volume(), build_volume(OTHER, wanted="absent")]
    assert plan(rows, problem="no such pool") == [("refuse", VOLUME, "no such pool"), ("refuse", OTHER, "no such pool")]


def test_a_host_without_storage_says_so():
    document = {"settings": {"state_dir": "/state"}, "volumes": [build_volume()], "snapshots": []}
    assert "keeps no volumes" in volumes.plan_volumes(document, volumes.read_volumes(document))[0].args["error"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"backend": "nfs"}, "this host has file, lvm"),
        ({"backend": "lvm"}, "volume_group is None"),
        ({"backend": "lvm", "volume_group": "-x"}, "volume_group is '-x'"),
        ({"backend": "lvm", "volume_group": "a/b"}, "volume_group is 'a/b'"),
        ({"backend": "lvm", "volume_group": "v", "thin_pool": "a b"}, "thin_pool is 'a b'"),
        ({"backend": "lvm", "volume_group": "v", "directory": "/a b"}, "cannot be a tag"),
        ({"backend": "file", "portal": "nowhere"}, "portal is 'nowhere'"),
        ({"backend": "file", "directory": "x"}, "directory must be an absolute path"),
    ],
)
def test_a_wrong_setting_is_named(given, sentence):
    with pytest.raises(KumoError, match=sentence):
        volumes.parse_storage({"settings": {"state_dir": "/state", "storage": given}})


def test_settings_have_defaults():
    document = {"settings": {"state_dir": "/state", "storage": {"backend": "lvm", "volume_group": "v"}}}
    storage = volumes.parse_storage(document)
    assert (storage["thin_pool"], storage["max_percent"], storage["directory"]) == ("kumo", 90, "/state")
    assert volumes.build_backing_path(document, VOLUME) == f"/dev/v/kumo-volume-{VOLUME}"


def test_what_an_interrupted_run_left_is_discarded():
    assert plan([], leftovers=[OTHER]) == [("discard", OTHER, "")]


ORDER = {"wanted": 2, "image": IMAGE, "idle": True}
RUNNING = {"state": "running", "progress": 0.5, "error": None}
FAILED = {"state": "failed", "progress": 0.5, "error": "no room"}


def remade(done=1, task=None, **more) -> dict:
    return {**WHOLE, "reimage": {"done": done, "task": task}, **more}


@pytest.mark.parametrize(
    ("row", "seen", "wanted"),
    [
        pytest.param({}, remade(), [("reimage", "")], id="anew"),
        pytest.param({}, remade(state="missing", unfinished=True), [("reimage", "")], id="cut off between two steps"),
        pytest.param({}, remade(task=RUNNING), [], id="being made"),
        pytest.param({}, remade(task=FAILED), [("refuse", "no room")], id="failed: told once"),
        pytest.param({}, remade(done=2), [], id="done"),
        pytest.param({}, remade(done=2, task=FAILED), [("forget", "")], id="killed after its last step"),
        pytest.param({"exports": [{}]}, remade(), [("refuse", "offered to somebody")], id="never what is offered"),
        pytest.param({"size_gb": 2}, remade(), [("reimage", "")], id="made as large as it is to be"),
        pytest.param({"reimage": {**ORDER, "idle": False}}, remade(), [("check_image", "")], id="in use: looked at"),
        pytest.param(
            {"reimage": {**ORDER, "idle": False}, "size_gb": 2, "exports": [{}]},
            remade(),
            [("check_image", ""), ("extend", "")],
            id="in use: it may grow",
        ),
        pytest.param({"wanted": "absent"}, remade(task=RUNNING), [("delete", "")], id="tombstone"),
        pytest.param({"reimage": {**ORDER, "image": "../x"}}, remade(), [("refuse", "UUID")], id="no image"),
        pytest.param({"reimage": {"wanted": 2}}, remade(), [("refuse", "must have")], id="no order"),
    ],
)
def test_plan_of_content_made_anew(row, seen, wanted):
    found = plan([build_volume(**{"reimage": ORDER, **row})], seen={VOLUME: seen})
    assert [verb for verb, _, _ in found] == [verb for verb, _ in wanted]
    assert all(text in error for (_, _, error), (_, text) in zip(found, wanted, strict=True))


def test_what_is_to_be_made_of_a_volume_comes_before_its_new_content():
    row = build_volume(reimage=ORDER)
    found = plan([row], [build_snapshot()], {VOLUME: remade()})
    assert [verb for verb, _, _ in found] == ["snapshot", "reimage"]
    copying = build_volume(OTHER, source={"volume": VOLUME})
    assert plan([row, copying], seen={VOLUME: remade(), OTHER: {**MISSING, "state": "creating"}}) == []


@pytest.mark.parametrize(
    ("row", "seen", "wanted"),
    [
        ({}, remade(), ("creating", None, 1)),
        ({}, remade(task=RUNNING), ("creating", 0.5, 1)),
        ({}, remade(state="missing"), ("creating", None, 1)),
        ({}, remade(done=2), ("available", None, 2)),
        ({"reimage": {**ORDER, "idle": False}}, remade(), ("available", None, 1)),
        ({"reimage": {"wanted": 2}}, remade(), ("available", None, 1)),
    ],
)
def test_report_of_content_made_anew(row, seen, wanted):
    document = {"volumes": [build_volume(**{"reimage": ORDER, **row})], "snapshots": []}
    observed = {VOLUME: seen, "_host": {}, "_pool": None}
    report = volumes.report_volumes(document, observed)
    told = report["volumes"][VOLUME]
    assert (told["state"], told["progress"], told["reimage_done"]) == wanted
    assert report["pending"] == (wanted[1] is not None)
