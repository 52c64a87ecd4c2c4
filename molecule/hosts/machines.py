"""Hosts that are machines: a whole kernel under QEMU without KVM, for what a container's kernel has not (device-mapper,
VLAN interfaces, SCSI).

Owns: `create`, `destroy`, `is_up` and `read_console` of one machine: its overlay, its empty disks, its taps in the
lab's namespace, where QEMU runs too, and what makes it this host. It goes on from a machine that has booted already.
May not: know of Kumo. Next room: machine_memory.py, where it goes on from; networks.py, what it is plugged into.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import time
from pathlib import Path

from .commands import end_processes, find_processes, run
from .containers import OPERATOR, read_host_key, write_identity
from .inventory import Host, Lab, LabError
from .machine_memory import ask, build_command, connect, make_disks, own_argument, prepare_memory, read_line, start
from .networks import apply_batch, choose_gateway, list_namespaces, read_links
from .tree import prepare_tree

IDENTITY_S = 300
NETWORK = "usr/local/lib/lab_network"
UNIT = f"""[Unit]
Description=The lab's addresses
Before=network.target ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -e /{NETWORK}
[Install]
WantedBy=multi-user.target
"""


def build_network(lab: Lab, host: Host) -> str:
    """The script that sets a machine's addresses."""
    lines = ["ip link set lo up"]
    for index, nic in enumerate(host.nics):
        lines.append(f"ip link set eth{index} address {choose_mac(lab, host, index)} mtu {nic.network.mtu}")
        lines.append(f"ip link set eth{index} up")
        if nic.address:
            lines.append(f"ip address replace {nic.address} dev eth{index}")
    if gateway := choose_gateway(lab, host):
        lines.append(f"ip route replace default via {gateway}")
    return "\n".join(lines) + "\n"


def choose_mac(lab: Lab, host: Host, index: int) -> str:
    """The same address each time, and another one than any other host's."""
    digest = hashlib.sha256(f"{lab.name} {host.name} {index}".encode()).hexdigest()
    return ":".join(["52", "54", "00", digest[:2], digest[2:4], digest[4:6]])


def write_files(lab: Lab, host: Host, root: Path) -> None:
    """What a machine has of its own, below ``root``."""
    units = root / "etc/systemd/system/multi-user.target.wants"
    for part in (root / "etc/ssh", units, root / f"home/{OPERATOR}/.ssh", (root / NETWORK).parent):
        part.mkdir(parents=True)
    owner = (prepare_tree() / "home" / OPERATOR).stat()
    os.chown(root / f"home/{OPERATOR}/.ssh", owner.st_uid, owner.st_gid)
    write_identity(lab, host, root)
    (root / NETWORK).write_text(build_network(lab, host))
    (root / "etc/lab-host").write_text(f"{host.name}\n")
    (units.parent / "lab-network.service").write_text(UNIT)
    (units / "lab-network.service").symlink_to("/etc/systemd/system/lab-network.service")
    (units / "ssh.service").symlink_to("/lib/systemd/system/ssh.service")


def build_script(root: Path) -> bytes:
    """What a machine runs to become this host: its files, time, name, addresses, randomness; then ssh."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in sorted(root.rglob("*")):
            if path.is_symlink() or path.is_file():
                archive.add(path, str(path.relative_to(root)), recursive=False)
    files = base64.encodebytes(packed.getvalue()).decode()
    return f"""base64 -d <<'FILES' | tar -xz --numeric-owner -C /
{files}FILES
date --set=@{time.time():.0f}
hostname "$(cat /etc/hostname)"
sh -e /{NETWORK}
cat /etc/ssh/ssh_host_*_key >/dev/urandom
python3 -Ic 'import fcntl; fcntl.ioctl(open("/dev/urandom", "wb"), 0x5207)' # RNDRESEEDCRNG: other hosts began alike
systemctl start ssh.service
END
""".encode()


def prepare(host: Host) -> None:
    """Have the image and the memory of machines of this form in the cache."""
    prepare_memory(host)


def create(host: Host, lab: Lab) -> str:
    """Have a machine go on from where one has booted, as this host; its public ssh key. It answers soon."""
    destroy(host, lab)
    image, memory = prepare_memory(host)
    folder = lab.host_folder(host)
    folder.mkdir(parents=True, mode=0o700)
    (folder / "machine").touch()
    write_files(lab, host, folder / "own")
    make_disks(host, folder, memory / "root.qcow2", "qcow2")
    create_taps(lab, host)
    taps = [lab.lab_interface(host, index) for index in range(len(host.nics))]
    nics = [f"tap,ifname={name},script=no,downscript=no" for name in taps]
    command = [*build_command(host, image, folder, nics), "-incoming", f"exec:cat {memory}/memory"]
    start(command, folder, ("nsenter", f"--net=/run/netns/{lab.namespace}", "--"))
    ask(folder, {"execute": "query-migrate"}, until={"status": "completed"})
    ask(folder, {"execute": "cont"})
    with connect(folder / "identity", 30) as connection:
        connection.sendall(build_script(folder / "own"))
        said = read_line(connection, IDENTITY_S)
    if not said.startswith("ended 0"):
        raise LabError(f"host {host.name} did not become one: {said}")
    return read_host_key(folder / "own")


def create_taps(lab: Lab, host: Host) -> None:
    """The lab's ends of the machine's NICs, plugged into the bridges."""
    batch = []
    for index, nic in enumerate(host.nics):
        name = lab.lab_interface(host, index)
        batch += [
            f"tuntap add dev {name} mode tap",
            f"link set {name} mtu {nic.network.mtu} master {nic.network.bridge} up",
        ]
    apply_batch(lab.namespace, batch)


def is_up(host: Host, lab: Lab) -> bool:
    """Whether its QEMU runs."""
    return bool(find_processes(own_argument(lab.host_folder(host))))


def destroy(host: Host, lab: Lab) -> None:
    """End a machine and remove what it had; also what a killed run left of it."""
    end_processes(find_processes(own_argument(lab.host_folder(host))))
    if lab.namespace in list_namespaces():
        # Of a host that an earlier inventory had only the name is known, not how many NICs.
        prefix = lab.lab_interface(host, 0)[:-1]
        taps = [link for link in sorted(read_links(lab.namespace)) if link.startswith(prefix)]
        apply_batch(lab.namespace, [f"link delete {name}" for name in taps])
    if lab.host_folder(host).is_dir():
        run(["rm", "-rf", "--one-file-system", lab.host_folder(host)])


def read_console(host: Host, lab: Lab) -> str:
    """The last lines of a machine's console, and what QEMU said: what to look at when it does not answer."""
    texts = []
    for name in ("qemu.log", "console.log"):
        try:
            texts.append((lab.host_folder(host) / name).read_text(errors="replace")[-3000:])
        except OSError:
            continue
    return "\n".join(texts)
