"""`bench/run`: all that Kumo costs, measured in one command, and the table in docs/performance.md.

Owns the order of the parts, the Python that each needs, the printing and the writing; measures nothing itself. Standard
library alone, for any Python starts it. Next rooms: `part.py`, and a module for each part.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .figures import Figure, build_part, build_text, replace_part
from .machine import IDLE_PERCENT, describe_machine, read_busy_percent, read_load, read_revision

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "performance.md"
PART_S, TIDY_S = 3600, 180


@dataclass(frozen=True)
class Part:
    """``pythons``: the first that exists starts it. ``cloud``: against the cloud of ./stack.sh, as root."""

    name: str
    about: str
    pythons: tuple[str, ...]
    cloud: bool


ANY = (sys.executable,)
CLIENT = ("/opt/kumo/client-venv/bin/python",)
ROWS = ("/opt/kumo/venv/bin/python", str(ROOT / ".venv/bin/python"))
PARTS = (
    Part("install", "stack.sh's own time (read from its log) and what it put on the disk", ANY, True),
    Part("rest", "the cloud's processes, memory and CPU while nobody asks for anything", ANY, True),
    Part("runs", "a run that finds nothing to do: warm, cold, and without Ansible", ANY, True),
    Part("servers", "servers made and deleted, beside virsh create by hand; ten at once", CLIENT, True),
    Part("network", "a security group's rule, a floating address, to the first answered ping", CLIENT, True),
    Part("volumes", "volumes made and attached, beside the same by hand", CLIENT, True),
    Part("api_cpu", "CPU of single requests and of a token's check; statements of long lists", ROWS, False),
    Part("rates", "requests a second and p99 through gunicorn and sockets; tokens beside the hash", ROWS, False),
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    named = "\n".join(f"  {part.name:<9} {part.about}" for part in PARTS)
    parser = argparse.ArgumentParser(
        prog="bench/run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Measures what Kumo costs on this machine, prints it, and writes docs/performance.md's table.\n\n"
        f"parts, all measured by default, in this order:\n{named}\n\n"
        "api_cpu and rates serve rows of their own and want no cloud; the others want root and the cloud of\n"
        "./stack.sh with its first server, and leave nothing behind in it. The Python that a part needs is found.\n"
        "Progress goes to standard error. About 15 minutes with 5 rounds.",
        epilog="Not part of it: bench/volumes_lab.py, which wants a lab of molecule/hosts.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="measure these alone, and write nothing")
    parser.add_argument("--rounds", type=int, default=5, help="how often each step is measured (default: 5)")
    parser.add_argument("--no-write", action="store_true", help="only print")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="what has the table (default: %(default)s)")
    parser.add_argument(
        "--anyway", action="store_true", help="measure though the machine is not idle; the table then says so"
    )
    parser.add_argument(
        "--install", action="store_true",
        help="first take this machine's cloud away, WITH ALL THAT IS IN IT, and install it anew, timed",
    )  # fmt: skip
    parser.add_argument("--scale", action="store_true", help="afterwards print bench/scale.py's figures, too")
    return parser


def say(text: str) -> None:
    """One line of progress."""
    print(f"bench/run: {text}", file=sys.stderr, flush=True)


def find_python(part: Part) -> str:
    """The Python for a part; FileNotFoundError with a sentence where there is none."""
    for path in part.pythons:
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(f"{part.name} wants {' or '.join(part.pythons)}: ./stack.sh makes them")


def run_part(part: Part, rounds: int, words: tuple[str, ...] = ()) -> list[Figure]:
    """Its figures; RuntimeError with a sentence where it did not end well."""
    if part.cloud and os.geteuid():
        raise RuntimeError("it wants root")
    command = [find_python(part), "-m", "bench.part", part.name, "--rounds", str(rounds), *words]
    # What the caller's shell holds must not decide which cloud or which packages are measured.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "PYTHON", "ANSIBLE_"))}
    # A process group of its own: of an interrupt at the terminal it hears once, from here, and takes away what it made.
    process = subprocess.Popen(
        command, cwd=ROOT, env=kept, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, process_group=0
    )
    try:
        printed, _ = process.communicate(timeout=PART_S)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        say(f"{part.name} is ended, and takes away what it has made")
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=TIDY_S)
        finally:
            process.kill()
        raise
    if process.returncode:
        raise RuntimeError(f"it ended with status {process.returncode}; its reason is above")
    return [Figure(**fields) for fields in json.loads(printed)]


def measure_parts(parts: list[Part], rounds: int, anew: bool) -> tuple[list[Figure], list[str]]:
    """All figures, and the names of the parts that could not be measured."""
    figures, failed = [], []
    for part in parts:
        say(f"{part.name}: {part.about}")
        began = time.monotonic()
        try:
            figures += run_part(part, rounds, ("--anew",) if anew and part.name == "install" else ())
        except (OSError, RuntimeError, ValueError, TypeError, subprocess.TimeoutExpired) as error:
            say(f"{part.name} could not be measured: {error}")
            failed.append(part.name)
        else:
            say(f"{part.name}: done in {time.monotonic() - began:.0f} s")
    return figures, failed


def build_sentence(rounds: int, busy: float, loads: tuple[str, str]) -> str:
    """How, when and on what the figures were measured."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    sentence = (
        f"Measured on {today} by `bench/run --rounds {rounds}` at revision {read_revision()}, medians, on one machine: "
        f"{describe_machine()}. Load averages {loads[0]} at the start and {loads[1]} at the end; at the start "
        f"{busy:.0f} % of one core were busy."
    )
    if busy > IDLE_PERCENT:
        sentence += " **The machine was not idle: others' work is in these figures.**"
    return sentence


def choose_parts(names: list[str], anew: bool) -> list[Part]:
    """The parts of these names, all where there are none; SystemExit for an unknown one."""
    known = [part.name for part in PARTS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"bench/run: there is no part {unknown[0]!r}; there are {', '.join(known)}")
    if anew and names and "install" not in names:
        raise SystemExit("bench/run: --install without the part install")
    return [part for part in PARTS if not names or part.name in names]


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write; 0 where all parts were measured, met or not."""
    args = build_parser().parse_args(argv)
    if args.rounds < 1:
        raise SystemExit("bench/run: --rounds wants 1 at least")
    parts = choose_parts(args.parts, args.install)
    load, busy = read_load(), read_busy_percent()
    if busy > IDLE_PERCENT:
        say(f"this machine is not idle: {busy:.0f} % of one core are busy, load averages {load}")
        if not args.anyway:
            say(f"nothing is measured above {IDLE_PERCENT:.0f} %; --anyway measures, and the table says so")
            return 1
    try:
        figures, failed = measure_parts(parts, args.rounds, args.install)
    except KeyboardInterrupt:
        return 130
    sentence = build_sentence(args.rounds, busy, (load, read_load()))
    print(f"{sentence}\n\n{build_text(figures)}", flush=True)
    if args.scale:
        python = next((path for path in ROWS if os.access(path, os.X_OK)), sys.executable)
        subprocess.run([python, str(ROOT / "bench/scale.py")], check=False, timeout=PART_S)
    if failed or args.parts or args.no_write:
        reason = f"not measured: {', '.join(failed)}" if failed else "only a part was asked for, or --no-write"
        say(f"nothing is written ({reason})")
        return 1 if failed else 0
    args.document.write_text(replace_part(args.document.read_text(), build_part(figures, sentence)))
    say(f"written: {args.document}")
    return 0
