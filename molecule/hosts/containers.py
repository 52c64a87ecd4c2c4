"""Hosts that are containers: systemd-nspawn over an overlay of the prepared tree, in a network namespace of their own.

Owns: `create`, `destroy` and `is_up` of one container, and what makes it this host and no other (machine-id, ssh keys,
names). May not: know of Kumo. A host of kind machine has the same three functions in machines.py.
Next room: tree.py, what is in every host; networks.py, what they are plugged into.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

from .commands import end_processes, find_processes, read_start, run
from .inventory import Host, Lab, LabError
from .networks import create_host_network, destroy_namespace, list_namespaces
from .tree import prepare_tree

OPERATOR = "admin"
# Units that watch directories for somebody at a terminal. The kernel gives an account 128 instances of inotify, and
# the roots of all containers are one account.
WATCHERS = ("systemd-ask-password-console.path", "systemd-ask-password-wall.path")


def build_hosts_file(lab: Lab, own: str) -> str:
    """The text of /etc/hosts: every host of the lab by its name."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", f"127.0.1.1 {own}"]
    lines += [f"{host.address} {host.name}" for host in lab.hosts.values() if host.name != own]
    return "\n".join(lines) + "\n"


def write_identity(lab: Lab, host: Host, root: Path) -> None:
    """What a host has of its own: into the root directory of a tree that is not running."""
    (root / "etc/hostname").write_text(f"{host.name}\n")
    (root / "etc/hosts").write_text(build_hosts_file(lab, host.name))
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    for unit in WATCHERS:
        path = root / "etc/systemd/system" / unit
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/null")
    key = root / "etc/ssh/ssh_host_ed25519_key"
    key.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", key])
    allowed = root / "home" / OPERATOR / ".ssh/authorized_keys"
    allowed.write_text(lab.key.with_suffix(".pub").read_text())
    owner = allowed.parent.stat()
    os.chown(allowed, owner.st_uid, owner.st_gid)
    allowed.chmod(0o600)


def read_host_key(root: Path) -> str:
    """A host's public key as known_hosts has it: type and key."""
    return " ".join((root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])


def list_control_groups(lab: Lab, host: Host) -> list[Path]:
    """A container's own control groups: in the unified hierarchy and in systemd's own, where the machine has them.

    Without, the systemds of all containers would share one, and end each other's processes with their own.
    """
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        kind, options = words[words.index("-") + 1], words[-1]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(words[4], lab.host_namespace(host)))
    return found


def machine_name(lab: Lab, host: Host) -> str:
    """What systemd-nspawn calls it: unique on this machine, of at most 64 characters."""
    return f"{lab.name}-{host.name}"


def root_argument(lab: Lab, host: Host) -> str:
    """What only this container's systemd-nspawn has among its arguments."""
    return f"--directory={lab.host_folder(host)}/root"


def prepare(_host: Host) -> None:
    """Have the tree in the cache."""
    prepare_tree()


def create(host: Host, lab: Lab) -> str:
    """Boot a container; its public ssh key, known before anybody connects. It may not answer yet."""
    destroy(host, lab)
    tree, folder = prepare_tree(), lab.host_folder(host)
    for part in ("upper", "work", "root"):
        (folder / part).mkdir(parents=True)
    options = f"lowerdir={tree},upperdir={folder}/upper,workdir={folder}/work"
    run(["mount", "-t", "overlay", f"kumo-lab-{lab.name}", "-o", options, folder / "root"])
    write_identity(lab, host, folder / "root")
    create_host_network(lab, host)
    command = [
        "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--settings=no", "--boot", "--console=read-only",
        root_argument(lab, host), f"--machine={machine_name(lab, host)}", f"--hostname={host.name}",
        f"--network-namespace-path=/run/netns/{lab.host_namespace(host)}", "--capability=all",
        "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--bind=/dev/net/tun",
    ]  # fmt: skip
    # In the container's own network namespace it may set what is that namespace's: forwarding, the bridges' switches.
    groups = list_control_groups(lab, host)
    for group in groups:
        group.mkdir(exist_ok=True)
    # With --keep-unit it ends with 133 where the container wants to be booted again. Its folder in /run is its own.
    own_run = "mkdir -p /run/systemd/nspawn; mount -t tmpfs kumo-lab /run/systemd/nspawn"
    enter = "; ".join(
        [
            *(f"echo $$ >{group}/cgroup.procs" for group in groups),
            own_run,
            'code=133; while [ $code = 133 ]; do code=0; "$@" || code=$?; done; exit $code',
        ]
    )
    command = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", enter, "sh", *command]
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
    with (folder / "console.log").open("wb") as log:
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
        )
    return read_host_key(folder / "root")


def is_up(host: Host, lab: Lab) -> bool:
    """Whether its systemd-nspawn runs."""
    return bool(find_processes(root_argument(lab, host)))


def find_inside(groups: list[Path]) -> dict[int, str]:
    """{pid: start} of processes in control groups and those below them."""
    pids: set[int] = set()
    for group in groups:
        for path in group.rglob("cgroup.procs"):
            pids.update(int(word) for word in path.read_text().split())
    return {pid: start for pid in pids if (start := read_start(pid)) is not None}


def end_container(lab: Lab, host: Host) -> None:
    """Kill everything in the container; systemd-nspawn then tidies up and ends.

    Found by control group: where systemd-nspawn itself was killed, its container goes on without it.
    """
    groups = [group for group in list_control_groups(lab, host) if group.is_dir()]
    end_processes(find_inside([group / "payload" for group in groups]))
    supervisors = {**find_inside(groups), **find_processes(root_argument(lab, host))}
    try:
        end_processes(supervisors, signal.SIGTERM, seconds=3)
    except LabError:
        end_processes(supervisors)


def remove_control_group(top: Path) -> None:
    """Remove a control group and those below it; one that is busy still has processes that the kernel is ending."""
    deadline = time.monotonic() + 20
    while top.is_dir():
        try:
            for group, _, _ in os.walk(top, topdown=False):
                os.rmdir(group)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise LabError(f"the control group {top} cannot be removed: {error}") from None
            time.sleep(0.05)


def destroy(host: Host, lab: Lab) -> None:
    """End a container with everything in it, and remove what it had; also what a killed run left of it."""
    end_container(lab, host)
    folder = lab.host_folder(host)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = line.split()[4]
        if point.startswith(f"{folder}/"):
            run(["umount", point])
    for top in list_control_groups(lab, host):
        remove_control_group(top)
    if lab.host_namespace(host) in list_namespaces():
        destroy_namespace(lab.host_namespace(host))
    if folder.is_dir():
        run(["rm", "-rf", "--one-file-system", folder])


def read_console(host: Host, lab: Lab) -> str:
    """The last lines of a container's console: what to look at when it does not answer."""
    try:
        return (lab.host_folder(host) / "console.log").read_text(errors="replace")[-3000:]
    except OSError:
        return ""
