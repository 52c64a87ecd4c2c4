"""The backend lvm: what LVM 2.03.16 reports in, contents and commands out."""

import json
import uuid

import pytest
from ansible.module_utils.kumo import volume_backend_lvm as lvm
from ansible.module_utils.kumo.errors import KumoError

ONE, OTHER, THIRD = (str(uuid.UUID(int=number)) for number in range(1, 4))
STORAGE = {"volume_group": "vg", "thin_pool": "pool", "directory": "/state"}
GIB = 1 << 30
POOL = {"lv_name": "pool", "lv_size": str(8 * GIB), "pool_lv": "", "lv_tags": "", "lv_layout": "thin,pool",
        "lv_active": "active", "lv_health_status": "", "zero": "zero",
        "data_percent": "25.00", "metadata_percent": "10.79"}  # fmt: skip


def build_row(name: str, **more) -> dict:
    """A thin volume's row, as seen on a Debian 12 host."""
    row = {"lv_name": name, "lv_size": str(GIB), "pool_lv": "pool", "lv_tags": "kumo:/state",
           "lv_layout": "thin,sparse", "lv_active": "active", "lv_health_status": "",
           "zero": "zero", "data_percent": "0.00", "metadata_percent": ""}  # fmt: skip
    return {**row, **more}


def build_text(*rows: dict) -> str:
    return json.dumps({"report": [{"lv": list(rows)}]})


def test_contents_are_what_carries_this_state_directory():
    text = build_text(
        POOL,
        build_row(f"kumo-volume-{ONE}"),
        build_row(f"kumo-snapshot-{OTHER}", lv_active="", data_percent=""),
        build_row(f"kumo-part-{THIRD}", lv_tags="operators,kumo:/state"),
        build_row(f"kumo-volume-{THIRD}", lv_tags="kumo:/other"),  # another cloud's, in the same volume group
        build_row("kumo-volume-notes"),
        build_row("home", lv_tags=""),
    )
    assert lvm.parse_contents(text, STORAGE) == {
        "objects": {
            ONE: {"kind": "volume", "size": GIB},
            OTHER: {"kind": "snapshot", "size": GIB},
        },
        "unfinished": {THIRD},
        "pool": {
            "total_gb": 8,
            "free_gb": 6,
            "used_percent": 25.0,
            "metadata_percent": 10.79,
            "snapshot_in_use": True,
            "problem": None,
        },
    }


@pytest.mark.parametrize(
    ("pool", "sentence"),
    [
        ({"zero": ""}, "gives out blocks as they were"),
        ({"lv_health_status": "out_of_data"}, "is not well: out_of_data"),
        ({"data_percent": "", "metadata_percent": ""}, "is not active"),
    ],
)
def test_s11_a_pool_that_may_not_be_used_says_why(pool, sentence):
    assert sentence in lvm.parse_contents(build_text({**POOL, **pool}), STORAGE)["pool"]["problem"]


@pytest.mark.parametrize("rows", [[], [build_row("pool")], [{**POOL, "lv_name": "other"}]])
def test_without_its_thin_pool_nothing_is_read(rows):
    with pytest.raises(KumoError, match="no thin pool vg/pool"):
        lvm.parse_contents(build_text(*rows), STORAGE)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"report": [{"lv": [{"lv_name": "x"}]}]}'])
def test_a_report_that_is_none_is_an_error(text):
    with pytest.raises(KumoError, match="no report"):
        lvm.parse_report(text, STORAGE)


PART, VOLUME = f"kumo-part-{ONE}", f"kumo-volume-{ONE}"


@pytest.mark.parametrize(
    ("names", "commands"),
    [
        ([PART], [["lvrename", "--yes", "vg", PART, VOLUME]]),
        ([VOLUME], []),
    ],
)
def test_finish_once_and_again(names, commands):
    owned = {name: build_row(name) for name in names}
    assert lvm.plan_finish(owned, STORAGE, "volume", ONE) == commands


def test_finish_of_nothing_is_an_error():
    with pytest.raises(KumoError, match="never begun"):
        lvm.plan_finish({}, STORAGE, "volume", ONE)


@pytest.mark.parametrize(("names", "goes"), [((PART, VOLUME), [VOLUME]), ((PART,), [])])
def test_what_replaces_a_volume_is_there_before_that_goes(names, goes):
    assert lvm.plan_replace({name: build_row(name) for name in names}, ONE) == goes


def test_nothing_goes_where_nothing_was_begun():
    with pytest.raises(KumoError, match="nothing was begun"):
        lvm.plan_replace({VOLUME: build_row(VOLUME)}, ONE)


@pytest.mark.parametrize(
    ("size", "commands"),
    [
        (2 * GIB, [["lvextend", "--yes", "--size", f"{2 * GIB}b", f"vg/{VOLUME}"]]),
        (GIB, []),
        (GIB // 2, []),
    ],
)
def test_extend_never_makes_smaller(size, commands):
    assert lvm.plan_extend({VOLUME: build_row(VOLUME)}, STORAGE, VOLUME, size) == commands


def test_extend_of_nothing_is_an_error():
    with pytest.raises(KumoError, match="no logical volume"):
        lvm.plan_extend({}, STORAGE, VOLUME, GIB)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([VOLUME, f"kumo-volume-{OTHER}"], [VOLUME]),
        ([VOLUME, PART], [PART, VOLUME]),
        ([f"kumo-snapshot-{ONE}"], [f"kumo-snapshot-{ONE}"]),
        ([f"kumo-volume-{OTHER}"], []),
    ],
)
def test_delete_takes_all_of_an_object_and_nothing_else(names, wanted):
    assert lvm.plan_delete({name: build_row(name) for name in names}, ONE) == wanted


def test_commands_say_what_they_make():
    create = lvm.build_create(STORAGE, PART, GIB)
    assert create[:2] == ["lvcreate", "--yes"]
    for words in (
        ["--virtualsize", f"{GIB}b"],
        ["--thinpool", "vg/pool"],
        ["--name", PART],
        ["--addtag", "kumo:/state"],
    ):
        at = create.index(words[0])
        assert create[at : at + 2] == words
    snapshot = lvm.build_snapshot(STORAGE, f"kumo-snapshot-{OTHER}", VOLUME, is_active=False)
    assert snapshot[-1] == f"vg/{VOLUME}"
    assert snapshot[snapshot.index("--setactivationskip") + 1] == "y"
    assert snapshot[snapshot.index("--activate") + 1] == "n"
