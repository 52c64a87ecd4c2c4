"""One part of a measurement, in a process with the Python that it needs: `python -m bench.part NAME --rounds N`.

Prints its figures as JSON on standard output, a line of progress for each step on standard error. A part is the module
of its name, with a function ``measure(rounds)``; `command.py` starts it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict

INTERRUPTED = 130  # as a shell says it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--anew", action="store_true", help="of the part install: take the cloud away and make it")
    args = parser.parse_args()
    part = importlib.import_module(f"bench.{args.name}")
    try:
        figures = part.measure(args.rounds, anew=True) if args.anew else part.measure(args.rounds)
    except KeyboardInterrupt:
        return INTERRUPTED
    json.dump([asdict(figure) for figure in figures], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
