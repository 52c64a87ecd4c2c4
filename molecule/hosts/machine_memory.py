"""A machine that has booted once, kept: its memory as a file, its disk as a layer. Every host goes on from there.

Booting under emulation takes a minute of two processors and much longer on a busy machine; going on takes seconds.
Owns: QEMU's arguments, its monitor, and /var/cache/kumo-hosts/memory-<hash of the inputs>/{memory,root.qcow2}, one
for each form of machine (memory, disks, number of NICs). May not: hold anything of one host.
Next room: machines.py, whose hosts go on from here; machine_image.py, what is booted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path

from .commands import end_processes, find_processes, run
from .inventory import Host, LabError
from .machine_image import prepare_image
from .tree import CACHE, remove_old, say

FORM = 1
CPUS = 2
BOOT_S = 900
# Mitigations, tests of ciphers and a second security module cost much under emulation and protect nothing here.
KERNEL = "console=ttyS0 net.ifnames=0 quiet panic=5 mitigations=off cryptomgr.notests lsm=capability audit=0"


def build_command(host: Host, image: Path, folder: Path, nics: list[str]) -> list[str]:
    """QEMU and its arguments: a machine of the host's form, its files in ``folder``; ``nics`` is where they lead."""
    command = [
        "qemu-system-x86_64", "-name", host.name, "-pidfile", own_argument(folder), "-nodefaults", "-no-user-config",
        "-display", "none", "-machine", "pc-q35-7.2", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(CPUS),
        "-m", str(host.memory_mb), "-kernel", f"{image}/vmlinuz", "-initrd", f"{image}/initrd", "-append", KERNEL,
        "-serial", f"file:{folder}/console.log", "-qmp", f"unix:{folder}/monitor,server=on,wait=off",
        "-device", "virtio-serial-pci", "-chardev", f"socket,id=identity,path={folder}/identity,server=on,wait=off",
        "-device", "virtserialport,chardev=identity,name=lab.identity",
        "-drive", f"file={folder}/root.qcow2,format=qcow2,if=virtio,cache=unsafe,discard=unmap",
    ]  # fmt: skip
    for index in range(len(host.disks_gb)):
        command += ["-drive", f"file={folder}/disk{index}.img,format=raw,if=virtio,cache=unsafe,discard=unmap"]
    for index, nic in enumerate(nics):
        command += ["-netdev", f"{nic},id=nic{index}", "-device", f"virtio-net-pci,netdev=nic{index},romfile="]
    return command


def own_argument(folder: Path) -> str:
    """What only the QEMU of this folder has among its arguments."""
    return f"{folder}/qemu.pid"


def make_disks(host: Host, folder: Path, base: Path, form: str) -> None:
    """An overlay on ``base``, and the host's empty disks."""
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", base, folder / "root.qcow2"])
    for index, size in enumerate(host.disks_gb):
        run(["truncate", "-s", f"{size}G", folder / f"disk{index}.img"])


def start(command: list[str], folder: Path, prefix: tuple[str, ...] = ()) -> None:
    """Start QEMU as a process of its own."""
    with (folder / "qemu.log").open("wb") as log:
        subprocess.Popen(
            [*prefix, *command], env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, cwd="/", start_new_session=True,
        )  # fmt: skip


def connect(path: Path, seconds: float) -> socket.socket:
    """A connection to one of QEMU's sockets; LabError with what QEMU said where there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise LabError(f"QEMU does not run: {(path.parent / 'qemu.log').read_text()[-500:]}") from None
            time.sleep(0.05)
            continue
        connection.settimeout(seconds)
        return connection


def ask(folder: Path, *commands: dict, until: dict | None = None, seconds: float = 120) -> dict:
    """The last answer of QEMU's monitor to some commands; with ``until`` the last one is repeated till it has that."""
    with connect(folder / "monitor", seconds) as connection, connection.makefile("rw") as stream:
        stream.readline()  # its greeting
        deadline = time.monotonic() + seconds
        for command in ({"execute": "qmp_capabilities"}, *commands):
            answer = exchange(stream, command)
        while until and not until.items() <= answer.items():
            if time.monotonic() > deadline or answer.get("status") == "failed":
                raise LabError(f"QEMU: {commands[-1]['execute']} says {json.dumps(answer)[:300]}")
            time.sleep(0.1)
            answer = exchange(stream, commands[-1])
    return answer


def exchange(stream, command: dict) -> dict:
    """One command of QEMU's monitor; events between are skipped."""
    stream.write(json.dumps(command) + "\n")
    stream.flush()
    for line in stream:
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(f"QEMU: {command['execute']}: {answer['error'].get('desc')}")
        if "return" in answer:
            return answer["return"]
    raise LabError(f"QEMU ended during {command['execute']}")


def read_line(connection: socket.socket, seconds: float) -> str:
    """A line of what a machine's agent says."""
    connection.settimeout(seconds)
    said = b""
    try:
        while not said.endswith(b"\n"):
            part = connection.recv(4096)
            if not part:
                raise LabError("the machine has ended")
            said += part
    except TimeoutError:
        raise LabError(f"the machine said nothing within {seconds:.0f} s") from None
    return said.decode(errors="replace").strip()


def prepare_memory(host: Host) -> tuple[Path, Path]:
    """(image, memory's folder) of a host's form; booted and kept if it is not there yet. Never to be written to."""
    image = prepare_image()
    shape = json.dumps([FORM, image.name, KERNEL, CPUS, host.memory_mb, host.disks_gb, len(host.nics)])
    final = CACHE / f"memory-{hashlib.sha256(shape.encode()).hexdigest()[:32]}"  # sockets have short names
    with (CACHE / "memory.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.is_dir():
            remove_old("memory", final)
            keep_memory(host, image, final)
        os.utime(final)
    return image, final


def keep_memory(host: Host, image: Path, final: Path) -> None:
    """Boot a machine of the host's form with no cables, and keep it as it is once it has booted."""
    partial = final.with_name(f"{final.name}.partial")
    end_processes(find_processes(own_argument(partial)))
    run(["rm", "-rf", "--one-file-system", partial])
    partial.mkdir()
    say(f"booting a machine that is kept ({final.name[:16]}…)")
    began = time.monotonic()
    make_disks(host, partial, image / "root.img", "raw")
    start(build_command(host, image, partial, [f"hubport,hubid={index}" for index in range(len(host.nics))]), partial)
    try:
        with connect(partial / "identity", 30) as connection:
            if (said := read_line(connection, BOOT_S)) != "ready":
                raise LabError(f"a machine says {said[:200]!r} where 'ready' was awaited")
        memory = {"execute": "migrate", "arguments": {"uri": f"exec:cat >{partial}/memory"}}
        fast = {"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 1 << 34}}
        ask(partial, {"execute": "stop"}, fast, memory)
        ask(partial, {"execute": "query-migrate"}, until={"status": "completed"})
    finally:
        end_processes(find_processes(own_argument(partial)))
    for name in ("monitor", "identity", *(f"disk{index}.img" for index in range(len(host.disks_gb)))):
        (partial / name).unlink(missing_ok=True)
    partial.rename(final)
    say(f"the machine is kept after {time.monotonic() - began:.0f} s")
