"""What Kumo adds to the steps by hand, on this machine, in one run, against a cloud made by ./stack.sh.

Prints medians of (a) `virsh create` of a guest like Kumo's, (b) a bare `ansible-playbook` of one module call,
(c) POST /servers → ACTIVE with the image cached, and c / (a + b); and (d) GET /servers/detail with 100
servers, requests per second, from an API process of its own over rows of its own.

    bench/foundation.py [--rounds N]      as root; leaves nothing behind
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import openstack

ROOT = Path(__file__).resolve().parent.parent
VENV = Path("/opt/kumo/venv/bin")
sys.path.insert(0, str(ROOT))


def timed(function) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def call(*command: str, **options) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, **options).stdout


def create_server(cloud, image, flavor, network):
    """Seconds from POST to ACTIVE, polled every 100 ms, and the server."""
    started = time.perf_counter()
    server = cloud.compute.create_server(
        name="bench", image_id=image.id, flavor_id=flavor.id, networks=[{"uuid": network.id}]
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        seen = cloud.compute.get_server(server.id)
        if seen.status in ("ACTIVE", "ERROR"):
            if seen.status == "ERROR":
                raise SystemExit(f"the server is in ERROR: {seen.fault}")
            return time.perf_counter() - started, server
        time.sleep(0.1)
    raise SystemExit("no ACTIVE within 120 s")


def delete_server(cloud, server) -> None:
    cloud.compute.delete_server(server.id)
    cloud.compute.wait_for_delete(server, interval=0.2, wait=60)


def wait_until_quiet() -> None:
    """No run for a while: what a delete leaves to be tidied is not the next create's to pay for."""
    deadline, quiet_since = time.monotonic() + 60, time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - quiet_since < 1.5:
        if any(Path("/var/lib/kumo/runs").glob("run-*")):
            quiet_since = time.monotonic()
        time.sleep(0.05)


def build_twin(domain: str, folder: str) -> Path:
    """A transient copy of a guest: own name, UUID and disk, on the same bridge."""
    tree = ElementTree.fromstring(call("virsh", "-c", "qemu:///system", "dumpxml", "--inactive", domain))
    tree.find("name").text = f"bench-{uuid.uuid4().hex[:8]}"
    tree.find("uuid").text = str(uuid.uuid4())
    for interface in tree.iter("interface"):
        interface.find("mac").set("address", "52:54:00:00:be:0c")
        target = interface.find("target")
        if target is not None:
            interface.remove(target)
    disk = next(tree.iter("disk"))
    source = disk.find("source").get("file")
    copy = Path(folder) / "disk"
    backing = next(
        line.split(": ", 1)[1].split(" (")[0]
        for line in call("qemu-img", "info", "-U", "-f", "qcow2", source).splitlines()
        if line.startswith("backing file:")
    )
    call("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, str(copy))
    disk.find("source").set("file", str(copy))
    os.chmod(copy, 0o666)
    for serial in [*tree.iter("serial"), *tree.iter("console")]:
        for part in serial.findall("log"):
            part.set("file", f"{folder}/console.log")
        part = serial.find("source")
        if part is not None and part.get("path"):
            part.set("path", f"{folder}/{serial.tag}.log")
    path = Path(folder) / "twin.xml"
    path.write_text(ElementTree.tostring(tree, encoding="unicode"))
    return path


def measure_virsh(domain: str, rounds: int) -> float:
    """Median seconds of `virsh create`."""
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir="/var/lib/kumo") as folder:
            os.chmod(folder, 0o711)
            path = build_twin(domain, folder)
            seconds.append(timed(lambda path=path: call("virsh", "-c", "qemu:///system", "create", str(path))))
            call("virsh", "-c", "qemu:///system", "destroy", ElementTree.parse(path).getroot().find("name").text)
    return statistics.median(seconds)


def measure_playbook(rounds: int) -> float:
    """Median seconds of a playbook that calls one module (ping) on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        playbook = Path(folder) / "ping.yml"
        playbook.write_text(
            "- hosts: all\n  gather_facts: false\n  become: true\n  tasks:\n    - ansible.builtin.ping:\n"
        )
        command = [
            str(VENV / "ansible-playbook"), "-i", "localhost,", "-c", "local",
            "-e", "ansible_python_interpreter=/usr/bin/python3", str(playbook),
        ]  # fmt: skip
        return statistics.median(timed(lambda: call(*command, cwd=folder)) for _ in range(rounds))


def measure_detail(clients: int, seconds: float = 5.0) -> float:
    """Requests per second of GET /servers/detail with 100 servers, over rows of its own."""
    import http.client

    from bench.rows import serve_rows

    with serve_rows(servers=100) as (port, token):
        count, stop = [0] * clients, time.monotonic() + seconds

        def work(number: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            while time.monotonic() < stop:
                connection.request("GET", "/compute/v2.1/servers/detail", headers={"X-Auth-Token": token})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200 or body.count(b'"OS-EXT-STS:vm_state"') != 100:
                    raise SystemExit(f"unexpected answer {answer.status}: {body[:300]!r}")
                count[number] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(count) / (time.perf_counter() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cloud", default="kumo")
    args = parser.parse_args()
    cloud = openstack.connect(cloud=args.cloud)
    image = cloud.image.find_image("kumo-guest", ignore_missing=False)
    flavor = cloud.compute.find_flavor("m1.nano", ignore_missing=False)
    network = cloud.network.find_network("private", ignore_missing=False)
    _, server = create_server(cloud, image, flavor, network)  # warms the cache
    try:
        a = measure_virsh(f"kumo-{server.id}", args.rounds)
        b = measure_playbook(args.rounds)
        built = []
        for _ in range(args.rounds):
            wait_until_quiet()
            seconds, one = create_server(cloud, image, flavor, network)
            built.append(seconds)
            delete_server(cloud, one)
        c = statistics.median(built)
    finally:
        delete_server(cloud, server)
    print(f"(a) virsh create                      {a:7.2f} s")
    print(f"(b) ansible-playbook, one module      {b:7.2f} s")
    print(f"(c) POST /servers to ACTIVE           {c:7.2f} s")
    print(f"c / (a + b)                           {c / (a + b):7.2f}   (aim: 1.50 at most)")
    for clients in (1, 16):
        rate = measure_detail(clients)
        print(f"(d) GET /servers/detail, 100 servers  {rate:7.1f} requests/s, {clients} clients")
    return 0


if __name__ == "__main__":
    sys.exit(main())
