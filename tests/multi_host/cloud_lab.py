"""A cloud on the hosts of a lab, as its operator and its users have it: ssh to hosts, `openstack`, `kumo`, guests.

Owns: how commands get there. May not: use Kumo's own modules or database. For every test on real hosts; the
fixtures `lab` and `tenant` of conftest.py are made of it. Needs `molecule/hosts/lab.py run SCENARIO_DIR -- pytest …`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule"))

from hosts.inventory import Host, read_lab  # noqa: E402

OPENSTACK = Path(sys.executable).parent / "openstack"
IMAGE, FLAVOR = "kumo-guest", "m1.micro"
GUEST_IMAGE = "/var/lib/kumo/guest-image"
KUMO = "/opt/kumo/venv/bin/kumo"


class CommandFailed(AssertionError):
    """A command on a host, or of the client, ended otherwise than the test said; ``output`` is what it printed."""

    def __init__(self, words: str, code: int, output: str):
        super().__init__(f"{words}: {code}\n{output[-3000:]}")
        self.code, self.output = code, output


def wait_for(what: str, condition, seconds: float = 120, pause: float = 0.5):
    """The first true value of ``condition``; a failed test that says what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(pause)


@dataclass
class CloudLab:
    """The lab whose namespace this process is in."""

    folder: Path = field(default_factory=lambda: Path(os.environ["KUMO_LAB_FOLDER"]))

    def __post_init__(self):
        self.lab = read_lab(Path(os.environ["KUMO_LAB_SCENARIO"]))
        self.hosts: dict[str, Host] = self.lab.hosts
        self.inventory = self.lab.scenario / "hosts.yml"
        self.groups = self._read_groups()
        self.controller = next(iter(self.groups.get("controllers", [])), None)

    def _read_groups(self) -> dict[str, list[str]]:
        done = subprocess.run(
            [Path(sys.executable).parent / "ansible-inventory", "-i", self.inventory, "--list"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return {
            name: sorted(group.get("hosts", [])) for name, group in json.loads(done.stdout).items() if name[0] != "_"
        }

    def ssh(self, host: str, user: str = "admin", shared: bool = True) -> list[str]:
        """The ssh command to a host; further connections share the first, unless they are to be of their own."""
        options = [
            "BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=10", "LogLevel=ERROR",
            f"UserKnownHostsFile={self.lab.known_hosts}",
        ]  # fmt: skip
        if shared:
            options += ["ControlMaster=auto", "ControlPersist=120", f"ControlPath={self.folder}/control-%r@%h"]
        words = [word for option in options for word in ("-o", option)]
        return ["ssh", "-F", "/dev/null", "-i", str(self.lab.key), *words, f"{user}@{self.hosts[host].address}"]

    def run(self, host: str, command: str, *, root: bool = False, user: str | None = None, code: int | None = 0,
            input: str = "", timeout: float = 120, both: bool = True, shared: bool = True) -> str:  # fmt: skip
        """What a shell command prints on a host: as the operator, as root, or as another account there by sudo.

        Both outputs where ``code`` is another than 0, unless ``both`` is false; any status is taken where it is None.
        """
        account = "root" if root else user
        if account:
            command = f"sudo -n -u {account} -- /bin/sh -c {shlex.quote(command)}"
        done = subprocess.run(
            [*self.ssh(host, shared=shared), command],
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if code is not None and done.returncode != code:
            raise CommandFailed(f"{host}: {command}", done.returncode, done.stdout + done.stderr)
        return done.stdout if code == 0 or not both else done.stdout + done.stderr

    def openstack(self, words: str, cloud: str = "kumo-admin", code: int | None = 0, timeout: float = 240) -> str:
        """What one command of the unmodified client prints; both outputs where it is to fail.

        Clouds: kumo-admin, and kumo (a member of the project demo).
        """
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        environment.update(OS_CLOUD=cloud, OS_CLIENT_CONFIG_FILE=str(self.write_clouds()))
        done = subprocess.run(
            [OPENSTACK, *shlex.split(words)], env=environment, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if code is not None and done.returncode != code:
            raise CommandFailed(f"openstack {words}", done.returncode, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stdout + done.stderr

    def ask(self, words: str, cloud: str = "kumo-admin", **options):
        """What a command of the client answers, parsed."""
        return json.loads(self.openstack(f"{words} -f json", cloud, **options))

    def write_clouds(self) -> Path:
        """clouds.yaml of the lab, with the first passwords of the controller; made once, root's alone."""
        path = self.folder / "clouds.yaml"
        if not path.exists():
            text = self.run(self.controller, "cat /etc/kumo/passwords", root=True)
            passwords = dict(line.split(" = ") for line in text.splitlines() if " = " in line)
            url = f"http://{self.hosts[self.controller].address}:6780/identity/v3"
            clouds = {
                name: {
                    "auth": {
                        "auth_url": url, "username": user, "password": passwords[user], "project_name": user,
                        "user_domain_id": "default", "project_domain_id": "default",
                    },
                    "region_name": "RegionOne", "identity_api_version": 3,
                }
                for name, user in (("kumo", "demo"), ("kumo-admin", "admin"))
            }  # fmt: skip
            partial = path.with_suffix(".partial")
            partial.touch(mode=0o600)
            partial.write_text(json.dumps({"clouds": clouds}))  # JSON is YAML
            partial.rename(path)
        return path

    def kumo(self, words: str, code: int | None = 0, timeout: float = 240) -> str:
        """What the operator's command `kumo` prints on the controller, as the services' account."""
        return self.run(self.controller, f"cd / && {KUMO} {words}", user="kumo", code=code, timeout=timeout)

    def find_host(self, server: str) -> str:
        """The hypervisor that a server is on."""
        return self.ask(f"server show {server}")["OS-EXT-SRV-ATTR:host"]

    def find_namespace(self, network: str) -> str:
        """The namespace that serves a network, by the same name on each hypervisor: its router's, else its own."""
        ports = self.ask(f"port list --network {network} --device-owner network:router_interface --long")
        if ports:
            return f"kumo-r-{self.ask('port show ' + ports[0]['ID'], 'kumo-admin')['device_id']}"
        return f"kumo-n-{self.ask('network show ' + network, 'kumo-admin')['id']}"

    def guest(
        self, server: str, network: str, command: str, key: Path, code: int | None = 0, timeout: float = 60
    ) -> str:
        """What a command prints in a guest, by ssh from the namespace of its network on its own hypervisor."""
        addresses = self.ask(f"server show {server}")["addresses"][network]
        address = next(text for text in addresses if "." in text)
        hop = f"sudo -n ip netns exec {self.find_namespace(network)} busybox nc {address} 22"
        # The outer ssh would put its own host and account for the inner one's %r and %h.
        proxy = shlex.join([*self.ssh(self.find_host(server)), hop]).replace("%", "%%")
        done = subprocess.run(
            ["ssh", "-F", "/dev/null", "-i", str(key), "-o", f"ProxyCommand={proxy}", "-o", "BatchMode=yes",
             "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
             "-o", "ConnectTimeout=15", f"cirros@{address}", command],
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if code is not None and done.returncode != code:
            raise CommandFailed(f"guest {server}: {command}", done.returncode, done.stdout + done.stderr)
        return done.stdout

    def wait_for_guest(self, server: str, network: str, key: Path, seconds: float = 180) -> None:
        """Return as soon as somebody can log in to a guest."""

        def answers() -> bool:
            try:
                return self.guest(server, network, "echo ready", key, code=None).strip() == "ready"
            except subprocess.TimeoutExpired:
                return False

        wait_for(f"ssh to {server}", answers, seconds, pause=1)
