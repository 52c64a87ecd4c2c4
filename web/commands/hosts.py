"""`kumo host list|show`, `show-document`, `plan`: what hosts are to be, and what they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml
from sqlalchemy import select

from ..desired import build_document, read_rows
from ..models import Database, Host
from ..reconcile.run import build_document_text, build_environment, find_playbook_executable, run_folder
from .tables import show_table, show_time


def _read_host(settings, name: str) -> tuple[Host, dict] | None:
    with Database(settings.database.url).read() as session:
        host = session.scalar(select(Host).where(Host.name == name))
        if host is None:
            known = ", ".join(session.scalars(select(Host.name).order_by(Host.name))) or "none"
            print(f"kumo: no host {name!r}; known: {known}", file=sys.stderr)
            return None
        return host, build_document(read_rows(session, host), settings, host.fence)


def list_hosts(args, settings) -> int:
    with Database(settings.database.url).read() as session:
        rows = [
            (
                host.name,
                ",".join(host.roles),
                host.zone,
                "enabled" if host.enabled else "disabled",
                f"{host.observed_generation}/{host.generation}",
                show_time(host.observed_at),
                host.error,
            )
            for host in session.scalars(select(Host).order_by(Host.name))
        ]
    print(show_table(("HOST", "ROLES", "ZONE", "STATE", "SEEN/WANTED", "SEEN AT", "ERROR"), rows))
    return 0


def show_host(args, settings) -> int:
    """What was last seen of a host, as YAML: facts, tasks under way, orphans (Kumo's by name, in no document)."""
    found = _read_host(settings, args.host)
    if found is None:
        return 1
    host, _ = found
    seen = {
        "host": host.name,
        "roles": list(host.roles),
        "zone": host.zone,
        "enabled": host.enabled,
        "disabled_reason": host.disabled_reason,
        "connection": dict(host.connection),
        "settings": dict(host.settings or {}),
        "generation": host.generation,
        "observed_generation": host.observed_generation,
        "observed_at": show_time(host.observed_at),
        "error": host.error,
        **host.observed,
    }
    print(yaml.safe_dump(seen, sort_keys=False, allow_unicode=True), end="")
    return 0


def show_document(args, settings) -> int:
    found = _read_host(settings, args.host)
    if found is None:
        return 1
    print(build_document_text(found[1]), end="")
    return 0


def plan(args, settings) -> int:
    """The play in check mode with its diff, straight to the terminal."""
    found = _read_host(settings, args.host)
    if found is None:
        return 1
    host, document = found
    with run_folder(settings, host.name, dict(host.connection), document) as folder:
        command = [
            find_playbook_executable(settings), "--check", "--diff",
            "-i", str(folder / "inventory" / "hosts.yml"),
            str(Path(settings.worker.ansible_dir) / "playbooks" / "apply_host.yml"),
        ]  # fmt: skip
        environment = {"HOME": str(folder), "LANG": "C.UTF-8", **build_environment(settings)}
        if not sys.stdout.isatty():
            environment["ANSIBLE_NOCOLOR"] = "1"
        return subprocess.run(command, env=environment, cwd=folder, check=False).returncode
