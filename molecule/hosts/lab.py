#!/usr/bin/env python3
"""Makes the hosts of a molecule scenario on this machine, runs commands among them, and takes them away.

    lab.py create|destroy|status SCENARIO_DIR
    lab.py run SCENARIO_DIR COMMAND …      a command in the lab's network namespace (Ansible, ssh, clients, tests)
    lab.py tree                            only prepare the tree

SCENARIO_DIR/hosts.yml says which hosts (inventory.py). As root. KUMO_LAB=NAME gives a lab of one's own where several
people test on one machine. `run` makes the namespace where it is missing, so that molecule can be what creates the
hosts; the command finds KUMO_LAB_FOLDER (key, known_hosts), KUMO_LAB_NAMESPACE and Kumo's ANSIBLE_CONFIG in its
environment. Owns: the order of things. May not: know how a host is made. Next room: containers.py, machines.py.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hosts import commands, networks, tree  # noqa: E402
from hosts.inventory import Host, Lab, LabError, read_lab  # noqa: E402

PATIENCE_S = {"container": 60, "machine": 600}
# Under emulation a login takes seconds, and one that is given up in the midst of it delays the next.
CONNECT_S = {"container": 2, "machine": 60}


def find_kind(host: Host):
    """The module that makes hosts of this kind."""
    return importlib.import_module(f"hosts.{host.kind}s")


@contextmanager
def hold_lab(lab: Lab):
    """One create or destroy of a lab at a time."""
    with Path(f"/run/lock/kumo-lab-{lab.name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_ssh(lab: Lab, host: Host, user: str = "admin") -> list[str]:
    """The ssh command to a host, from the lab's namespace."""
    options = (
        "BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes",
        f"ConnectTimeout={CONNECT_S[host.kind]}",
        f"UserKnownHostsFile={lab.known_hosts}", "GlobalKnownHostsFile=/dev/null",
    )  # fmt: skip
    options = [word for option in options for word in ("-o", option)]
    return ["ssh", "-F", "/dev/null", "-i", str(lab.key), *options, f"{user}@{host.address}"]


def enter_namespace(lab: Lab) -> list[str]:
    """What comes before a command to have it run in the lab's namespace; mounts stay this machine's."""
    return ["nsenter", f"--net=/run/netns/{lab.namespace}", "--"]


def answers(lab: Lab, host: Host) -> bool:
    """Whether the operator's account can log in and systemd has finished booting."""
    ask = "systemctl is-system-running --wait"
    try:
        done = subprocess.run(
            [*enter_namespace(lab), *build_ssh(lab, host), ask],
            capture_output=True, text=True, timeout=30 + CONNECT_S[host.kind], check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return done.stdout.strip() in ("running", "degraded")


def wait_for(lab: Lab, host: Host) -> None:
    """Return as soon as a host answers; LabError with its console where it does not."""
    deadline = time.monotonic() + PATIENCE_S[host.kind]
    while not answers(lab, host):
        if not find_kind(host).is_up(host, lab):
            raise LabError(
                f"host {host.name} has ended while booting; its console:\n{find_kind(host).read_console(host, lab)}"
            )
        if time.monotonic() > deadline:
            raise LabError(
                f"host {host.name} does not answer within {PATIENCE_S[host.kind]} s; its console:\n"
                f"{find_kind(host).read_console(host, lab)}"
            )
        time.sleep(0.1)


def create_lab(lab: Lab) -> None:
    """Make all hosts, from nothing; hosts that were there are made anew."""
    started = time.monotonic()
    prepare_hosts(lab)
    destroy_hosts(lab)
    lab.folder.mkdir(mode=0o755, parents=True)
    commands.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"operator of {lab.name}", "-f", lab.key])
    networks.create_bridges(lab)
    keys = [f"{host.address} {find_kind(host).create(host, lab)}\n" for host in lab.hosts.values()]
    lab.known_hosts.write_text("".join(keys))
    for host in lab.hosts.values():
        wait_for(lab, host)
    tree.say(f"lab {lab.name}: {len(lab.hosts)} hosts answer after {time.monotonic() - started:.1f} s")


def list_hosts(lab: Lab) -> list[Host]:
    """The scenario's hosts, and those that an earlier hosts.yml of it has left on this machine."""
    known = dict(lab.hosts)
    if (lab.folder / "hosts").is_dir():
        for path in (lab.folder / "hosts").iterdir():
            kind = "machine" if (path / "machine").exists() else "container"
            known.setdefault(path.name, Host(path.name, kind, "", ()))
    for name in networks.list_namespaces():
        if name.startswith(f"{lab.namespace}."):
            host = name.removeprefix(f"{lab.namespace}.")
            known.setdefault(host, Host(host, "container", "", ()))
    return list(known.values())


def destroy_hosts(lab: Lab) -> None:
    """Remove all hosts and the lab's folder; the namespace stays, for the caller may be in it."""
    for host in list_hosts(lab):
        find_kind(host).destroy(host, lab)
    networks.destroy_bridges(lab)
    commands.run(["rm", "-rf", "--one-file-system", lab.folder])


def destroy_lab(lab: Lab) -> None:
    destroy_hosts(lab)
    tree.say(f"lab {lab.name}: nothing is left")


def show_lab(lab: Lab) -> int:
    """A line for each host; 0 if all answer."""
    up = {}
    for host in lab.hosts.values():
        up[host.name] = find_kind(host).is_up(host, lab) and answers(lab, host)
        print(f"{host.name:12} {host.kind:10} {host.address:16} {'answers' if up[host.name] else 'does not answer'}")
    return 0 if all(up.values()) else 1


def prepare_hosts(lab: Lab) -> None:
    """Build what the hosts are made from and the cache lacks: no package is in reach of the namespace."""
    for host in lab.hosts.values():
        find_kind(host).prepare(host)


def run_command(lab: Lab, command: list[str]) -> int:
    """A command in the lab's namespace; its exit status."""
    if not all(find_kind(host).is_up(host, lab) for host in lab.hosts.values()):
        prepare_hosts(lab)  # the command may be what creates the hosts
    networks.create_namespace(lab.namespace)
    environment = {
        **os.environ,
        "KUMO_LAB_FOLDER": str(lab.folder),
        "KUMO_LAB_NAMESPACE": lab.namespace,
        "KUMO_LAB_SCENARIO": str(lab.scenario),
        "ANSIBLE_CONFIG": str(tree.PROJECT / "ansible.cfg"),
        # Named after address and account alone: in the home directory, labs would use each other's connections.
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(lab.folder / "cp"),
    }
    try:
        return subprocess.run([*enter_namespace(lab), *command], env=environment, check=False).returncode
    finally:
        with hold_lab(lab):
            if not lab.folder.exists() and not commands.find_in_namespace(lab.namespace):
                networks.destroy_bridges(lab)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("create", "destroy", "status", "run", "tree"))
    parser.add_argument("scenario", nargs="?", type=Path, help="the folder that has hosts.yml")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="run: the command and its arguments")
    chosen = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("lab.py: run me as root", file=sys.stderr)
        return 2
    try:
        if chosen.action == "tree":
            print(tree.prepare_tree())
            return 0
        if chosen.scenario is None or (chosen.action == "run") != bool(chosen.command):
            parser.error("a scenario's folder is wanted, and for run a command")
        lab = read_lab(chosen.scenario)
        if chosen.action == "run":
            return run_command(lab, [word for index, word in enumerate(chosen.command) if (index, word) != (0, "--")])
        if chosen.action == "status":
            return show_lab(lab)
        with hold_lab(lab):
            create_lab(lab) if chosen.action == "create" else destroy_lab(lab)
    except LabError as error:
        print(f"lab.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
