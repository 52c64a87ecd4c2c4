"""Volumes wanted and volumes seen in, actions out."""

import uuid

import pytest
from ansible.module_utils.kumo import volumes

VOLUME, OTHER, SNAPSHOT, IMAGE = (str(uuid.UUID(int=number)) for number in range(1, 5))
MISSING = {"state": "missing", "size_gb": None, "progress": None, "error": None, "task_failed": False,
           "unfinished": False}  # fmt: skip
WHOLE = {**MISSING, "state": "available", "size_gb": 1}


def build_volume(volume_id=VOLUME, **more) -> dict:
    return {"id": volume_id, "wanted": "present", "size_gb": 1, "source": None, "exports": [], **more}


def build_snapshot(**more) -> dict:
    return {"id": SNAPSHOT, "volume": VOLUME, "wanted": "present", "size_gb": 1, **more}


def plan(rows: list, snapshots: list = (), seen: dict | None = None, pool: bool = True, leftovers=()) -> list[tuple]:
    document = {"settings": {"state_dir": "/state", "storage": {"backend": "file"}}, "volumes": rows}
    document["snapshots"] = list(snapshots)
    known = [row["id"] for row in [*rows, *snapshots]]
    observed = {**dict.fromkeys(known, MISSING), **(seen or {})}
    observed |= {"_pool": {} if pool else None, "_leftovers": list(leftovers), "_orphans": [], "_tasks": {}}
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


def test_a_host_without_storage_says_so():
    assert "keeps no volumes" in plan([build_volume()], pool=False)[0][2]


def test_what_an_interrupted_run_left_is_discarded():
    assert plan([], leftovers=[OTHER]) == [("discard", OTHER, "")]
