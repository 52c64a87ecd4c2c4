"""A run that finds nothing to do: from the warm Ansible, from a cold one, and what of it is the host's own work.

The same document each time, in check mode: this host's, as the cloud has it now. The module's own work is the root
helper's process, started as Ansible starts it but by root, without sudo; of that, what the sections do once Python has
started and loaded them is measured by itself. A part of `bench/run`, as root.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from .figures import Figure, format_quantity

HOME = "/usr/local/lib/kumo/root"
PYTHON = "/opt/kumo/venv/bin/python"
SYSTEM_PYTHON = "/usr/bin/python3"  # the helper's own: it has libvirt

# As the account that runs are made by. The document goes back to root through the pipe alone.
RUNS = """
import json, sys, time
from sqlalchemy import select
from web.desired import build_document, read_rows
from web.models import Database, Host
from web.reconcile.run import run_host, scrub_environment
from web.settings import load_settings
scrub_environment()
settings = load_settings("/etc/kumo/kumo.conf")
with Database(settings.database.url).read() as session:
    host = session.scalar(select(Host))
    document = build_document(read_rows(session, host), settings, host.fence)
taken = {True: [], False: []}
for number in range(int(sys.argv[1]) + 1):
    for warm in taken:
        settings.worker.warm = warm
        started = time.perf_counter()
        outcome = run_host(settings, host.name, dict(host.connection), document, check=True)
        taken[warm].append(time.perf_counter() - started)
        assert outcome.ok, outcome.error
print(json.dumps({"document": document, "warm": taken[True][1:], "cold": taken[False][1:]}))
"""

# As root, with the code that the helper has: its sections and nothing else.
SECTIONS = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from kumo import core
document = json.load(sys.stdin)
core.run_sections(document, core.SECTIONS, check_mode=True)
started = time.perf_counter()
core.run_sections(document, core.SECTIONS, check_mode=True)
print(time.perf_counter() - started)
"""


def call(command: list[str], given: str = "", **options) -> str:
    """What a command prints; CalledProcessError where it fails, with its words on standard error."""
    return subprocess.run(
        command, input=given, stdout=subprocess.PIPE, text=True, check=True, timeout=600, **options
    ).stdout


def measure_helper(document: dict, rounds: int) -> float:
    """Median seconds of the helper's process."""
    with open(f"{HOME}/manifest.json", encoding="ascii") as stream:
        request = json.dumps({"files": json.load(stream), "document": document})
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        call([f"{HOME}/kumo_root.py", "check"], request)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def measure(rounds: int) -> list[Figure]:
    """The part's figures."""
    print(f"  {rounds} runs from the warm Ansible and {rounds} cold ones, in turn", file=sys.stderr, flush=True)
    as_kumo = ["runuser", "-u", "kumo", "--", PYTHON, "-c", RUNS, str(rounds)]
    told = json.loads(call(as_kumo, cwd="/opt/kumo/src"))
    warm, cold = statistics.median(told["warm"]), statistics.median(told["cold"])
    print("  the root helper alone", file=sys.stderr, flush=True)
    helper = measure_helper(told["document"], rounds)
    alone = [SYSTEM_PYTHON, "-I", "-c", SECTIONS, HOME]
    sections = statistics.median(float(call(alone, json.dumps(told["document"]))) for _ in range(rounds))
    return build_figures(warm, cold, helper, sections)


def build_figures(warm: float, cold: float, helper: float, sections: float) -> list[Figure]:
    """The figures of these medians, all in seconds."""
    profile = (
        f"{warm:6.3f} s  the warm run\n"
        f"{sections:6.3f} s  of it the sections' work on the host\n"
        f"{helper - sections:6.3f} s  the helper's own start: Python, its imports, the request's check\n"
        f"{warm - helper:6.3f} s  the run's folder, ansible_runner, the fork, the play, sudo, events and result"
    )
    return [
        Figure(
            "a run that finds nothing to do, warm", warm, "s", ratio=warm / cold,
            of=f"the same cold, {format_quantity(cold, 's')}",
        ),
        Figure(
            f"its overhead beyond the module's process on the host ({format_quantity(helper, 's')})", warm - helper,
            "s", most=0.4, ratio=(warm - helper) / cold, of="the cold run", ratio_most=0.22, profile=profile,
        ),
        Figure(
            f"the same beyond what the sections do there ({format_quantity(sections, 's')})", warm - sections, "s",
            ratio=(warm - sections) / cold, of="the cold run",
        ),
    ]  # fmt: skip
