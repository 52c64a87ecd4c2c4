"""What tempest wrote (subunit) as text: run, passed, failed and skipped, with the reason of each.

    report.py RESULTS.subunit        exit status 1 where something failed or nothing ran

Runs with tempest's own venv. Also writes RESULTS.json: {test: {status, seconds, reason}}.
"""

from __future__ import annotations

import collections
import json
import re
import sys
from pathlib import Path

import subunit
import testtools

WIDEST = 400
NAMES = {"success": "passed", "fail": "failed", "skip": "skipped", "xfail": "passed", "uxsuccess": "failed"}


def read_results(path: Path) -> dict[str, dict]:
    """{test's name: {status: passed|failed|skipped, seconds, reason}}."""
    found: dict[str, dict] = {}

    def take(test: dict) -> None:
        begun, ended = test["timestamps"]
        seconds = (ended - begun).total_seconds() if begun and ended else 0.0
        details = test["details"]
        text = details["reason"] if "reason" in details else details.get("traceback")
        reason = text.as_text().strip() if text else ""
        name = re.sub(r"\[id-[^\]]*\]", "", test["id"])  # the scenario's name, (raw), stays
        found[name] = {"status": NAMES.get(test["status"], "failed"), "seconds": round(seconds, 2), "reason": reason}

    result = testtools.StreamToDict(take)
    result.startTestRun()
    with path.open("rb") as stream:
        subunit.ByteStreamToStreamResult(stream, non_subunit_name="stdout").run(result)
    result.stopTestRun()
    return {name: one for name, one in sorted(found.items()) if name != "stdout"}


def find_place(traceback: str) -> str:
    """The line of the test itself in a traceback: ``file.py:12``."""
    found = re.findall(r'File ".*/tempest/(?:api|scenario)/(\S+)", line (\d+)', traceback)
    return ":".join(found[-1]) if found else "?"


def find_words(traceback: str) -> str:
    """What a traceback ends with, from its exception on, on one line."""
    lines = traceback.rstrip().splitlines()
    begin = max((number for number, line in enumerate(lines) if line.lstrip().startswith("File ")), default=-1)
    words = [line.strip() for line in lines[begin + 1 :] if line.strip(" ^~")]
    return " ".join(words[1:] or words)[:WIDEST]


def main() -> int:
    path = Path(sys.argv[1])
    results = read_results(path)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1))
    counts = collections.Counter(one["status"] for one in results.values())
    skipped = collections.Counter(one["reason"] for one in results.values() if one["status"] == "skipped")
    for reason, number in skipped.most_common():
        print(f"skipped {number:3}: {reason}")
    for name, one in results.items():
        if one["status"] == "failed":
            print(f"FAILED {name} ({find_place(one['reason'])}): {find_words(one['reason'])}")
    print(f"{len(results)} run, {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
