#!/usr/bin/python3
"""The first session, as a newcomer would type it: image, flavor, key, network, router, rules, server, address.

Every step is a command of the unmodified python-openstackclient, printed before it is run. One process
for each cloud takes the commands one after the other, so that the client's imports are paid for once
(it keeps its connection for the life of a process, which is why two clouds need two). What is there
already is left alone, so a second run only looks whether the first server answers. Owns STATE; may
not touch the database or the host.
Run as root by stack.sh with /opt/kumo/client-venv's Python. Next room: README.md, the first session.
"""

import contextlib
import io
import json
import logging
import os
import select
import subprocess
import sys
import time
from pathlib import Path

STATE = Path("/var/lib/kumo/first-server")
MADE = STATE / "made"
GUEST_IMAGE = Path("/var/lib/kumo/guest-image")
IMAGE, FLAVOR, KEY, NETWORK, ROUTER, GROUP, SERVER = (
    "kumo-guest",
    "m1.micro",
    "first-key",
    "private",
    "router1",
    "ssh-and-ping",
    "first",
)
SUBNET_RANGE = "10.20.0.0/24"
PUBLIC = "public"
COMMAND_S, LOGIN_S, PING_S, CONSOLE_S = 300, 180, 120, 90
CLIENTS: dict[str, subprocess.Popen] = {}
BEGAN = time.monotonic() - float(os.environ.get("KUMO_STEPS_SINCE") or 0)


class Failed(Exception):
    """A step that did not work, in words."""


def say(text: str) -> None:
    """One line with the seconds since the start."""
    print(f"[{time.monotonic() - BEGAN:4.0f} s]   {text}", flush=True)


def serve_client(cloud: str) -> None:
    """The child: a JSON list of words on each line of standard input, {code, out, err} on a line for each."""
    from openstackclient import shell

    answers = os.fdopen(os.dup(1), "w")
    root = logging.getLogger()
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        handlers = list(root.handlers)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = shell.main(["--os-cloud", cloud, *json.loads(line)])
            except SystemExit as end:
                code = end.code
        for handler in list(root.handlers):
            if handler not in handlers:  # each command installs its own
                root.removeHandler(handler)
        answers.write(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}) + "\n")
        answers.flush()


def openstack(*arguments: str, cloud: str = "kumo", show: bool = True) -> str:
    """Run one command of the client; what it printed. Failed with its words where it ends with an error."""
    if show:
        say(f"$ openstack --os-cloud {cloud} {' '.join(arguments)}")
    if cloud not in CLIENTS:
        CLIENTS[cloud] = subprocess.Popen(
            [sys.executable, __file__, "--client", cloud], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    client = CLIENTS[cloud]
    client.stdin.write(json.dumps(arguments) + "\n")
    client.stdin.flush()
    ready = select.select([client.stdout], [], [], COMMAND_S)[0]
    line = client.stdout.readline() if ready else ""
    if not line:
        client.kill()
        reason = "the client ended" if ready else f"no end after {COMMAND_S} s"
        raise Failed(f"openstack {' '.join(arguments)}: {reason}")
    answer = json.loads(line)
    if answer["code"]:
        raise Failed(f"openstack {' '.join(arguments)}: {(answer['err'] or answer['out']).strip()}")
    return answer["out"]


def read(*arguments: str, cloud: str = "kumo"):
    """The JSON that a command prints."""
    return json.loads(openstack(*arguments, "-f", "json", cloud=cloud, show=False))


def names(*arguments: str, cloud: str = "kumo") -> set[str]:
    """The names that a list command prints."""
    return {row["Name"] for row in read(*arguments, cloud=cloud)}


def wait(seconds: float, look, every: float = 1.0):
    """What ``look`` returns once it is true; None after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(every)


def make_image_and_flavor() -> None:
    """The guest image that the role guest_image built, and a flavor that fits it, for every project."""
    about = json.loads((GUEST_IMAGE / "kumo-guest.json").read_text())
    if IMAGE not in names("image", "list", "--name", IMAGE, cloud="kumo-admin"):
        openstack(
            *("image", "create", "--file", str(GUEST_IMAGE / "kumo-guest.qcow2"), "--disk-format", "qcow2"),
            *("--container-format", "bare", "--public", "--min-ram", str(about.get("min_ram_mb", 64))),
            *("--property", f"os_admin_user={about.get('login_user', 'cirros')}", IMAGE),
            cloud="kumo-admin",
        )
    if FLAVOR not in names("flavor", "list", cloud="kumo-admin"):
        openstack(
            "flavor", "create", "--ram", "192", "--disk", "1", "--vcpus", "1", "--public", FLAVOR, cloud="kumo-admin"
        )


def make_key() -> None:
    """A key pair of the first session's own; the private half stays in STATE."""
    private = STATE / "id_ed25519"
    if not private.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "kumo-first-server", "-f", str(private)], check=True
        )
    if KEY not in names("keypair", "list"):
        openstack("keypair", "create", "--public-key", f"{private}.pub", KEY)


def make_network() -> None:
    """A network with a subnet, a router between it and the external network, and rules for ssh and ping."""
    if NETWORK not in names("network", "list", "--internal"):
        openstack("network", "create", NETWORK)
    subnets = names("subnet", "list")
    if f"{NETWORK}-subnet" not in subnets:
        openstack("subnet", "create", "--network", NETWORK, "--subnet-range", SUBNET_RANGE, f"{NETWORK}-subnet")
    if ROUTER not in names("router", "list"):
        openstack("router", "create", ROUTER)
    router = read("router", "show", ROUTER)
    if not router.get("external_gateway_info"):
        openstack("router", "set", "--external-gateway", PUBLIC, ROUTER)
    if not router.get("interfaces_info"):
        openstack("router", "add", "subnet", ROUTER, f"{NETWORK}-subnet")
    if GROUP not in names("security", "group", "list"):
        openstack("security", "group", "create", GROUP)
    rules = read("security", "group", "rule", "list", GROUP)
    have = {(rule.get("IP Protocol"), rule.get("Direction", "ingress")) for rule in rules}
    if ("tcp", "ingress") not in have:
        openstack("security", "group", "rule", "create", "--protocol", "tcp", "--dst-port", "22", GROUP)
    if ("icmp", "ingress") not in have:
        openstack("security", "group", "rule", "create", "--protocol", "icmp", GROUP)


def make_server() -> None:
    """The server, waited for until it is ACTIVE."""
    openstack(
        *("server", "create", "--image", IMAGE, "--flavor", FLAVOR, "--network", NETWORK, "--key-name", KEY),
        *("--security-group", GROUP, "--wait", SERVER),
    )
    (STATE / "known_hosts").unlink(missing_ok=True)


def make_address() -> None:
    """A floating address on the server."""
    free = [row for row in read("floating", "ip", "list") if not row["Port"]]
    address = (
        free[0]["Floating IP Address"] if free else read("floating", "ip", "create", PUBLIC)["floating_ip_address"]
    )
    openstack("server", "add", "floating", "ip", SERVER, address)


def choose_floating(addresses: dict[str, list[str]]) -> str | None:
    """The floating address of a server: the last of its network's addresses that is not in SUBNET_RANGE."""
    prefix = SUBNET_RANGE.rsplit(".", 1)[0] + "."
    outside = [text for texts in addresses.values() for text in texts if not text.startswith(prefix) and "." in text]
    return outside[-1] if outside else None


def ping(address: str) -> bool:
    """Whether one packet comes back."""
    return subprocess.run(["ping", "-c", "1", "-W", "2", address], capture_output=True, check=False).returncode == 0


def login(user: str, address: str, command: str) -> str | None:
    """What ``command`` prints on the server; None where ssh does not get there yet."""
    done = subprocess.run(
        ["ssh", "-F", "none", "-i", str(STATE / "id_ed25519"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        + ["-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={STATE / 'known_hosts'}"]
        + ["-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR", f"{user}@{address}", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout.strip() if done.returncode == 0 else None


def read_server() -> dict | None:
    """The first server, or None."""
    if SERVER not in names("server", "list", "--name", f"^{SERVER}$"):
        return None
    return read("server", "show", SERVER)


def check_running(server: dict) -> dict:
    """The server, ACTIVE: started where it was off. Failed where it cannot be."""
    if server["status"] == "SHUTOFF":
        openstack("server", "start", SERVER)

    def look():
        now = read("server", "show", SERVER)
        return now if now["status"] in ("ACTIVE", "ERROR") else None

    found = server if server["status"] == "ACTIVE" else wait(120, look)
    if not found or found["status"] != "ACTIVE":
        shown = found or server
        fault = (shown.get("fault") or {}).get("message", "no fault was recorded")
        raise Failed(
            f"the server {SERVER} is {shown['status']} ({fault}); "
            f"`openstack --os-cloud kumo server delete {SERVER}` and run ./stack.sh again"
        )
    return found


def main() -> int:
    """Make what is missing, then show that the server answers."""
    if sys.argv[1:2] == ["--client"]:
        serve_client(sys.argv[2])
        return 0
    for name in [name for name in os.environ if name.startswith("OS_")]:
        del os.environ[name]
    os.environ["OS_CLIENT_CONFIG_FILE"] = "/etc/openstack/clouds.yaml"
    STATE.mkdir(mode=0o700, exist_ok=True)
    STATE.chmod(0o700)
    try:
        server = read_server()
        if MADE.exists() and server is None:
            say(f"the server {SERVER} was made by an earlier run and removed since: left out")
            return 0
        fresh = not MADE.exists()
        if fresh:
            make_image_and_flavor()
            make_key()
            make_network()
            if server is None:
                make_server()
                server = read_server()
        server = check_running(server)
        address = choose_floating(server["addresses"])
        if address is None:
            make_address()
            address = choose_floating(read_server()["addresses"])
        if address is None:
            raise Failed(f"the server {SERVER} has no floating address")
        about = json.loads((GUEST_IMAGE / "kumo-guest.json").read_text())
        user = about.get("login_user", "cirros")
        say(f"$ ping {address}")
        if not wait(PING_S, lambda: ping(address)):
            raise Failed(f"{address} does not answer ping after {PING_S} s")
        say(f"{address} answers ping")
        say(f"$ ssh -i {STATE}/id_ed25519 {user}@{address} 'uname -a; uptime; sudo id -un'")
        said = wait(LOGIN_S, lambda: login(user, address, "uname -a; uptime; sudo id -un"))
        if said is None:
            raise Failed(f"ssh to {user}@{address} did not work within {LOGIN_S} s")
        for line in said.splitlines():
            say(f"  {line}")
        if fresh:
            say(f"$ openstack --os-cloud kumo console log show {SERVER}")
            log = wait(CONSOLE_S, lambda: openstack("console", "log", "show", SERVER, show=False).strip())
            if not log:
                raise Failed(f"the console of {SERVER} shows nothing")
            for line in log.splitlines()[-15:]:
                say(f"  {line.rstrip()}")
        MADE.touch()
        say(f"the server {SERVER} answers: ssh -i {STATE}/id_ed25519 {user}@{address}")
    except Failed as error:
        print(f"first_server: {error}", file=sys.stderr)
        return 1
    finally:
        for client in CLIENTS.values():
            client.stdin.close()
            client.wait(timeout=30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
