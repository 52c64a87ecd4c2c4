"""`kumo`: the operators' command. Users speak to the API with `openstack`.

Each command is a function that returns an exit status; `commands/` holds what is longer than a line.
"""

from __future__ import annotations

import argparse
import configparser
import logging
import sys

from . import __version__
from .settings import DEFAULT_PATH, SettingsError, build_sample, load_settings


def serve(args, settings) -> int:
    from .serve import serve as run

    return run(settings, args.services.split(",") if args.services else None, args.config)


def worker(args, settings) -> int:
    from .reconcile.loop import Worker

    Worker(settings).serve()
    return 0


def console(args, settings) -> int:
    from .console.server import serve as run

    return run(settings)


def db_upgrade(args, settings) -> int:
    from .migrations import upgrade

    upgrade(settings.database.url)
    return 0


def bootstrap(args, settings) -> int:
    from .bootstrap import apply_bootstrap
    from .models import Database

    parser = configparser.RawConfigParser()
    if not parser.read(args.passwords_file) or not parser.has_section("passwords"):
        print(f"{args.passwords_file}: no [passwords] section with admin = … and demo = …", file=sys.stderr)
        return 2
    passwords = dict(parser.items("passwords"))
    for name in ("admin", "demo"):
        if not passwords.get(name):
            print(f"{args.passwords_file}: [passwords] {name} is missing", file=sys.stderr)
            return 2
    with Database(settings.database.url).write.begin() as session:
        done = apply_bootstrap(session, settings, passwords, hypervisor=not args.no_hypervisor)
    for line in done:
        print(f"made {line}")
    return 0


def config_check(args, settings) -> int:
    from .commands.checks import check_settings

    problems = check_settings(settings)
    for line in problems:
        print(line, file=sys.stderr)
    print("the configuration is good" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


def config_show(args, settings) -> int:
    print(build_sample())
    return 0


def document_schema(args, settings) -> int:
    from .desired.document import build_reference

    print(build_reference(), end="")
    return 0


def _later(module: str, name: str):
    def command(args, settings) -> int:
        import importlib

        return getattr(importlib.import_module(f".commands.{module}", __package__), name)(args, settings)

    return command


def _add_drain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host")
    parser.add_argument("--plan", action="store_true", help="say which guest goes where; change nothing")
    parser.add_argument("--wait", action="store_true", help="until no guest that can go is left, with a progress bar")
    parser.add_argument(
        "--parallel", type=int, default=0, metavar="N", help="at most N guests at a time (default: all)"
    )
    parser.add_argument("--timeout", type=int, default=3600, metavar="S", help="seconds to wait (default: %(default)s)")


def build_parser() -> argparse.ArgumentParser:
    """Every command with its help."""
    parser = argparse.ArgumentParser(prog="kumo", description=__doc__.splitlines()[0])
    parser.add_argument("--config", metavar="FILE", help=f"settings; by default $KUMO_CONFIG or {DEFAULT_PATH}")
    parser.add_argument("--version", action="version", version=f"kumo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(where, name: str, function, text: str):
        one = where.add_parser(name, help=text, description=text)
        one.set_defaults(function=function)
        return one

    def group(name: str, text: str):
        return commands.add_parser(name, help=text, description=text).add_subparsers(metavar="ACTION", required=True)

    one = add(commands, "serve", serve, "Serve the API in the foreground.")
    one.add_argument("--services", metavar="A,B", help="only these: identity, compute, volume, network, image, admin")
    add(commands, "worker", worker, "Bring hosts to what the API recorded, until ended.")
    add(commands, "console", console, "Serve guests' consoles to browsers (noVNC) and WebSocket clients, until ended.")
    add(commands, "status", _later("checks", "status"), "Whether API, database, worker and hosts are alive.")
    one = add(commands, "bootstrap", bootstrap, "Make the first projects, users, roles, flavors, network and host.")
    one.add_argument("--passwords-file", required=True, metavar="FILE", help="INI: [passwords] admin = …, demo = …")
    one.add_argument("--no-hypervisor", action="store_true", help="this machine runs no guests")
    database = group("db", "The database.")
    add(database, "upgrade", db_upgrade, "Bring the database to this version's tables.")
    settings = group("config", "The settings.")
    add(settings, "check", config_check, "Check kumo.conf, and that what it names can be used.")
    add(settings, "show", config_show, "A kumo.conf with every option, its default and what it is for.")
    add(commands, "document-schema", document_schema, "The host document's fields, as docs/host-document.md has them.")
    one = add(
        commands, "show-document", _later("hosts", "show_document"), "A host's document, as ansible-playbook takes it."
    )
    one.add_argument("host")
    one = add(
        commands,
        "plan",
        _later("hosts", "plan"),
        "What the next run would change on a host, with its diff; changes nothing.",
    )
    one.add_argument("host")
    one = add(
        commands,
        "drift",
        _later("drift", "show_drift"),
        "What on hosts differs from what was asked, by Ansible's check mode; changes nothing (the worker repairs it by "
        "itself). Exit status: 0 nothing differs, 3 something does, 1 a host could not be looked at.",
    )
    one.add_argument("hosts", nargs="*", metavar="HOST", help="by default all that are not fenced")
    one.add_argument("--diff", action="store_true", help="with the differences themselves")
    one.add_argument("--json", action="store_true", help="for other programs: [{name, actions, diff, error}]")
    one = add(
        commands,
        "verify",
        _later("verification", "verify"),
        "Rows, files and hosts against each other: orphans both ways, leases and runs of workers that are gone, what "
        "differs. Changes nothing. Exit status 3 where something is wrong.",
    )
    one.add_argument("hosts", nargs="*", metavar="HOST", help="by default all that are not fenced")
    one.add_argument("--images", action="store_true", help="read every cached image whole: bytes that changed, too")
    one.add_argument("--json", action="store_true", help="for other programs")
    one = add(
        commands,
        "repair",
        _later("verification", "repair"),
        "What can be mended of what `kumo verify` finds: a plan, carried out with --apply. Deletes nothing.",
    )
    one.add_argument("hosts", nargs="*", metavar="HOST", help="by default all that are not fenced")
    one.add_argument("--images", action="store_true", help="read every cached image whole: bytes that changed, too")
    chosen = one.add_mutually_exclusive_group()
    chosen.add_argument("--plan", action="store_true", help="only say what would be done (as without any option)")
    chosen.add_argument("--apply", action="store_true", help="do it")
    hosts = group("host", "Hosts.")
    add(hosts, "list", _later("hosts", "list_hosts"), "All hosts, and whether they are as asked.")
    one = add(hosts, "show", _later("hosts", "show_host"), "What was last seen of a host: facts, tasks, orphans.")
    one.add_argument("host")
    one = add(
        hosts,
        "add",
        _later("host_changes", "add_host"),
        "Make a host known to the control plane, or change what is known. A second time changes nothing.",
    )
    one.add_argument("host", help="its name, as the API shows it")
    one.add_argument("--role", action="append", required=True, choices=["hypervisor", "storage"], help="repeatable")
    one.add_argument("--address", help="name or address that ssh reaches it at")
    one.add_argument("--local", action="store_true", help="it is this machine")
    one.add_argument("--user", default="kumo", help="the account on it (default: %(default)s, which prepare makes)")
    one.add_argument("--zone", help="its availability zone (default: [compute] availability_zone)")
    one.add_argument("--settings", metavar="FILE.yml", help="its own `settings` of the host document, as YAML")
    one = add(
        hosts,
        "prepare",
        _later("host_changes", "prepare_host"),
        "Install what a host needs (packages, services, the account kumo, its root helper), by "
        "playbooks/prepare_host.yml with your own account on the host. Guests are not touched.",
    )
    one.add_argument("host")
    one.add_argument("--user", help="your account on the host, which may become root (default: as ssh chooses)")
    one.add_argument("--ask-become-pass", action="store_true", help="ask for the password sudo wants there")
    one.add_argument("--check", action="store_true", help="say what would change, and change nothing")
    one = add(hosts, "enable", _later("host_changes", "enable_host"), "Place new guests and volumes on a host again.")
    one.add_argument("host")
    one = add(
        hosts,
        "disable",
        _later("host_changes", "disable_host"),
        "Place nothing new on a host; what is on it stays and runs.",
    )
    one.add_argument("host")
    one.add_argument("--reason", required=True, help="why, for whoever looks later")
    one = add(
        hosts,
        "drain",
        _later("drains", "drain_host"),
        "Empty a host: nothing new is placed on it, running guests are live-migrated, stopped ones are moved. No guest "
        "is stopped. Asked again, it goes on where it was.",
    )
    _add_drain_options(one)
    one = add(
        hosts,
        "fence",
        _later("drains", "fence_host"),
        "Say that a host is off (you made sure of it): its guests may be evacuated. Nothing is done to the host.",
    )
    one.add_argument("host")
    one.add_argument("--it-is-off", action="store_true", help="yes: power is cut, and nothing on it runs")
    one = add(hosts, "unfence", _later("drains", "unfence_host"), "Say that a host that was fenced may be used again.")
    one.add_argument("host")
    one = add(
        hosts,
        "evacuate",
        _later("drains", "evacuate_host"),
        "Make the guests of a fenced host anew on others: of their images (what they wrote to a local disk is lost) or "
        "with their volumes.",
    )
    _add_drain_options(one)
    one = add(
        hosts,
        "images",
        _later("host_images", "change_images"),
        "A host's image cache, and what is wanted in it: kept ones are there before a guest needs them.",
    )
    one.add_argument("host")
    one.add_argument("--keep", action="append", default=[], metavar="IMAGE", help="have it there, always; repeatable")
    one.add_argument("--release", action="append", default=[], metavar="IMAGE", help="only while guests need it")
    one.add_argument("--fetch", action="append", default=[], metavar="IMAGE", help="fetch it again")
    one.add_argument("--json", action="store_true", help="for other programs")
    runs = group("run", "Runs: plays against hosts.")
    one = add(runs, "list", _later("runs", "list_runs"), "The newest runs.")
    one.add_argument("--host", help="only of this host")
    one.add_argument("--limit", type=int, default=20)
    one = add(runs, "show", _later("runs", "show_run"), "A run: its requests, tasks and per-object results.")
    one.add_argument("run", help="a run's id or how it begins")
    one = add(
        runs,
        "cancel",
        _later("runs", "cancel_run"),
        "End a run that is under way, with what it started on its host. The host is due again ten seconds later: a run "
        "is no wish, what was asked for stays asked for.",
    )
    one.add_argument("run", help="a run's id or how it begins")
    one.add_argument("--wait", type=int, default=60, metavar="SECONDS", help="for its end (default: %(default)s)")
    logs = group("logs", "What went wrong, and what a request led to.")
    one = add(
        logs, "errors", _later("runs", "list_errors"), "Failed requests, runs, objects and servers, newest first."
    )
    one.add_argument("--limit", type=int, default=20)
    one = add(
        logs,
        "request",
        _later("runs", "show_request"),
        "From a request id to what it asked, its runs and their results.",
    )
    one.add_argument("request_id")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The entry point; 2 where the command's words or settings are wrong."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = load_settings(args.config)
        if settings.kumo.debug:
            logging.getLogger("kumo").setLevel(logging.DEBUG)
        return args.function(args, settings)
    except (SettingsError, FileNotFoundError, PermissionError) as error:
        print(f"kumo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
