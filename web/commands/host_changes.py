"""`kumo host add|enable|disable|prepare`: hosts made known, taken out of the choice, brought up.

Writes the rows of hosts and nothing on a host; what prepares one is playbooks/prepare_host.yml, run with the
operator's own credentials. Next room: `hosts.py`, which shows what was seen.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import yaml
from sqlalchemy import select

from ..desired.build import build_settings
from ..desired.document import SETTINGS
from ..desired.rows import Rows
from ..dispatch import announce_due
from ..models import Database, Host, touch
from ..reconcile.run import find_playbook_executable

ROLES = {"hypervisor": "hypervisors", "storage": "storage"}
INTERPRETER = "/usr/bin/python3"


def fail(sentence: str) -> int:
    """Say what is wrong and what to do next; the exit status."""
    print(f"kumo: {sentence}", file=sys.stderr)
    return 1


def build_connection(settings, address: str | None, user: str) -> dict:
    """How Ansible reaches a host; without an address it is this machine."""
    if address is None:
        return {"ansible_connection": "local", "ansible_python_interpreter": INTERPRETER}
    return {
        "ansible_host": address,
        "ansible_user": user,
        "ansible_ssh_private_key_file": f"{settings.worker.ssh_dir}/id_ed25519",
        "ansible_python_interpreter": INTERPRETER,
    }


def parse_settings(text: str, where: str) -> dict:
    """A host's own settings of its document; ValueError names the field that is wrong."""
    try:
        found = yaml.safe_load(text)
        found = {} if found is None else found
        jsonschema.validate(found, SETTINGS)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML: {str(error).splitlines()[0]}") from None
    except jsonschema.ValidationError as error:
        field = ".".join(str(part) for part in error.absolute_path) or "settings"
        raise ValueError(f"{where}: {field}: {error.message}; docs/host-document.md lists `settings.*`") from None
    return found


def plan_host(current: dict, wanted: dict) -> dict:
    """{column: value} of what differs from what is wanted; None in ``wanted`` leaves a column as it is."""
    return {name: value for name, value in wanted.items() if value is not None and current.get(name) != value}


def add_host(args, settings) -> int:
    """Make a host known, or bring a known one to what is said."""
    if (args.address is None) == (not args.local):
        return fail("say where the host is: --address ADDRESS, or --local for this machine")
    own = None
    try:
        if args.settings:
            own = parse_settings(Path(args.settings).read_text(encoding="utf-8"), args.settings)
    except ValueError as error:
        return fail(str(error))
    wanted = {
        "roles": sorted(set(args.role)),
        "zone": args.zone,
        "connection": build_connection(settings, args.address, args.user),
        "settings": own,
    }
    with Database(settings.database.url).write.begin() as session:
        host = session.scalar(select(Host).where(Host.name == args.host))
        if host is None:
            made = {"zone": settings.compute.availability_zone, "settings": {}}
            made.update({name: value for name, value in wanted.items() if value is not None})
            session.add(Host(name=args.host, **made))
            print(f"made host {args.host}; next: kumo host prepare {args.host}")
            return 0
        changes = plan_host({name: getattr(host, name) for name in wanted}, wanted)
        tunnel = (host.settings or {}).get("tunnel_address")
        for name, value in changes.items():
            setattr(host, name, value)
        if changes:
            moved = tunnel != (host.settings or {}).get("tunnel_address")  # the others send there
            for host_id in session.scalars(select(Host.id).order_by(Host.id)).all() if moved else [host.id]:
                touch(session, host_id)
        print(f"changed {', '.join(changes)} of host {args.host}" if changes else f"host {args.host} is unchanged")
    return 0


def _change(args, settings, wanted: dict, done: str) -> int:
    with Database(settings.database.url).write.begin() as session:
        host = session.scalar(select(Host).where(Host.name == args.host))
        if host is None:
            known = ", ".join(session.scalars(select(Host.name).order_by(Host.name))) or "none"
            return fail(f"no host {args.host!r}; known: {known}; `kumo host add` makes one known")
        same = all(getattr(host, name) == value for name, value in wanted.items())
        for name, value in wanted.items():
            setattr(host, name, value)
    print(f"host {args.host} is {done}{' already' if same else ''}")
    return 0


def enable_host(args, settings) -> int:
    """New guests and volumes may be placed on it again."""
    return _change(args, settings, {"enabled": True, "disabled_reason": None}, "enabled")


def disable_host(args, settings) -> int:
    """Nothing new is placed on it; what is there stays and runs."""
    return _change(args, settings, {"enabled": False, "disabled_reason": args.reason}, "disabled")


def build_inventory(name: str, roles: list, connection: dict, own: dict, user: str | None) -> dict:
    """An inventory for playbooks/prepare_host.yml: one host as the operator reaches it, and this machine."""
    if connection.get("ansible_connection") == "local":
        reached = {"ansible_connection": "local"}
        controller = name
    else:
        reached = {"ansible_host": connection["ansible_host"], **({"ansible_user": user} if user else {})}
        controller = "this-controller"
    reached.update(
        ansible_python_interpreter=INTERPRETER, kumo_settings=own, kumo_address=connection.get("ansible_host", name)
    )
    here = {"ansible_connection": "local", "ansible_python_interpreter": INTERPRETER}
    groups = {ROLES[role]: {"hosts": {name: {}}} for role in roles if role in ROLES}
    return {
        "all": {
            "hosts": {name: reached},
            "children": {**groups, "controllers": {"hosts": {controller: {} if controller == name else here}}},
        }
    }


def prepare_host(args, settings) -> int:
    """Packages, services, the account and the root helper, by Ansible with the operator's own credentials."""
    with Database(settings.database.url).read() as session:
        host = session.scalar(select(Host).where(Host.name == args.host))
        if host is None:
            return fail(f"no host {args.host!r}; `kumo host add {args.host} --role … --address …` makes it known")
        # With the cloud's part of them: the root helper's allow-list is made of these.
        own = build_settings(Rows(host), settings)
        inventory = build_inventory(host.name, host.roles, host.connection, own, args.user)
        places = {"image": {"store_dir": settings.image.store_dir}, "api": {"hosts_url": settings.api.hosts_url}}
        inventory["all"]["children"]["controllers"]["vars"] = {"controller_settings": places}
        # Guests may move to and from every hypervisor that is known by now.
        addresses = [(one.settings or {}).get("tunnel_address") for one in session.scalars(select(Host))]
        inventory["all"]["vars"] = {"host_base_peers": sorted({address for address in addresses if address})}
    ansible = Path(settings.worker.ansible_dir)
    with tempfile.TemporaryDirectory(prefix="kumo-prepare-") as folder:
        hosts = Path(folder, "hosts.yml")
        hosts.write_text(yaml.safe_dump(inventory), encoding="utf-8")
        command = [
            find_playbook_executable(settings), "-i", str(hosts), "--limit", args.host,
            *(["--ask-become-pass"] if args.ask_become_pass else []), *(["--check", "--diff"] if args.check else []),
            str(ansible / "playbooks" / "prepare_host.yml"),
        ]  # fmt: skip
        print(f"preparing {args.host} as {args.user or getpass.getuser()}: {' '.join(command)}", flush=True)
        # The operator's own environment: his ssh agent and configuration are how he reaches the host.
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ansible / "ansible.cfg")}
        status = subprocess.run(command, env=environment, cwd=ansible, check=False).returncode
    if status:
        return fail(f"host {args.host} is not prepared (what failed is above); mend it and run this again")
    if not args.check:
        database = Database(settings.database.url)
        with database.write.begin() as session:
            touch(session, session.scalar(select(Host.id).where(Host.name == args.host)))
        announce_due(settings, database)
    print(f"host {args.host} is prepared; the worker brings it to its document within a minute (`kumo host list`)")
    return 0
