"""Moves between two real hypervisors by documents, disturbed at each step of either side: they end as undisturbed ones.

As `tests/host/test_servers_faults.py`, with the phases of docs/moving-guests.md: each phase is a host, a document, and
what the host tells when it is over. A step is disturbed in its own phase; the phase then goes on to its end, and the
rest of the move follows. It takes its time: not part of `ci`.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
import uuid
from dataclasses import dataclass

import pytest
from cloud_lab import ROOT
from moves_lab import CODE, STATE, MovesLab, find_faults
from test_moves_by_document import build_absent, build_incoming, build_outgoing, moves  # noqa: F401, the fixture

sys.path.insert(0, str(ROOT / "tests" / "host"))

from fault_lab import WAYS, build_faulty, build_points, check_hit, check_same

PHASE_S = 180
NOTE = "/run/kumo-moves-step.note"
SECTIONS = (
    "images", "volumes", "exports", "networks", "routers", "neighbours", "dhcp", "firewall", "metadata", "servers",
)  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """A side (source or target), its row of the server by ``build(move)``, and the state of the move at its end."""

    side: str
    build: object
    state: str | None = None


LIVE = [
    Phase("target", lambda move: build_incoming(move.row, move.id), "ready"),
    Phase("source", lambda move: build_outgoing(move.row, move.id, move.address("target")), "sent"),
    Phase("target", lambda move: build_incoming(move.row, move.id), "arrived"),
    Phase("target", lambda move: move.row),
    Phase("source", lambda move: build_absent(move.row)),
]
COPIED = [
    Phase("source", lambda move: build_outgoing(move.row, move.id, move.address("target"), "cold"), "offered"),
    Phase("target", lambda move: build_incoming(move.row, move.id, "cold"), "preparing"),
    Phase("target", lambda move: build_incoming(move.row, move.id, "cold", move.read_offer()), "received"),
    Phase("source", lambda move: {**move.row, "held": True, "power": "off"}),
    Phase("target", lambda move: move.row),
]
COLD = [*COPIED, Phase("source", lambda move: build_absent(move.row))]
REVERTED = [*COPIED, Phase("target", lambda move: build_absent(move.row)), Phase("source", lambda move: move.row)]
EVACUATED = [
    Phase("source", lambda move: {**move.row, "held": True}),
    Phase("target", lambda move: move.row),
    Phase("source", lambda move: build_absent(move.row)),
]
# name: (phases, what the guest is before, whether it ends at the other host)
MOVES = {
    "live": (LIVE, {}, True),
    "cold": (COLD, {"power": "off"}, True),
    "revert": (REVERTED, {"power": "off"}, False),
    "evacuate": (EVACUATED, {}, True),
}


class Move:
    """One move after another of the same guest; the next goes back where the last one came from."""

    def __init__(self, lab: MovesLab, row: dict):
        self.lab, self.row, self.id = lab, row, ""
        self.sides = {"source": lab.here, "target": lab.there}

    def begin(self) -> None:
        self.id = str(uuid.uuid4())

    def turn(self) -> None:
        self.sides = {"source": self.sides["target"], "target": self.sides["source"]}

    def address(self, side: str) -> str:
        return self.lab.address(self.sides[side])

    def read_offer(self) -> dict:
        """As the worker has it from the source's last run: the source's document is as it was."""
        told = self.lab.follow(self.sides["source"], COPIED[0].build(self), "offered")
        return {name: told[name] for name in ("address", "port", "name")}

    def is_over(self, phase: Phase, result: dict) -> bool:
        if phase.state is None:
            return not result["actions"] and not result["pending"]
        told = result["observed"]["moves"][self.row["id"]]
        assert told["state"] != "failed", told
        return told["state"] == phase.state and (phase.state != "preparing" or not result["actions"])

    def finish(self, phase: Phase) -> None:
        """Undisturbed runs until the phase is over."""
        host, row, deadline = self.sides[phase.side], phase.build(self), time.monotonic() + PHASE_S
        while not self.is_over(phase, result := self.lab.apply(host, row)):
            assert time.monotonic() < deadline, (result["actions"], result["observed"].get("moves"))
            time.sleep(0.3)
        assert not find_faults(result), find_faults(result)

    def call(self, phase: Phase, row: dict, step: list, way: str):
        """One run of FAULTY: (status, result or None, what it noted or None)."""
        host = self.sides[phase.side]
        request = json.dumps([self.lab.build_document(host, [row]), SECTIONS, step, way, NOTE])
        program = f"python3 -B -c {shlex.quote(build_faulty(CODE))}"
        script = f"rm -f {NOTE}; {program}; s=$?; echo; echo status $s; cat {NOTE} 2>/dev/null; rm -f {NOTE}"
        said = self.lab.root(host, script, input=request, timeout=180)
        printed, _, rest = said.rpartition("\nstatus ")
        status, _, noted = rest.partition("\n")
        done = Done(int(status), printed.strip(), "")
        return done, json.loads(noted) if noted.strip() else None

    def tell(self, phase: Phase) -> list:
        """The phase undisturbed; its steps."""
        row, told, deadline = phase.build(self), [], time.monotonic() + PHASE_S
        while True:
            done, noted = self.call(phase, row, [], "tell")
            assert done.returncode == 0
            told += noted or []
            if self.is_over(phase, json.loads(done.stdout)):
                return told
            assert time.monotonic() < deadline, done.stdout[-2000:]
            time.sleep(0.3)

    def disturb(self, phase: Phase, step: list, way: str) -> None:
        """Runs of the phase until one comes to the step, and ends as it was asked to."""
        row, deadline = phase.build(self), time.monotonic() + PHASE_S
        while True:
            done, noted = self.call(phase, row, step, way)
            if noted:
                check_hit(done, step, way)
                return
            assert done.returncode == 0
            assert time.monotonic() < deadline, f"{step} was not reached: {done.stdout[-3000:]}"
            time.sleep(0.3)

    def read(self) -> dict:
        """Both sides as their tools show them, and the disk."""
        return {side: self.read_side(host) for side, host in self.sides.items()}

    def read_side(self, host: str) -> dict:
        row = self.row["id"]
        domains = self.lab.virsh(host, "list --all --name").split()
        folder = f"{STATE}/servers/{row}"
        state = self.lab.root(host, f"cat {folder}/state.json 2>/dev/null || true")
        files = self.lab.root(host, f"find {STATE} -type f -not -name '*.log' | sort").split()
        kept = json.loads(state) if state else {}
        for name in ("migration", "port"):  # another one each time
            (kept.get("move") or {}).pop(name, None)
        links = self.lab.root(host, "ip -o link show").splitlines()
        chains = self.lab.root(host, "iptables-save; ip6tables-save; ebtables-save")
        found = {
            "domains": {name: self.lab.virsh(host, f"domstate {name}").strip() for name in domains},
            "definition": self.lab.virsh(host, f"dumpxml --inactive {domains[0]}") if domains else "",
            "kept": {name: value for name, value in kept.items() if name[-5:] != "_done"},
            "files": [name for name in files if "/lib/kumo-moves-test/probe" not in name],
            "secrets": self.lab.virsh(host, "secret-list").split(),
            "links": sorted(line.split()[1].split("@")[0] for line in links if re.match(r"\d+: k", line)),
            # The last two are the host's, and the lab's own cloud has its word there, too.
            "chains": sorted(re.findall(r"^-A (?=.*kumo-)(?!kumo-(?:input|forward) ).*", chains, re.MULTILINE)),
            "offers": sorted(re.findall(r":(49\d\d\d) ", self.lab.root(host, "ss -Hltn"))),
        }
        return found


@dataclass(frozen=True)
class Done:
    """As subprocess has it of a run on another host."""

    returncode: int
    stdout: str
    stderr: str


def tell_move(move: Move, phases: list[Phase], goes: bool) -> tuple[list, dict]:
    """One move undisturbed: the steps of each of its phases, and both sides at its end."""
    move.begin()
    told = [move.tell(phase) for phase in phases]
    end = move.read()
    if goes:
        move.turn()
    return told, end


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MOVES)
def test_each_step(moves, name, way, request):  # noqa: F811
    phases, more, goes = MOVES[name]
    row = {**moves.build_guest(), **more}
    if name == "live":
        row["volumes"] = [moves.make_volume()]
    move = Move(moves, row)
    request.addfinalizer(lambda: [moves.settle(host, build_absent(row)) for host in (moves.here, moves.there)])
    moves.settle(moves.here, row)
    moves.settle(moves.there)
    tell_move(move, phases, goes)  # the first one at a host does what no later one does: it starts a dnsmasq, say
    if goes:
        tell_move(move, phases, goes)
    ends, points = {}, {}  # by the host that the guest comes from: the hosts differ
    for _ in range(2 if goes else 1):
        source = move.sides["source"]
        told, ends[source] = tell_move(move, phases, goes)
        points[source] = [(at, step) for at, steps in enumerate(told) for step in build_points(steps, way, ())]
        assert {step[0] for _, step in points[source]} >= {"servers"}
    tried = []
    while any(point not in tried for found in points.values() for point in found):
        source = move.sides["source"]
        at, step = next((point for point in points[source] if point not in tried), (None, None))
        tried.append((at, step))
        move.begin()
        for index, phase in enumerate(phases):
            if index == at:
                move.disturb(phase, step, way)
            move.finish(phase)
        check_same(move.read(), ends[source], f"{name}: not as undisturbed after {way} at {step}")
        if goes:
            move.turn()
    for host in (moves.here, moves.there):
        moves.settle(host, build_absent(row))
        assert moves.virsh(host, "list --all --name").strip() == ""
        assert moves.root(host, f"ls {STATE}/servers {STATE}/tasks").split() == [f"{STATE}/servers:", f"{STATE}/tasks:"]
