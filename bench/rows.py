"""An API process over rows made for a benchmark: no host, no worker, in a folder that goes away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import select

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "bench"


def find_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fill(settings, servers: int) -> str:
    """Rows of ``servers`` built servers of the demo project, each with a port; a token for them."""
    from web.auth import TokenKeys, issue_token
    from web.bootstrap import apply_bootstrap
    from web.migrations import upgrade
    from web.models import Address, Database, Host, Image, Network, Port, Project, Server, Subnet, User, now
    from web.reconcile.status import refresh_status

    Path(settings.kumo.state_dir).mkdir(parents=True, exist_ok=True)
    upgrade(settings.database.url)
    database = Database(settings.database.url)
    with database.write.begin() as session:
        apply_bootstrap(session, settings, {"admin": PASSWORD, "demo": PASSWORD})
        session.flush()
        project = session.scalar(select(Project).where(Project.name == "demo"))
        user = session.scalar(select(User).where(User.name == "demo"))
        host = session.scalar(select(Host))
        network = Network(project_id=project.id, name="private", zone=2)
        image = Image(name="image", status="active", project_id=project.id)
        session.add_all([network, image])
        session.flush()
        subnet = Subnet(project_id=project.id, network_id=network.id, ip_version=4, cidr="10.0.0.0/16")
        session.add(subnet)
        session.flush()
        for number in range(servers):
            server = Server(
                project_id=project.id, user_id=user.id, reservation_id="r-bench", name=f"s{number}",
                hostname=f"s{number}", flavor_id="1", image_id=image.id, host_id=host.id, observed_state="running",
                built_at=now(), power="on",
                flavor={
                    "name": "m1.tiny", "vcpus": 1, "ram_mb": 64, "disk_gb": 1, "ephemeral_gb": 0, "swap_mb": 0,
                    "extra_specs": {},
                },
                reboot_wanted=0, observed_reboot_done=0, start_wanted=0, observed_start_done=0,
            )  # fmt: skip
            session.add(server)
            session.flush()
            refresh_status(server)
            port = Port(
                project_id=project.id, network_id=network.id, device_id=server.id, device_owner="compute:nova",
                mac_address=f"fa:16:3e:00:{number // 256:02x}:{number % 256:02x}", host_id=host.id,
            )  # fmt: skip
            session.add(port)
            session.flush()
            session.add(
                Address(port_id=port.id, subnet_id=subnet.id, address=f"10.0.{1 + number // 250}.{1 + number % 250}")
            )
        token, _ = issue_token(
            session, TokenKeys(settings.identity.key_dir), user.id, "project", project.id, ["password"], 3600
        )
    database.engine.dispose()
    return token


def wait_until_served(port: int) -> None:
    """Until something listens at the port, for half a minute at most."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        time.sleep(0.1)


def read_gunicorn(path: str = "/etc/kumo/kumo.conf") -> tuple[int, int]:
    """(processes, threads of each) that ./stack.sh gave the API here; Kumo's defaults where there is no cloud."""
    from web.settings import build_settings, load_settings

    settings = load_settings(path) if os.access(path, os.R_OK) else build_settings()
    return settings.api.workers, settings.api.threads


def write_config(folder: Path, port: int, workers: int = 1, threads: int = 4) -> Path:
    """The settings of an API at that port, with all that it keeps in the folder; passwords cost what is usual."""
    config = folder / "kumo.conf"
    config.write_text(
        f"[kumo]\nstate_dir = {folder}/state\nrun_dir = {folder}/run\nlog_dir =\n"
        f"[database]\nurl = sqlite:///{folder}/state/kumo.db\n"
        f"[api]\nlisten = 127.0.0.1:{port}\nworkers = {workers}\nthreads = {threads}\n"
        f"[identity]\nkey_dir = {folder}/keys\n"
        f"[policy]\nfile =\n"
    )
    return config


@contextlib.contextmanager
def serve_rows(servers: int, cores: set[int]):
    """(port, token) of an API as ./stack.sh configures it, on those cores, over so many servers; gone afterwards."""
    from web.settings import load_settings

    with tempfile.TemporaryDirectory(prefix="kumo-bench-") as folder:
        port = find_port()
        config = write_config(Path(folder), port, *read_gunicorn())
        token = fill(load_settings(str(config)), servers)
        process = subprocess.Popen(
            [sys.executable, "-m", "web.cli", "--config", str(config), "serve"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        os.sched_setaffinity(process.pid, cores)  # before gunicorn has made its processes, which get the same
        try:
            wait_until_served(port)
            yield port, token
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
