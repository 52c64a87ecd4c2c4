"""How a move goes on: every step is led to by what was seen, and nothing is undone on the side that has the guest."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from web.desired.moves import build_move, choose_part
from web.reconcile.migration_status import choose_next, compute_move, compute_status, is_released

LIVE = {
    "kind": "live-migration", "phase": "preparing", "outcome": None, "error": None, "abort_wanted": False,
    "force_wanted": False, "source_host_id": "a", "dest_host_id": "b", "observed_source": {}, "observed_dest": {},
    "uuid": "m", "old_flavor": {"vcpus": 1, "ram_mb": 128, "disk_gb": 1},
}  # fmt: skip
COLD = {**LIVE, "kind": "migration"}
SAME = {**LIVE, "kind": "resize", "dest_host_id": "a"}
SENDING = {**LIVE, "phase": "sending"}
GONE = {**LIVE, "kind": "evacuation"}


def make(columns: dict, **more) -> SimpleNamespace:
    return SimpleNamespace(**{**columns, **more})


TABLE = [
    ("nothing seen", LIVE, {}, False, None),
    ("ready", LIVE, {"observed_dest": {"state": "ready"}}, False, ("sending", None, None)),
    ("no room", LIVE, {"observed_dest": {"state": "failed", "error": "full"}}, False, ("undoing", "failed", "full")),
    ("aborted before", LIVE, {"abort_wanted": True}, False, ("undoing", "cancelled", None)),
    ("deleted before", LIVE, {}, True, ("undoing", "cancelled", None)),
    ("under way", SENDING, {"observed_source": {"state": "sending", "running": True}}, False, None),
    ("on both, says an old look", SENDING,
     {"observed_source": {"running": True}, "observed_dest": {"state": "arrived"}}, False, None),
    ("arrived", SENDING, {"observed_source": {"state": "sent"}, "observed_dest": {"state": "arrived"}}, False,
     ("cleaning", "completed", None)),
    ("failed, runs on", SENDING, {"observed_source": {"state": "failed", "error": "cut", "running": True}}, False,
     ("undoing", "failed", "cut")),
    ("aborted, runs on", SENDING,
     {"abort_wanted": True, "observed_source": {"state": "failed", "running": True}}, False,
     ("undoing", "cancelled", None)),
    ("failed, runs nowhere that was looked at", SENDING,
     {"observed_source": {"state": "failed", "at": 5}, "observed_dest": {"state": "ready", "at": 4}}, False, None),
    ("failed, and looked for there since", SENDING,
     {"observed_source": {"state": "failed", "at": 5}, "observed_dest": {"state": "ready", "at": 6}}, False,
     ("undoing", "failed", None)),
    ("disk offered", COLD, {"observed_source": {"state": "offered"}}, False, ("sending", None, None)),
    ("disk there", {**COLD, "phase": "sending"}, {"observed_dest": {"state": "received"}}, False,
     ("resized", None, None)),
    ("copy failed", {**COLD, "phase": "sending"}, {"observed_dest": {"state": "failed", "error": "cut"}}, False,
     ("undoing", "failed", "cut")),
    ("deleted while copied", {**COLD, "phase": "sending"}, {}, True, ("undoing", "cancelled", None)),
    ("old disk kept", SAME, {"observed_source": {"state": "kept"}}, False, ("resized", None, None)),
    ("waits for its user", {**COLD, "phase": "resized"}, {}, False, None),
    ("deleted instead", {**COLD, "phase": "resized"}, {}, True, ("cleaning", "confirmed", None)),
    ("an older look saw it gone", {**COLD, "phase": "cleaning", "outcome": "confirmed"},
     {"observed_source": {"state": "gone", "phase": "sending"}}, False, None),
    ("source clean", {**COLD, "phase": "cleaning", "outcome": "confirmed"},
     {"observed_source": {"state": "gone", "phase": "cleaning"}}, False, ("ended", "confirmed", None)),
    ("destination clean", {**LIVE, "phase": "undoing", "outcome": "failed", "error": "cut"},
     {"observed_dest": {"state": "gone", "phase": "undoing"}}, False, ("ended", "failed", "cut")),
    ("source fenced before it was sent", LIVE, {"observed_source": {"fenced": True}}, False,
     ("undoing", "failed", "the source was fenced")),
    ("source fenced, not looked for there since", SENDING,
     {"observed_source": {"running": True, "fenced": True, "at": 5}, "observed_dest": {"state": "ready", "at": 5}},
     False, None),
    ("source fenced, and it is not there", SENDING,
     {"observed_source": {"running": True, "fenced": True, "at": 5}, "observed_dest": {"state": "ready", "at": 6}},
     False, ("undoing", "failed", "the source was fenced")),
    ("source fenced, and it is there", SENDING,
     {"observed_source": {"running": True, "fenced": True, "at": 5}, "observed_dest": {"state": "arrived", "at": 6}},
     False, ("cleaning", "completed", None)),
    ("destination fenced while it runs here", SENDING,
     {"observed_source": {"running": True, "state": "failed", "error": "cut"}, "observed_dest": {"fenced": True}},
     False, ("undoing", "failed", "cut")),
    ("cold, destination fenced", COLD, {"observed_dest": {"fenced": True}}, False,
     ("undoing", "failed", "the destination was fenced")),
    ("called off past its deadline", SENDING,
     {"abort_wanted": True, "error": "too slow",
      "observed_source": {"state": "failed", "error": "aborted", "running": True}},
     False, ("undoing", "cancelled", "too slow")),
    ("deleted, gone there, but it may still come", {**LIVE, "phase": "undoing", "outcome": "cancelled"},
     {"observed_source": {"state": "leaving", "at": 3},
      "observed_dest": {"state": "gone", "phase": "undoing", "at": 4}},
     True, None),
    ("deleted, and gone there since it was gone here", {**LIVE, "phase": "undoing", "outcome": "cancelled"},
     {"observed_source": {"state": "gone", "at": 3}, "observed_dest": {"state": "gone", "phase": "undoing", "at": 4}},
     True, ("ended", "cancelled", None)),
    ("old targets open", GONE, {}, False, None),
    ("old targets closed", GONE, {"observed_source": {"state": "closed"}}, False, ("sending", None, None)),
    ("deleted instead of evacuated", GONE, {}, True, ("ended", "cancelled", None)),
    ("made anew", {**GONE, "phase": "sending"}, {"observed_dest": {"state": "rebuilt"}}, False,
     ("cleaning", "completed", None)),
    ("the dead host is back and clean", {**GONE, "phase": "cleaning", "outcome": "completed"},
     {"observed_source": {"state": "gone", "phase": "cleaning"}}, False, ("ended", "completed", None)),
    ("over", {**LIVE, "phase": "ended", "outcome": "completed"}, {}, True, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "seen", "deleted", "expected"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_what_was_seen_leads_to(columns, seen, deleted, expected):
    assert choose_next(make(columns, **seen), deleted) == expected


@pytest.mark.parametrize(
    ("columns", "status", "move"),
    [
        (LIVE, "preparing", "live"),
        (SENDING, "running", "live"),
        ({**LIVE, "phase": "cleaning", "outcome": "completed"}, "completed", None),
        ({**LIVE, "phase": "undoing", "outcome": "failed", "observed_source": {"state": "failed"}}, "error", "live"),
        ({**LIVE, "phase": "undoing", "outcome": "failed"}, "error", None),  # it was never sent
        ({**LIVE, "phase": "undoing", "outcome": "failed", "observed_source": {"running": True}}, "error", None),
        ({**LIVE, "phase": "ended", "outcome": "cancelled"}, "cancelled", None),
        ({**LIVE, "phase": "undoing", "outcome": "failed", "observed_source": {"sent": True}}, "error", "live"),
        (GONE, "accepted", "evacuate"),
        ({**GONE, "phase": "sending"}, "pre-migrating", "evacuate"),
        ({**GONE, "phase": "cleaning", "outcome": "completed"}, "done", None),
        ({**GONE, "phase": "ended", "outcome": "completed"}, "completed", None),
        ({**COLD, "phase": "undoing", "outcome": "failed"}, "error", None),
        ({**COLD, "phase": "undoing", "outcome": "reverted", "observed_dest": {"fenced": True}}, "reverted", None),
        ({**SAME, "phase": "undoing", "outcome": "failed"}, "error", "revert"),
        (COLD, "migrating", "resize"),
        ({**COLD, "phase": "resized"}, "finished", "verify"),
        ({**COLD, "phase": "cleaning", "outcome": "confirmed"}, "confirmed", None),
        ({**COLD, "phase": "undoing", "outcome": "reverted"}, "reverted", "revert"),
        ({**COLD, "phase": "ended", "outcome": "reverted"}, "reverted", None),
    ],
)
def test_what_users_see(columns, status, move):
    migration = make(columns)
    assert (compute_status(migration), compute_move(migration)) == (status, move)


def read_parts(migration, home: str, deleted_at=None, earlier=()) -> dict[str, tuple[str, dict]]:
    """What the documents of both hosts say of the server; ``earlier`` moves of it have not ended."""
    server = SimpleNamespace(id="s", host_id=home, deleted_at=deleted_at, shelve=None, move=compute_move(migration))
    parts = {}
    for host in ("a", "b"):
        rows = SimpleNamespace(
            host=SimpleNamespace(id=host), moves={"s": [*earlier, migration]}, tunnel_addresses={"b": "192.0.2.2"}
        )
        part, one = choose_part(rows, server)
        parts[host] = (part, build_move(rows, server, part, one) if part != "absent" else {})
    return parts


def test_a_live_move_in_documents():
    parts = read_parts(make(LIVE), "a")
    assert parts["a"] == ("home", {})
    assert parts["b"] == ("incoming", {"incoming": {"migration": "m", "kind": "live", "offer": None}})
    sent = {"migration": "m", "kind": "live", "address": "192.0.2.2", "abort": False, "force": False}
    assert read_parts(make(SENDING), "a")["a"] == ("home", {"outgoing": sent})
    parts = read_parts(make(LIVE, phase="cleaning", outcome="completed"), "b")
    assert parts == {"a": ("absent", {}), "b": ("home", {})}


@pytest.mark.parametrize("kind", [LIVE, COLD])
def test_a_move_back_waits_for_what_was_left_there(kind):
    """The host is to be rid of what the earlier move left, and makes room after that."""
    back = make(kind, source_host_id="b", dest_host_id="a", uuid="n")
    left = make(LIVE, phase="cleaning", outcome="completed")
    parts = read_parts(back, "b", earlier=[left])
    assert (parts["a"][0], parts["b"][0]) == ("absent", "home")
    assert read_parts(back, "b", earlier=[make(left.__dict__, phase="ended")])["a"][0] == "incoming"
    failed = make(LIVE, phase="undoing", outcome="failed")
    assert read_parts(make(kind, uuid="n"), "a", earlier=[failed])["b"][0] == "absent"


def test_a_failed_live_move_in_documents():
    seen = {"running": True, "state": "failed"}
    parts = read_parts(make(LIVE, phase="undoing", outcome="failed", observed_source=seen), "a")
    assert parts == {"a": ("home", {}), "b": ("absent", {})}
    stopped = {"running": False, "state": "failed"}
    parts = read_parts(make(LIVE, phase="undoing", outcome="failed", observed_source=stopped), "a")
    assert parts["a"] == ("home", {"held": True, "power": "off"})  # until it is seen gone over there
    parts = read_parts(make(LIVE, phase="undoing", outcome="failed"), "a")
    assert parts["a"] == ("home", {})  # it was never sent, and nobody has looked whether it runs: it is left alone


def test_a_cold_move_in_documents():
    parts = read_parts(make(COLD), "a")
    assert parts["a"][1]["power"] == "off"
    assert parts["a"][1]["outgoing"]["kind"] == "cold"
    assert parts["b"][1]["incoming"]["offer"] is None
    offer = {"address": "192.0.2.1", "port": 10809, "name": "m"}
    parts = read_parts(make(COLD, phase="sending", observed_source={"state": "offered", **offer}), "a")
    assert parts["b"][1]["incoming"]["offer"] == offer
    parts = read_parts(make(COLD, phase="resized"), "b")
    assert parts == {"a": ("held", {"held": True, "power": "off"}), "b": ("home", {})}
    parts = read_parts(make(COLD, phase="undoing", outcome="reverted"), "a")
    assert parts == {"a": ("home", {"held": True, "power": "off"}), "b": ("absent", {})}


def test_a_resize_on_one_host_in_documents():
    for phase, wanted, power in (
        ("preparing", "kept", "off"), ("resized", "kept", None), ("cleaning", "dropped", None),
        ("undoing", "restored", "off"),
    ):  # fmt: skip
        part, fields = read_parts(make(SAME, phase=phase), "a")["a"]
        assert (part, fields["backup"], fields.get("power")) == ("home", {"id": "m", "wanted": wanted}, power)


def test_the_side_that_has_the_guest_never_gets_its_tombstone_and_a_deleted_one_gets_both():
    phases = ("preparing", "sending", "resized", "cleaning", "undoing")
    for kind, phase, running in itertools.product(("live-migration", "migration"), phases, (True, False)):
        migration = make(LIVE, kind=kind, phase=phase, observed_source={"running": running})
        home = "b" if phase in ("resized", "cleaning") else "a"
        assert read_parts(migration, home)[home][0] == "home"
        assert {part for part, _ in read_parts(migration, home, deleted_at=1).values()} == {"absent"}
        if phase == "undoing" and not is_released(migration):
            assert compute_move(migration) is not None
