"""Whatever is seen leads to whatever is wanted: plans carried out on a guest made of a dict."""

import itertools

import pytest
from ansible.module_utils.kumo import guests, power, servers
from ansible.module_utils.kumo.server_rows import POWERS, parse_server
from test_servers import KEPT, NOW, ROW, I, S, build, off

R = "aaaaaaaa-0000-4000-8000-00000000000f"
# What a guest can be seen as; paused for a reason of its host's is nobody's wish.
WISHED = ("paused", "user")
ERRORS = [("paused", reason) for reason in ("ioerror", "watchdog", "asleep", "unknown")]
LEFT = ("paused", "migration")
SEEN = [("running", ""), WISHED, LEFT, *ERRORS, ("suspended", "saved"), ("crashed", "")]
SEEN += [("shutoff", reason) for reason in ("unknown", "shutdown", "destroyed", "crashed", "saved", "failed")]
STATE_OF = {"on": "running", "off": "shutoff", "paused": "paused", "suspended": "suspended"}
REBOOTS = (None, "SOFT", "HARD")
KEPTS = {
    "at rest": {},
    "stopped by us": {"off_by": "us"},
    "stopping": {"off_by": "us", "stopping_since": NOW - 3, "pressed_at": NOW - 3},
    "rebooting": {"rebooting": {"to": 1, "since": NOW - 3}, "pressed_at": NOW - 3},
}


class Guest:
    """A guest that verbs act on as the host does; ``hears`` is whether it obeys its power button."""

    def __init__(self, row, seen, kept, hears):
        self.row, self.hears, self.now, self.verbs = row, hears, NOW, []
        self.server = parse_server({**ROW, **row})
        self.seen = {"state": seen[0], "reason": seen[1], "rescue_image": "cached"}
        self.kept = {**KEPT, **kept}

    def plan(self):
        document, observed = build(self.row, self.seen, self.kept)
        observed["_now"] = self.now
        observed[S]["owned"] = guests.build_owned(document, self.server, servers.domain_xml.build_nics(
            document, self.server), self.kept, "qemu")  # fmt: skip
        return servers.plan_servers(document, observed)

    def run(self) -> bool:
        """One run; whether there was anything to do or to wait for."""
        document, observed = build(self.row, self.seen, self.kept)
        pending = servers.report_servers(document, observed)["pending"]
        actions = self.plan()
        for action in actions:
            self.verbs.append(action.verb)
            getattr(self, "do_" + action.verb)(**{k: v for k, v in action.args.items() if k != "server"})
        self.now += 4
        return bool(actions) or pending

    def be(self, state, reason):
        self.seen.update(state=state, reason=reason)

    def do_start(self):
        assert self.seen["state"] in ("shutoff", "crashed", "suspended")
        self.be("running", "")
        done = guests.build_kept(self.server)
        self.kept.update({name: done[name] for name in done if name not in ("disk", "move", "rescue", "volume_errors")})

    def do_pause(self):
        assert self.seen["state"] == "running"
        self.be(*WISHED)

    def do_resume(self):
        assert self.seen["state"] == "paused"
        self.be("running", "")
        self.kept.update(start_done=self.server["start"]["wanted"], off_by=None)

    def do_suspend(self):
        assert self.seen["state"] in ("running", "paused")
        self.be("suspended", "saved")

    def do_discard(self):
        assert self.seen["state"] == "suspended"
        self.be("shutoff", "saved")

    def do_destroy(self):
        assert self.seen["state"] in ("running", "paused", "crashed")
        self.be("shutoff", "destroyed")
        self.kept.update(guests.build_off(self.server))

    def do_stop(self):
        assert self.seen["state"] == "running", "nobody hears the button"
        self.kept.update(off_by="us", stopping_since=self.now, pressed_at=self.now, rebooting=None)
        if self.hears:
            self.be("shutoff", "shutdown")
            self.kept.update(guests.build_off(self.server))

    def do_press_power_button(self):
        assert self.seen["state"] == "running"
        self.kept["pressed_at"] = self.now
        if self.hears:
            self.be("shutoff", "shutdown")

    def do_reboot_soft(self):
        assert self.seen["state"] == "running"
        self.kept.update(rebooting={"to": 1, "since": self.now}, pressed_at=self.now)
        if self.hears:
            self.be("shutoff", "shutdown")
            self.do_start()

    def do_reboot_hard(self):
        assert self.seen["state"] in ("running", "paused")
        self.be("shutoff", "destroyed")
        self.do_start()

    def do_record(self, changes):
        self.kept.update(changes)

    def do_rescue(self):
        self.be("shutoff", "destroyed")
        self.kept["rescue"] = {"image": self.server["rescue"]["image"], "driver": "qcow2"}

    def do_rescue_soft(self):
        self.do_stop()
        if self.seen["state"] == "shutoff":
            self.do_rescue()
            self.do_start()

    def do_unrescue(self):
        self.be("shutoff", "destroyed")
        self.kept["rescue"] = None

    def do_redefine(self):
        raise AssertionError("the definition is taken as it is wanted")

    def settle(self):
        for _ in range(40):
            if not self.run():
                return
        raise AssertionError(f"no end: {self.verbs[-12:]}")


def is_left_alone(wanted, seen, asked):
    """By design: nobody's wish, so it is not undone until somebody asks; and what shut itself down stays down."""
    return wanted != "off" and not asked and (
        (wanted == "on" and seen in ERRORS) or seen == ("shutoff", "shutdown")
    )  # fmt: skip


@pytest.mark.parametrize("hears", [True, False], ids=["hears", "deaf"])
@pytest.mark.parametrize("kept", KEPTS)
@pytest.mark.parametrize("wanted", STATE_OF)
def test_every_state_leads_to_every_power(wanted, kept, hears):
    """Seen × reboot × start, for each wanted power and each memory of the past: it ends as wanted, and then rests."""
    for seen, reboot, start in itertools.product(SEEN, REBOOTS, (0, 1)):
        if kept != "at rest" and seen[0] != "running":
            continue
        row = {"power": wanted, "start": {"wanted": start}}
        if reboot:
            row["reboot"] = {"wanted": 1, "type": reboot}
        guest = Guest(row, seen, KEPTS[kept], hears)
        where = f"{seen} to {wanted}, reboot {reboot}, start {start}"
        try:
            guest.settle()
        except AssertionError as error:
            raise AssertionError(f"{where}: {error} after {guest.verbs}") from error
        if is_left_alone(wanted, seen, start or reboot):
            assert guest.seen["state"] == seen[0], where
            continue
        assert guest.seen["state"] == STATE_OF[wanted], f"{where}: {guest.verbs}"
        assert guest.kept["reboot_done"] >= bool(reboot), where
        assert guest.plan() == [], f"{where}: it does not rest"


@pytest.mark.parametrize("stop", [True, False], ids=["graceful", "at once"])
@pytest.mark.parametrize("hears", [True, False], ids=["hears", "deaf"])
def test_every_state_leads_into_a_rescue_and_out_of_it(hears, stop):
    """Whatever is seen, with every rescue before and after; a guest that is stopped for it is stopped as wished."""
    for seen, before, after, wanted in itertools.product(SEEN, (None, I, R), (None, I, R), ("on", "off")):
        if before == after:
            continue
        row = {"power": wanted, "start": {"wanted": 1}, "stop": {"graceful": stop}}
        row["rescue"] = {"image": after} if after else None
        guest = Guest(row, seen, {"rescue": before and {"image": before, "driver": "qcow2"}}, hears)
        guest.settle()
        where = f"{seen} from {before} to {after}: {guest.verbs}"
        assert (guest.kept["rescue"] or {}).get("image") == after, where
        assert guest.seen["state"] == ("running" if wanted == "on" else "shutoff"), where
        assert guest.plan() == [], where
        if seen == ("running", "") and after:
            assert ("rescue_soft" in guest.verbs) == stop, where


CASES = {
    # name: (row, seen, kept, verbs)
    "pause": ({"power": "paused"}, {}, {}, ["pause"]),
    "paused as wanted": ({"power": "paused"}, {"state": "paused", "reason": "user"}, {}, []),
    "pause of what its host stopped for an error": (
        {"power": "paused"}, {"state": "paused", "reason": "ioerror"}, {}, []),
    "unpause": ({}, {"state": "paused", "reason": "user"}, {}, ["resume"]),
    "unpause of an I/O error": (
        {"start": {"wanted": 1}}, {"state": "paused", "reason": "ioerror"}, {}, ["resume"]),
    "an I/O error after it": (
        {"start": {"wanted": 1}}, {"state": "paused", "reason": "ioerror"}, {"start_done": 1}, []),
    "on its way to another host": (
        {"start": {"wanted": 1}}, {"state": "paused", "reason": "migration", "job": {"memory_total": 1}}, {},
        ["abort_move"]),
    "paused, and the host went down": ({"power": "paused"}, off("unknown"), {}, ["start", "pause"]),
    "suspend": ({"power": "suspended"}, {}, {}, ["suspend"]),
    "suspend of a paused one": ({"power": "suspended"}, {"state": "paused", "reason": "user"}, {}, ["suspend"]),
    "suspend under way": (
        {"power": "suspended"}, {"state": "running", "tasks": {"save": {"state": "running"}}}, {}, []),
    "suspend under way, its task killed": ({"power": "suspended"}, {"state": "paused", "reason": "save"}, {}, []),
    "resume while it is saved": ({}, {"state": "paused", "reason": "save"}, {}, []),
    "suspend failed": (
        {"power": "suspended"}, {"tasks": {"save": {"state": "failed", "error": "no room"}}}, {}, ["tell_save"]),
    "and is wanted no more": ({}, {"tasks": {"save": {"state": "failed", "error": "no room"}}}, {}, ["forget_save"]),
    "suspended as wanted": ({"power": "suspended"}, {"state": "suspended"}, {}, []),
    "its memory is lost": ({"power": "suspended"}, off("unknown"), {}, ["start", "suspend"]),
    "resume": ({}, {"state": "suspended", "reason": "saved"}, {}, ["start"]),
    "hard reboot of a suspended one": (
        {"reboot": {"wanted": 1, "type": "HARD"}}, {"state": "suspended"}, {}, ["discard", "start"]),
    "stop of a suspended one": (
        {"power": "off"}, {"state": "suspended", "reason": "saved"}, {}, ["discard", "record"]),
    "delete while it is saved": (
        {"wanted": "absent"}, {"state": "paused", "reason": "save"}, {}, ["remove"]),
    "rescue": ({"rescue": {"image": R}}, {"rescue_image": "cached"}, {}, ["rescue_soft"]),
    "rescue whose image comes": ({"rescue": {"image": R}}, {"rescue_image": "fetching"}, {}, []),
    "rescue whose image is not here": (
        {"rescue": {"image": R}}, {"rescue_image": "missing"}, {}, ["check_rescue_image", "rescue_soft"]),
    "rescue, going down": (
        {"rescue": {"image": R}}, {"rescue_image": "cached"}, {"stopping_since": NOW - 3, "pressed_at": NOW - 3}, []),
    "rescue, not heard": (
        {"rescue": {"image": R}}, {"rescue_image": "cached"}, {"stopping_since": NOW - 61}, ["rescue", "start"]),
    "rescue of a volume": ({"rescue": {"image": "?"}}, {}, {}, ["refuse"]),
    "no power": ({"power": "asleep"}, {}, {}, ["refuse"]),
}  # fmt: skip


@pytest.mark.parametrize(("row", "seen", "kept", "verbs"), CASES.values(), ids=CASES.keys())
def test_plan(row, seen, kept, verbs):
    actions = servers.plan_servers(*build(row, seen, kept))
    assert [action.verb for action in actions] == verbs
    assert {*servers.VERBS, "refuse", "remove"} >= set(verbs)
    for action in actions:
        if action.verb.startswith("rescue") or action.verb == "check_rescue_image":
            assert ("images", R) in action.requires


@pytest.mark.parametrize(
    ("row", "seen", "pending"),
    [
        ({"power": "suspended"}, {"tasks": {"save": {"state": "running"}}}, True),
        ({"power": "on"}, {"state": "paused", "reason": "save"}, True),
        ({"power": "paused"}, {"state": "paused", "reason": "user"}, False),
        ({"power": "suspended"}, {"state": "suspended"}, False),
        ({"rescue": {"image": R}}, {"rescue_image": "fetching"}, True),
        ({"rescue": {"image": R}}, {"rescue_image": "missing"}, False),
    ],
)
def test_report_pending(row, seen, pending):
    assert servers.report_servers(*build(row, seen))["pending"] is pending


def test_ports_and_volumes_of_a_paused_guest():
    """Its NICs are plugged as those of one that runs, and it is never waited for: it answers when it goes on."""
    document, observed = build({"power": "paused"}, {"state": "paused", "reason": "user", "nics": []})
    assert [action.verb for action in servers.plan_servers(document, observed)] == ["attach_port"]
    observed["_taps"] = [servers.names.build_tap_name(document["ports"][0]["id"])]
    observed[S]["volumes"] = {R: {"device": "vdb", "size": 0}}
    report = servers.report_servers(document, observed)
    assert report["ports"][document["ports"][0]["id"]] == {"state": "active"}
    assert report["servers"][S]["volumes"] == [R]
    assert not report["pending"]


def test_every_power_has_a_plan():
    assert set(power.PLANS) == set(POWERS)
