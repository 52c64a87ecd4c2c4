"""Network namespaces: enter, list, make, remove; the settings and processes inside them.

A namespace is Kumo's by its name, and this state directory's by the alias of its loopback. Links and
addresses are in links.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from .errors import KumoError
from .names import PREFIX

NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000
STOP_S = 2.0
ETHERTYPE_ARP = 0x0806


def _setns(descriptor: int, name: str) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        raise KumoError(f"namespace {name} cannot be entered: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def enter(name: str | None):
    """Let this thread, and what it starts, be in namespace ``name`` (None: where it already is)."""
    if name is None:
        yield
        return
    try:
        there = os.open(NAMESPACES / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KumoError(f"there is no namespace {name}") from None
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(there, name)
        try:
            yield
        finally:
            _setns(here, "of the host")
    finally:
        os.close(there)
        os.close(here)


def read_namespaces() -> dict[str, int]:
    """{name: inode} of the living namespaces with Kumo's prefix (a file left by a reboot is not one)."""
    found = {}
    kind = os.stat("/proc/self/ns/net").st_dev
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(NAMESPACES):
            if entry.name.startswith(PREFIX):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(entry.path)
                    if status.st_dev == kind:
                        found[entry.name] = status.st_ino
    return found


def run(argv: list[str], stdin: str | None = None, check: bool = True, timeout_s: float = 20) -> str:
    """The output of ``argv``; KumoError with what it said, when it failed or took too long."""
    try:
        result = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except FileNotFoundError:
        raise KumoError(f"{argv[0]} is not installed; the role hypervisor installs it") from None
    except subprocess.TimeoutExpired:
        raise KumoError(f"{argv[0]} did not answer within {timeout_s:.0f} s") from None
    if check and result.returncode:
        said = " ".join(result.stderr.split()) or f"exit status {result.returncode}"
        raise KumoError(f"{argv[0]}: {said}")
    return result.stdout


def apply_namespace(name: str) -> None:
    """Make the namespace ``name`` unless it lives; IPv6 autoconfiguration is off in it from the start."""
    if name not in read_namespaces():
        (NAMESPACES / name).unlink(missing_ok=True)
        run(["ip", "netns", "add", name])
    with enter(name):
        apply_sysctls(NAMESPACE_SYSCTLS)


NAMESPACE_SYSCTLS = {
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_redirects": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/rp_filter": "1",
}


def read_sysctls(names) -> dict[str, str]:
    """{name: value} of the /proc/sys settings ``names`` as this thread's namespace has them."""
    values = {}
    for name in names:
        with contextlib.suppress(OSError):
            values[name] = Path("/proc/sys", name).read_text().strip()
    return values


def apply_sysctls(values: dict[str, str]) -> None:
    """Write settings below /proc/sys in this thread's namespace; those of an absent protocol are passed over."""
    for name, value in values.items():
        path = Path("/proc/sys", name)
        if not path.exists():
            if "/ipv6/" in name or "/bridge/" in name:
                continue
            raise KumoError(f"this kernel has no setting {name}")
        if path.read_text().strip() != value:
            path.write_text(value)


def read_processes(inode: int) -> dict[int, str]:
    """{pid: command line} of the processes in the namespace with this inode."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{entry}/ns/net").st_ino == inode:
                    found[int(entry)] = (
                        Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                    )
    return found


def apply_stop(pid: int) -> None:
    """End the process ``pid``: asked first, killed after two seconds; its absence is no error."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline:
            if not Path("/proc", str(pid)).exists() or _is_zombie(pid):
                return
            time.sleep(0.005)
    raise KumoError(f"process {pid} does not end")


def _is_zombie(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True


def apply_absence(name: str, links: list[str], state_dir: str) -> None:
    """Remove a namespace with its ``links`` and with Kumo's own daemons in it.

    A stranger's process (an operator's shell) is left alone; it keeps an empty namespace without a name.
    """
    inode = read_namespaces().get(name)
    if inode is not None:
        for pid, command in read_processes(inode).items():
            if state_dir in command or name in command:
                apply_stop(pid)
        if links:
            run(["ip", "-n", name, "-force", "-batch", "-"], "".join(f"link del dev {link}\n" for link in links), False)
    if (NAMESPACES / name).exists():
        run(["ip", "netns", "del", name])


def apply_announcement(interface: str, mac: str, addresses: list[str]) -> None:
    """Send gratuitous ARP (RFC 5227 section 3) for IPv4 ``addresses`` from this thread's namespace."""
    source = bytes.fromhex(mac.replace(":", ""))
    head = b"\xff" * 6 + source + struct.pack("!HHHBBH", ETHERTYPE_ARP, 1, 0x0800, 6, 4, 1)
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.bind((interface, ETHERTYPE_ARP))
            for address in addresses:
                if ":" not in address:
                    packed = socket.inet_aton(address)
                    raw.send(head + source + packed + b"\0" * 6 + packed)
    except OSError as error:
        raise KumoError(f"no ARP announcement on {interface}: {error.strerror}") from None
