"""PostgreSQL, RabbitMQ, Redis and Kumo's processes of a test: started, killed, stopped, started again."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60
LEASE_S = 6
GONE_S = 12  # a look by the timer (3 s), a run, and what a busy machine adds


def wait_for(what: str, condition, seconds: float = PATIENCE_S):
    """The first value of ``condition()`` that is true."""
    until = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def spawn(command: list[str], log: Path, environment: dict, user: str | None = None) -> subprocess.Popen:
    """A process in a session of its own, which ends with this one even where this one is killed."""
    become = [f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
    with open(log, "ab") as output:
        return subprocess.Popen(
            ["/usr/bin/setpriv", *become, "--pdeathsig", "KILL", "--", *command],
            env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def end(process: subprocess.Popen | None) -> None:
    """Kill a process that was started in a session of its own, with what it started in it."""
    if process is not None and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class PostgreSQL:
    """A server of the test's own, at a port of loopback: what a stopped one leaves is refused connections."""

    def __init__(self, folder: Path):
        self.folder, self.port, self.process = folder, find_port(), None
        self.bin = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        folder.mkdir()
        shutil.chown(folder, "postgres")
        made = self._spawn("initdb", "-A", "trust", "--no-sync")
        assert made.wait(PATIENCE_S) == 0, (folder.parent / "postgresql.log").read_text()
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"
        self.engine = create_engine(self.url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
        self.start()

    def _spawn(self, program: str, *words: str) -> subprocess.Popen:
        command = [str(self.bin / program), "-D", f"{self.folder}/data", *words]
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        return spawn(command, self.folder.parent / "postgresql.log", environment, "postgres")

    def start(self) -> None:
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", "fsync=off")
        options = [word for setting in settings for word in ("-c", setting)]
        self.process = self._spawn("postgres", "-p", str(self.port), *options)

        def is_ready() -> bool:
            try:
                return bool(self.read("select 1"))
            except OperationalError:
                return False

        wait_for("PostgreSQL", is_ready)

    def stop(self) -> None:
        """As a crash: no connection is waited for."""
        os.kill(self.process.pid, signal.SIGQUIT)
        self.process.wait(PATIENCE_S)

    def read(self, sql: str, **values) -> list:
        with self.engine.connect() as connection:
            return connection.execute(text(sql), values).all()

    def close(self) -> None:
        self.engine.dispose()
        if self.process.poll() is None:
            self.stop()


class RabbitMQ:
    """Debian's, with an epmd of its own, so that nothing is left behind."""

    def __init__(self, folder: Path):
        self.port, self.epmd_port, distribution = find_port(), find_port(), find_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        folder.mkdir()
        self.folder, self.process = folder, None
        self.environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"kumo{os.getpid()}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
        }
        self.epmd = self._start("epmd")
        wait_for("epmd", lambda: listens(self.epmd_port))
        self.start()

    def _start(self, *command: str) -> subprocess.Popen:
        return spawn(list(command), self.folder / "output.log", self.environment)

    def start(self) -> None:
        self.process = self._start("/usr/lib/rabbitmq/bin/rabbitmq-server")
        wait_for("RabbitMQ", lambda: listens(self.port))

    def kill(self) -> None:
        end(self.process)

    def list_queues(self) -> set[str]:
        command = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", "list_queues", "name", "--no-table-headers"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=True)
        return set(done.stdout.split())

    def close(self) -> None:
        self.kill()
        end(self.epmd)


class Redis:
    """Debian's, in memory alone."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder, self.port, self.process = folder, find_port(), None
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        self.process = spawn(["redis-server", *words], self.folder / "output.log", environment)
        wait_for("Redis", lambda: listens(self.port))

    def kill(self) -> None:
        end(self.process)

    def list_queues(self) -> set[str]:
        """The queues that consumers have bound."""
        import redis

        with redis.Redis(port=self.port) as client:
            return {member.decode().split("\x06\x16")[-1] for member in client.smembers("_kombu.binding.kumo")}

    def close(self) -> None:
        self.kill()


class Process:
    """One of Kumo's, with its log; ``pid`` is its own, not that of a shell."""

    def __init__(self, cloud: Cloud, name: str, config: Path, *words: str):
        self.cloud, self.name, self.config, self.words = cloud, name, config, words
        self.log = cloud.folder / f"{name}.log"
        self.popen: subprocess.Popen | None = None

    def start(self) -> Process:
        command = [sys.executable, "-m", "web.cli", "--config", str(self.config), *self.words]
        self.popen = spawn(command, self.log, self.cloud.environment)
        return self

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.popen.pid, number)

    def ask_to_end(self) -> None:
        if self.popen is not None and self.popen.poll() is None:
            self.kill(signal.SIGCONT)
            self.kill(signal.SIGTERM)

    def wait(self) -> None:
        """Until it has ended by itself."""
        if self.popen is not None:
            try:
                self.popen.wait(30)
            except subprocess.TimeoutExpired:
                end(self.popen)
                raise

    def read_log(self, begin: int = 0) -> str:
        """What it said from a mark (``mark()``) on."""
        return self.log.read_bytes()[begin:].decode(errors="replace")

    def mark(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0


def end_all(processes: list[Process]) -> None:
    """As a service manager does."""
    for process in processes:
        process.ask_to_end()
    for process in processes:
        process.wait()


class Cloud:
    """Two API processes, three workers, three hosts (two in the zone east, one in west)."""

    HOSTS = {"one": "east", "two": "east", "three": "west"}

    def __init__(self, folder: Path, database: PostgreSQL, broker, storage: dict):
        self.folder, self.database, self.broker, self.storage = folder, database, broker, storage
        self.password = secrets.token_hex(12)
        self.environment = {
            "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), "HOME": str(folder),
        }  # fmt: skip
        self.ports = [find_port(), find_port()]
        self.apis = [
            Process(self, f"api{n}", self._write(f"api{n}", listen=f"127.0.0.1:{port}"), "serve")
            for n, port in enumerate(self.ports)
        ]
        self.workers = [self.build_worker(f"worker{n}") for n in range(3)]
        self.extra: list[Process] = []
        self.token = ""

    def _write(self, name: str, machine: str | None = None, listen: str = "", **worker) -> Path:
        """A kumo.conf; processes of one ``machine`` share its folders."""
        place = self.folder / (machine or name)
        place.mkdir(exist_ok=True)
        options = {"broker": self.broker.url, "lease_s": LEASE_S, "sweep_s": 600, "ssh_dir": f"{place}/ssh"} | worker
        path = self.folder / f"{name}.conf"
        path.write_text(
            f"[kumo]\nstate_dir = {place}\nrun_dir = {place}\nlog_dir =\ndebug = yes\n[policy]\nfile =\n"
            f"[database]\nurl = {self.database.url}\n[identity]\nkey_dir = {self.folder}/keys\npassword_rounds = 4\n"
            + (f"[api]\nlisten = {listen}\nworkers = 1\nthreads = 4\n" if listen else "")
            + "[worker]\n"
            + "".join(f"{option} = {value}\n" for option, value in options.items())
        )
        return path

    def build_worker(self, name: str, machine: str = "workers", **options) -> Process:
        """A worker that is not yet started; by default of the one machine that all workers share."""
        return Process(self, name, self._write(name, machine, **options), "worker")

    def run_kumo(self, *words: str) -> str:
        command = [sys.executable, "-m", "web.cli", "--config", str(self.folder / "worker0.conf"), *words]
        done = subprocess.run(
            command, env=self.environment, cwd="/", capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def begin(self) -> None:
        passwords = self.folder / "passwords"
        passwords.write_text(f"[passwords]\nadmin = {self.password}\ndemo = {self.password}\n")
        self.run_kumo("db", "upgrade")
        self.run_kumo("bootstrap", "--no-hypervisor", "--passwords-file", str(passwords))
        for name, zone in self.HOSTS.items():
            place = self.folder / "hosts" / name
            place.mkdir(parents=True)
            settings = self.folder / f"{name}.yml"
            settings.write_text(json.dumps({"hypervisor": False, "storage": self.storage, "state_dir": str(place)}))
            self.run_kumo(
                "host", "add", name, "--local", "--role", "storage", "--zone", zone, "--settings", str(settings)
            )
        for process in (*self.apis, *self.workers):
            process.start()
        wait_for("the APIs", lambda: all(listens(port) for port in self.ports))
        wait_for("the hosts", lambda: len(self.database.read("select 1 from hosts where observed_generation > 0")) == 3)
        self.login()

    def close(self) -> None:
        end_all([*self.extra, *self.workers, *self.apis])

    # requests

    def call(self, method: str, path: str, body=None, api: int = 0, headers: dict | None = None):
        """(status, body, headers) of a request to an API process."""
        given = {"Content-Type": "application/json", "X-Auth-Token": self.token, **(headers or {})}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.ports[api]}{path}", data, given, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return answer.status, json.loads(answer.read() or b"{}"), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}"), dict(error.headers)

    def login(self) -> None:
        user = {"name": "admin", "domain": {"id": "default"}, "password": self.password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        status, told, headers = self.call("POST", "/identity/v3/auth/tokens", body)
        assert status == 201, told
        self.token = headers["X-Subject-Token"]

    def create_volume(self, api: int = 0, zone: str | None = None, **headers) -> str:
        wanted = {"size": 1} | ({"availability_zone": zone} if zone else {})
        status, told, _ = self.call("POST", "/volume/v3/volumes", {"volume": wanted}, api, headers)
        assert status == 202, told
        return told["volume"]["id"]

    def read_status(self, volume_id: str, api: int = 1) -> str | None:
        status, told, _ = self.call("GET", f"/volume/v3/volumes/{volume_id}", api=api)
        assert status in (200, 404), told
        return told["volume"]["status"] if status == 200 else None

    def wait_for_volumes(self, ids, status: str | None = "available", seconds: float = PATIENCE_S) -> None:
        waiting = set(ids)

        def is_done() -> bool:
            for volume_id in list(waiting):
                if self.read_status(volume_id) == status:
                    waiting.discard(volume_id)
            return not waiting

        wait_for(f"{len(waiting)} volumes to be {status}", is_done, seconds)

    # what is really there

    def list_files(self) -> list[str]:
        """The ids of the volumes whose files the hosts have, each as often as it is there."""
        return sorted(path.stem for path in self.folder.glob("hosts/*/volumes/*.volume"))

    def count_makings(self, volume_id: str) -> int:
        """How often runs of all workers report to have made the volume."""
        rows = self.database.read("select actions from runs")
        return sum(
            action["object_id"] == volume_id and action["section"] == "volumes" and action["verb"].startswith("create")
            for row in rows
            for action in row[0]
        )

    def find_running(self) -> list[tuple[str, Process]]:
        """(run's id, its worker) of the runs that are under way."""
        by_pid = {process.popen.pid: process for process in self.workers if process.popen}
        rows = self.database.read("select id, worker from runs where state = 'running'")
        return [(run, by_pid[int(worker.split(":")[1])]) for run, worker in rows if int(worker.split(":")[1]) in by_pid]

    def remove_volumes(self, ids) -> None:
        for volume_id in ids:
            assert self.call("DELETE", f"/volume/v3/volumes/{volume_id}")[0] == 202
        self.wait_for_volumes(ids, None)
        assert not set(self.list_files()) & set(ids)


def count_messages(log: str) -> int:
    """How many messages of the broker a worker's log tells of."""
    return len(re.findall(r"told that host \S+ is due", log))
