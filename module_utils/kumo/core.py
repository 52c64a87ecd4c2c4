"""One call on a host: read what is, plan, apply, read again; per-object results.

A section is a module with ``SECTION`` and read_, plan_, apply_ and report_ functions named after it
(docs/foundation.md, "The seam of a section"). This file knows no section's inside and imports no
library that touches a host. Next room: the section files beside it; ``module.py`` for Ansible's side.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from . import deadlines, files
from .errors import KumoError

DOCUMENT_VERSION = 1
STATE_DIR = "/var/lib/kumo/host"
SECTIONS = (
    "images", "volumes", "exports", "networks", "routers", "neighbours", "dhcp", "firewall", "metadata", "servers",
)  # fmt: skip
LISTS = ("images", "networks", "routers", "security_groups", "ports", "volumes", "snapshots", "servers")
# What only a host with guests has; one that keeps volumes alone needs neither libvirt nor networks.
HYPERVISOR_SECTIONS = ("networks", "routers", "neighbours", "dhcp", "firewall", "metadata", "servers")
PARALLEL_GROUPS = 8
# No object may hold a call for longer, whatever hangs: libvirt's own limits end at about 30 s.
GROUP_DEADLINE_S = 60

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Action:
    """One change to one object: ``args`` is all that apply needs; ``before`` and ``after`` are for people.

    ``requires`` lists (section, object id) pairs; where one of them has failed in this run, this
    action is not tried and its object's error names that one.
    """

    section: str
    object_id: str
    verb: str
    args: dict = field(default_factory=dict)
    before: str = ""
    after: str = ""
    requires: tuple = ()

    def summary(self) -> dict:
        """The action as the run's record keeps it (no arguments: they may hold what is private)."""
        sentence = f"{self.verb.replace('_', ' ')}: {self.section} {self.object_id}"
        return {"section": self.section, "object_id": self.object_id, "verb": self.verb, "summary": sentence}


def parse_document(document: dict) -> dict:
    """The document with every optional part present; KumoError names what is wrong and where.

    Ids must be UUIDs (they become file, interface and chain names), each once in its list.
    """
    if not isinstance(document, dict):
        raise KumoError("the document is not a mapping; see docs/host-document.md")
    if document.get("version") != DOCUMENT_VERSION:
        raise KumoError(f"document.version is {document.get('version')!r}; this host understands {DOCUMENT_VERSION}")
    parsed = {"host": "", "generation": 0, "fence": 0, **document}
    for name in ("generation", "fence"):
        if not isinstance(parsed[name], int) or isinstance(parsed[name], bool) or parsed[name] < 0:
            raise KumoError(f"document.{name} is {parsed[name]!r}; it must be a number from 0")
    parsed["settings"] = _parse_settings(document.get("settings"))
    for name in LISTS:
        rows = [] if document.get(name) is None else document[name]
        if not isinstance(rows, list):
            raise KumoError(f"document.{name} is not a list")
        seen = set()
        for index, row in enumerate(rows):
            if not isinstance(row, dict) or not row.get("id"):
                raise KumoError(f"document.{name}[{index}] has no id")
            if not isinstance(row["id"], str) or not UUID.fullmatch(row["id"]):
                raise KumoError(f"document.{name}[{index}].id is {row['id']!r}; it must be a lower-case UUID")
            if row["id"] in seen:
                raise KumoError(f"document.{name}[{index}].id {row['id']} is there twice")
            seen.add(row["id"])
        parsed[name] = rows
    return parsed


def _parse_settings(given: dict | None) -> dict:
    if given is not None and not isinstance(given, dict):
        raise KumoError("document.settings is not a mapping")
    settings = {
        "state_dir": STATE_DIR,
        "virt_type": "auto",
        "stop_timeout_s": 60,
        "dns_domain": "kumo.internal",
        "dns_servers": [],
        "physical_networks": {},
        "hypervisor": True,
        **(given or {}),
    }
    if settings["virt_type"] not in ("auto", "kvm", "qemu"):
        raise KumoError(f"document.settings.virt_type is {settings['virt_type']!r}; it must be auto, kvm or qemu")
    directory = settings["state_dir"]
    if not isinstance(directory, str) or not Path(directory).is_absolute() or ".." in Path(directory).parts:
        raise KumoError(f"document.settings.state_dir is {directory!r}; it must be an absolute path")
    seconds = settings["stop_timeout_s"]
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise KumoError(f"document.settings.stop_timeout_s is {seconds!r}; it must be a number of seconds")
    return settings


def state_path(document: dict, *parts: str) -> Path:
    """A path below the document's state directory."""
    return Path(document["settings"]["state_dir"], *parts)


def check_generation(document: dict) -> None:
    """Refuse a document older than the last one applied (a worker that lost its lease, a delayed run)."""
    seen = files.read_json(state_path(document, "generation.json"), {}) or {}
    for name in ("fence", "generation"):
        if document[name] < seen.get(name, 0):
            raise KumoError(f"stale document: its {name} is {document[name]}, this host has applied {seen[name]}")


def store_generation(document: dict) -> None:
    """Remember the document as the newest seen, before anything of it is applied."""
    path = state_path(document, "generation.json")
    newest = {name: document[name] for name in ("generation", "fence")}
    if files.read_json(path) != newest:
        files.apply_json(path, newest)


def run_sections(document: dict, sections=SECTIONS, check_mode: bool = False) -> dict:
    """Bring this host to ``document``, or with ``check_mode`` say what that would do.

    Returns the result that docs/foundation.md describes, with ``diff`` as Ansible shows it.
    Raises KumoError where the host as a whole cannot be worked on.
    """
    document = parse_document(document)
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown:
        raise KumoError(f"sections: {unknown[0]!r} is not one of {', '.join(SECTIONS)}")
    left_out = () if document["settings"]["hypervisor"] else HYPERVISOR_SECTIONS
    sections = [name for name in SECTIONS if name in sections and name not in left_out]
    if check_mode:
        return _run(document, sections, check_mode=True)
    with files.lock(state_path(document, "lock")) as cut:
        if cut:
            files.sweep(state_path(document))
        check_generation(document)
        store_generation(document)
        return _run(document, sections, check_mode=False)


def _section(name: str):
    return importlib.import_module(f".{name}", __package__)


def _run(document: dict, sections: list[str], check_mode: bool) -> dict:
    actions: list[Action] = []
    failed: dict[tuple[str, str], str] = {}
    seen: dict[str, dict] = {}
    for name in sections:
        module = _section(name)
        seen[name] = getattr(module, f"read_{name}")(document)
        planned = getattr(module, f"plan_{name}")(document, seen[name])
        if check_mode:
            actions += planned
        elif planned:
            done, errors = _apply(module, document, planned, failed)
            actions += done
            failed.update(errors)
    if not check_mode and (actions or failed):  # where nothing was done, what was read is still so
        seen = {name: getattr(_section(name), f"read_{name}")(document) for name in sections}
    observed = _report(document, seen)
    return {
        "changed": bool(actions),
        "actions": [action.summary() for action in actions],
        "diff": [
            {"before": a.before, "after": a.after, "before_header": header, "after_header": header}
            for a in actions
            for header in [f"{a.section} {a.object_id} {a.verb}"]
        ],
        "objects": {name: _results(document, name, failed) for name in sections},
        "pending": bool(observed.pop("pending", False)),
        "observed": observed,
    }


def _apply(module, document: dict, planned: list[Action], failed: dict) -> tuple[list[Action], dict]:
    """Apply one section's actions: those done, and {(section, object id): sentence} of the failures."""
    apply = getattr(module, f"apply_{module.SECTION}")
    groups: dict[str, list[Action]] = {}
    for action in planned:
        groups.setdefault(action.object_id, []).append(action)
    known = dict(failed)  # and what fails here, for those of this section that come after it

    def work(group: list[Action]) -> tuple[list[Action], str | None]:
        outcome = _apply_group(apply, document, group, known)
        if outcome[1] is not None:
            known[(module.SECTION, group[0].object_id)] = outcome[1]
        return outcome

    works = [lambda group=group: work(group) for group in groups.values()]
    width = PARALLEL_GROUPS if getattr(module, "PARALLEL", False) else 1
    done: list[Action] = []
    errors: dict[tuple[str, str], str] = {}
    for object_id, outcome in zip(groups, deadlines.run_side_by_side(works, width, GROUP_DEADLINE_S), strict=True):
        if outcome is None:
            errors[(module.SECTION, object_id)] = f"did not finish within {GROUP_DEADLINE_S} s"
            continue
        done += outcome[0]
        if outcome[1] is not None:
            errors[(module.SECTION, object_id)] = outcome[1]
    return done, errors


def _apply_group(apply, document: dict, actions: list[Action], failed: dict) -> tuple[list[Action], str | None]:
    """Apply one object's actions in order: those done, and the sentence of the first failure."""
    done = []
    for action in actions:
        for needed in action.requires:
            if needed in failed:
                return done, f"{action.verb} waits for {needed[0]} {needed[1]}, which failed: {failed[needed]}"
        try:
            apply(document, action)
        except KumoError as error:
            return done, str(error)
        except Exception as error:  # one object's fault, whatever it is, never stops another's
            return done, f"{action.verb}: {type(error).__name__}: {error}"
        done.append(action)
    return done, None


def _results(document: dict, name: str, failed: dict) -> dict:
    """{object id: {ok, error}} of one section: every row of the document, and whatever else has failed."""
    lists = ("volumes", "snapshots") if name == "volumes" else (name,)
    known = {row["id"] for one in lists if one in LISTS for row in document[one]}
    known |= {object_id for section, object_id in failed if section == name}
    return {
        object_id: {"ok": (name, object_id) not in failed, "error": failed.get((name, object_id))}
        for object_id in sorted(known)
    }


def _report(document: dict, seen: dict[str, dict]) -> dict:
    """What the API stores: each section's report, merged (``pending`` is true where any section's is)."""
    merged: dict = {"generation": document["generation"], "pending": False}
    for name, observed in seen.items():
        report = dict(getattr(_section(name), f"report_{name}")(document, observed))
        pending = bool(report.pop("pending", False))  # out of it whatever the others say: one that waits is enough
        merged["pending"] = merged["pending"] or pending
        for key, value in report.items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = {**merged[key], **value}
            elif isinstance(value, list) and isinstance(merged.get(key), list):
                merged[key] = merged[key] + value
            else:
                merged[key] = value
    return merged
