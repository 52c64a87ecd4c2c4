#!/usr/bin/python3
"""Takes what Kumo's modules and services made off this machine: guests, processes, links, chains, settings.

    teardown.py STEP... [--dry-run]      steps: services guests network daemons moves settings

Known by name and owner: domains whose disks are under STATE_DIR, links with Kumo's prefixes or its tag,
namespaces and chains named kumo-…, processes with KUMO_SERVICE in their environment. Nothing else is
touched. Every step may be repeated, and copes with what is half there. Standard library only: it runs
when the control plane is gone. Next room: unstack.sh, which calls it and removes files and packages.
"""

import argparse
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE_DIR = "/var/lib/kumo/host"
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
DOMAIN = re.compile(rf"kumo-{UUID}")
NAMESPACE = re.compile(rf"kumo-[a-z]-{UUID}")
LINK = re.compile(r"(?:kbr|ktp|kvo|kvi|kvx|kvl)[0-9a-f]{11}")
STACK_STATE = Path("/var/lib/kumo/stack-state")
FAMILIES = {"iptables": 2, "ip6tables": 10, "ebtables": 7}  # nfnetlink's NFPROTO_ numbers
TAG = f"kumo:{STATE_DIR}"
PROGRAMS = ("kumo-worker", "kumo-api", "kumo-console", "kumo-metadata", "kumo-tgtd")
DAEMONS = ("libvirtd", "virtlogd")
SUPERVISOR = "/etc/kumo/supervisord.conf"
ACCOUNT = "kumo"
MOVES_FILES = ("/etc/libvirt/libvirtd.conf", "/etc/libvirt/qemu.conf", "/etc/hosts")
MOVES_BLOCK = re.compile(r"^# BEGIN Kumo: guests that move\n.*?^# END Kumo: guests that move\n", re.M | re.S)
MOVES_SOCKET = Path("/etc/systemd/system/libvirtd-tls.socket.d")
MOVES_PKI = Path("/etc/pki/qemu/kumo")
GRACE_S = 15
LOCK_S = 60

dry_run = False


def say(text: str) -> None:
    """One line about what is done, or with --dry-run would be."""
    print(f"  {'would ' if dry_run else ''}{text}", flush=True)


def run(*argv: str, stdin: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess:
    """A command that only reads, or whose change was said before; a missing one is an answer too."""
    source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, **source)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 127, "", str(error))


def change(what: str, *argv: str, stdin: str | None = None, timeout: float = 60) -> bool:
    """Say and run a command that changes something; whether it worked."""
    say(what)
    if dry_run:
        return True
    done = run(*argv, stdin=stdin, timeout=timeout)
    if done.returncode:
        print(f"  ! {' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}", file=sys.stderr)
    return done.returncode == 0


def read_processes() -> dict[int, dict]:
    """{pid: {name, argv, service, uid}} of everything that runs on this machine.

    This process and its parents are left out, and what a container runs: that is another machine's.
    """
    namespace = os.readlink("/proc/self/ns/pid")
    parents, pid = set(), os.getpid()
    while pid > 1:
        parents.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in parents or entry.name == "1":
            continue
        try:
            if os.readlink(entry / "ns/pid") != namespace:
                continue
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            if not argv:
                continue  # the kernel's own, or a zombie
            service = next((text.partition("=")[2] for text in environment if text.startswith("KUMO_SERVICE=")), "")
            found[int(entry.name)] = {
                "name": os.path.basename(argv[0]),
                "argv": argv,
                "service": service,
                "uid": entry.stat().st_uid,
            }
        except OSError:
            continue
    return found


def end(choose, what: str, grace: float = GRACE_S) -> None:
    """TERM, then KILL, to the processes that ``choose(row)`` names, until none is left or the time is up."""
    said = set()
    for signum in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + grace
        while True:
            found = {pid: row for pid, row in read_processes().items() if choose(row)}
            for pid, row in found.items():
                if pid not in said:
                    say(f"end {what} {pid} ({' '.join(row['argv'])[:80]})")
                    said.add(pid)
                if not dry_run:
                    try:
                        os.kill(pid, signum)
                    except ProcessLookupError:
                        continue
            if not found or dry_run:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)


def read_uid() -> int | None:
    """The uid of the control plane's account."""
    try:
        return pwd.getpwnam(ACCOUNT).pw_uid
    except KeyError:
        return None


def is_systemd() -> bool:
    """Whether systemd is PID 1 (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def ask_supervisor(*words: str) -> None:
    """Tell our supervisor something, where it still listens."""
    python = "/opt/kumo/venv/bin/python"
    if os.path.exists("/run/kumo/supervisor.sock") and os.path.exists(python) and os.path.exists(SUPERVISOR):
        say(f"supervisor: {' '.join(words)}")
        if not dry_run:
            run(python, "-m", "supervisor.supervisorctl", "-c", SUPERVISOR, *words, timeout=120)


def stop_services() -> None:
    """The API, the worker and the metadata daemon first: nothing may bring back what is taken away."""
    if is_systemd():
        for name in PROGRAMS:
            if run("systemctl", "cat", f"{name}.service").returncode == 0:
                change(f"stop {name}.service", "systemctl", "disable", "--now", f"{name}.service", timeout=120)
    ask_supervisor("stop", *PROGRAMS)
    uid = read_uid()
    end(lambda row: row["service"] in PROGRAMS, "the service")
    if uid is not None:
        end(lambda row: row["uid"] == uid, "the account's process")
    _wait_for_host()
    _end_tasks()


def _wait_for_host() -> None:
    """A module that is at work on this host as root has no account to know it by; it holds the lock."""
    lock = Path(STATE_DIR, "lock")
    if not lock.exists() or dry_run:
        return
    with open(lock, "w") as stream:
        deadline = time.monotonic() + LOCK_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.5)
    print(f"  ! a module has held {lock} for {LOCK_S} s; going on", file=sys.stderr)


def _end_tasks() -> None:
    for path in sorted(Path(STATE_DIR, "tasks").glob("*.json")):
        try:
            record = json.loads(path.read_text())
            fields = Path(f"/proc/{int(record['pid'])}/stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if str(record.get("started_ticks")) == fields[19]:
            say(f"end the task {path.stem} ({record['pid']})")
            if not dry_run:
                os.kill(int(record["pid"]), signal.SIGKILL)


def remove_guests() -> None:
    """Kumo's domains: by libvirt where it answers, else by their processes and definitions."""
    virsh = ("virsh", "--connect", "qemu:///system")
    listed = run(*virsh, "list", "--all", "--name", timeout=60)
    if listed.returncode == 0:
        for name in sorted(text for text in listed.stdout.split() if DOMAIN.fullmatch(text)):
            if f"{STATE_DIR}/servers/" not in run(*virsh, "dumpxml", name).stdout:
                continue
            if run(*virsh, "domstate", name).stdout.strip() not in ("shut off", "crashed"):
                change(f"power off {name}", *virsh, "destroy", name)
            flags = ("--managed-save", "--snapshots-metadata", "--checkpoints-metadata", "--nvram")
            change(f"undefine {name}", *virsh, "undefine", name, *flags)
    end(
        lambda row: row["name"].startswith("qemu-system") and f"{STATE_DIR}/servers/" in " ".join(row["argv"]),
        "the guest",
        grace=5,
    )
    for path in sorted(Path("/etc/libvirt/qemu").glob("*kumo-*.xml")) if listed.returncode else []:
        if DOMAIN.fullmatch(path.stem) and f"{STATE_DIR}/servers/" in path.read_text(errors="replace"):
            say(f"remove {path}")
            if not dry_run:
                path.unlink()


def stop_daemons() -> None:
    """libvirt where we run it, and supervisor itself. What the distribution's units run stays."""
    ask_supervisor("shutdown")
    end(lambda row: "supervisor.supervisord" in row["argv"] and SUPERVISOR in row["argv"], "supervisor", grace=60)
    end(lambda row: row["service"].startswith("kumo-") or row["service"] in DAEMONS, "the daemon")


def remove_network() -> None:
    """DHCP servers, namespaces, links and packet filter chains."""
    end(
        lambda row: row["name"] == "dnsmasq" and any(f"{STATE_DIR}/networks/" in text for text in row["argv"]),
        "the DHCP server",
        grace=5,
    )
    links = read_links()
    names = run("ip", "-json", "netns", "list").stdout.strip() or "[]"
    for name in sorted(row["name"] for row in json.loads(names) if NAMESPACE.fullmatch(row["name"])):
        if is_foreign_namespace(name, links):
            continue
        for pid in run("ip", "netns", "pids", name).stdout.split():
            say(f"end {pid} in the namespace {name}")
            if not dry_run:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
        change(f"remove the namespace {name}", "ip", "netns", "delete", name)
    for name in sorted(name for name, row in links.items() if is_own_link(name, links)):
        # One end of a pair takes the other with it, so what was listed may be gone.
        if dry_run or os.path.exists(f"/sys/class/net/{name}"):
            change(f"remove the link {name}", "ip", "link", "delete", "dev", name)
    for tool in ("iptables", "ip6tables", "ebtables"):
        remove_chains(tool)
    remove_tables()


def read_links() -> dict[str, dict]:
    """{name: {index, tag, master}} of this machine's links; the tag of ours names the state directory."""
    return {
        row["ifname"]: {"index": row["ifindex"], "tag": row.get("ifalias", ""), "master": row.get("master", "")}
        for row in json.loads(run("ip", "-json", "link", "show").stdout or "[]")
    }


def is_own_link(name: str, links: dict[str, dict]) -> bool:
    """Tagged as ours; or with a prefix of ours and no tag, and on no bridge of another state directory."""
    row = links[name]
    if row["tag"]:
        return row["tag"] == TAG
    over = links.get(row["master"], {}).get("tag", "")
    return bool(LINK.fullmatch(name)) and (over == TAG or not over.startswith("kumo:"))


def is_foreign_namespace(name: str, links: dict[str, dict]) -> bool:
    """Whether a leg of the namespace is the other end of a link that another state directory owns."""
    inside = json.loads(run("ip", "-json", "-n", name, "link", "show").stdout or "[]")
    peers = {row.get("link_index") for row in inside}
    return any(row["index"] in peers and row["tag"].startswith("kumo:") and row["tag"] != TAG for row in links.values())


def remove_chains(tool: str) -> None:
    """Jumps to our chains out of everyone's chains, then the chains, in one transaction per table.

    A chain is another state directory's where its name ends in that one's digest, or such a chain leads to it.
    """
    saved = run(f"{tool}-save").stdout
    foreign = set(re.findall(r"^:(kumo-[a-z]+-[0-9a-f]{6}) ", saved, re.MULTILINE))
    jumps = re.findall(r"^-A (\S+) (?:.* )?-[jg] (kumo-\S+)", saved, re.MULTILINE)
    for _ in range(8):
        foreign |= {target for chain, target in jumps if chain in foreign}
    lines: list[str] = []
    count = 0
    for table in re.findall(r"^\*.*?(?=^\*|\Z)", saved, re.MULTILINE | re.DOTALL):
        chains = [name for name in re.findall(r"^:(kumo-\S+) ", table, re.MULTILINE) if name not in foreign]
        if not chains:
            continue
        outside = [
            f"-D {chain} {rule}"
            for chain, rule in re.findall(r"^-A (\S+) (.*)$", table, re.MULTILINE)
            if not chain.startswith("kumo-") and (to := re.search(r"-[jg] (kumo-\S+)", rule)) and to[1] not in foreign
        ]
        lines += [table.splitlines()[0], *outside]
        lines += [f"-F {chain}" for chain in chains] + [f"-X {chain}" for chain in chains] + ["COMMIT"]
        count += len(chains)
    if count:
        wait = () if tool == "ebtables" else ("-w",)
        text = "\n".join(lines) + "\n"
        change(f"remove {count} chains of {tool}", f"{tool}-restore", *wait, "--noflush", stdin=text)


def remove_tables() -> None:
    """Tables that came with our chains and hold nothing now: iptables makes them and never removes them."""
    try:
        before = (STACK_STATE / "before" / "tables").read_text().splitlines()
        from pyroute2.nftables.main import NFTables
    except (OSError, ImportError):
        return
    for tool, family in FAMILIES.items():
        saved = run(f"{tool}-save").stdout
        for text in re.findall(r"^\*.*?(?=^\*|\Z)", saved, re.MULTILINE | re.DOTALL) if "nf_tables" in saved else []:
            name = text.splitlines()[0][1:]
            chains = re.findall(r"^:\S+ (\S+)", text, re.MULTILINE)
            if f"{tool} {name}" in before or "\n-A " in text or set(chains) - {"ACCEPT"}:
                continue
            say(f"remove the empty table {name} of {tool}")
            if not dry_run:
                with NFTables(nfgen_family=family) as nft:
                    nft.table("del", name=name)


def restore_settings() -> None:
    """What of /proc/sys the modules changed, as they found it."""
    path = Path(STATE_DIR, "sysctl-before.json")
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    for name, value in sorted(before.items()):
        setting = Path("/proc/sys", name)
        if ".." in name or not setting.is_file() or setting.read_text().strip() == str(value):
            continue
        say(f"set {name} back to {value}")
        if not dry_run:
            setting.write_text(f"{value}\n")
    if not dry_run:
        path.unlink()


def remove_moves() -> None:
    """What guests moved over: the certificate of this host, and Kumo's lines in libvirt's files and /etc/hosts."""
    changed = False
    for path in map(Path, MOVES_FILES):
        text = path.read_text() if path.is_file() else ""
        rest = MOVES_BLOCK.sub("", text)
        if rest != text:
            changed = True
            say(f"remove Kumo's lines from {path}")
            if not dry_run:
                path.write_text(rest)
    if (MOVES_SOCKET / "kumo.conf").exists():
        changed = True
        if is_systemd():
            change("stop libvirtd-tls.socket", "systemctl", "disable", "--now", "libvirtd-tls.socket")
        say(f"remove {MOVES_SOCKET}/kumo.conf")
        if not dry_run:
            (MOVES_SOCKET / "kumo.conf").unlink()
    if MOVES_PKI.is_dir():
        say(f"remove {MOVES_PKI}")
        if not dry_run:
            shutil.rmtree(MOVES_PKI)
            for path in (MOVES_SOCKET, MOVES_PKI.parent, MOVES_PKI.parent.parent):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
    if changed and is_systemd():
        change("have libvirtd read its settings again", "systemctl", "daemon-reload")
        change("restart libvirtd, guests run on", "systemctl", "try-restart", "libvirtd.service")


STEPS = {
    "services": stop_services,
    "guests": remove_guests,
    "network": remove_network,
    "daemons": stop_daemons,
    "moves": remove_moves,
    "settings": restore_settings,
}


def main() -> None:
    """The steps in the order given."""
    global dry_run
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="+", choices=STEPS, metavar="STEP", help=" ".join(STEPS))
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    arguments = parser.parse_args()
    dry_run = arguments.dry_run
    for step in arguments.steps:
        STEPS[step]()


if __name__ == "__main__":
    main()
