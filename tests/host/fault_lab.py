"""Runs that are cut or fail at one of their steps, and what tells two readings of a host apart.

The steps of a run are those that an undisturbed one tells of itself. For
`test_networks_faults.py` and `test_servers_faults.py`.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
# Does the run, and at the step [section, object id, verb, number of its kind] what is asked for; notes that it was so.
FAULTY = f"""
import collections, json, os, sys, threading
sys.path.insert(0, {str(ROOT / "module_utils")!r})
import kumo.core
from kumo.errors import KumoError
document, sections, step, way, note = json.load(sys.stdin)
real, seen, lock = kumo.core._apply_group, collections.Counter(), threading.Lock()
def apply_group(apply, document, actions, failed):
    def apply_one(document, action):
        with lock:
            name = (action.section, action.object_id, action.verb)
            seen[name] += 1
            here = [*name, seen[name]] == step
        if here:
            open(note, "w").write(json.dumps(step))
        if here and way == "fail":
            raise KumoError("injected")
        apply(document, action)
        if here and way == "kill":
            os.kill(os.getpid(), 9)
    return real(apply_one, document, actions, failed)
kumo.core._apply_group = apply_group
print(json.dumps(kumo.core.run_sections(document, tuple(sections))))
"""


def find_differences(one: dict, other: dict, path: str = "") -> list[str]:
    """Where two readings differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted({*one, *other})
        return [line for name in names for line in find_differences(one.get(name), other.get(name), f"{path}/{name}")]
    return [] if one == other else [f"{path}: {one!r} and {other!r}"]


def build_steps(actions: list[dict]) -> list[list]:
    """[section, object id, verb, how many of these before and with it] of each action."""
    counted: dict[tuple, int] = {}
    steps = []
    for action in actions:
        name = (action["section"], action["object_id"], action["verb"])
        counted[name] = counted.get(name, 0) + 1
        steps.append([*name, counted[name]])
    return steps


def build_request(document: dict, sections, step: list, way: str, note: Path) -> str:
    """What FAULTY reads: the document, its sections, the step, kill or fail, and where it notes that it was there."""
    note.unlink(missing_ok=True)
    return json.dumps([document, list(sections), step, way, str(note)])


def check_hit(done, step: list, way: str, note: Path) -> dict | None:
    """That the run of FAULTY reached its step and ended so; its result, None where it was killed."""
    assert note.exists(), f"{step} was not reached: {done.stderr[-500:]}"
    if way == "kill":
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
        return None
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    told = result["objects"][step[0]][step[1]]
    assert not told["ok"], f"{step}: its failure is not told"
    assert "injected" in told["error"]
    return result
