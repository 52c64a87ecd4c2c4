"""Requests a second and the slowest of them, through gunicorn and sockets; tokens beside the hash that they need.

An API process as ./stack.sh configures it, over rows of its own. "On one core" is that it may use one and the
clients the others; else all share all. A part of `bench/run`; wants no cloud.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import statistics
import sys
import threading
import time
from dataclasses import dataclass

from .figures import Figure, format_quantity
from .rows import PASSWORD, serve_rows

VERSION = {"OpenStack-API-Version": "compute 2.90"}
DETAIL, FLAVORS, TOKENS = "/compute/v2.1/servers/detail", "/compute/v2.1/flavors", "/identity/v3/auth/tokens"
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
SERVER = b'"OS-EXT-STS:vm_state"'
SECONDS_A_ROUND = 2.0
CORES = os.sched_getaffinity(0)
LOGIN = json.dumps(
    {
        "auth": {
            "identity": {
                "methods": ["password"],
                "password": {"user": {"name": "demo", "domain": {"id": "default"}, "password": PASSWORD}},
            },
            "scope": {"project": {"name": "demo", "domain": {"id": "default"}}},
        }
    }
)


@dataclass(frozen=True)
class Load:
    """What clients saw who asked one after the other: requests a second, and each one's seconds in order of size."""

    rate: float
    seconds: list[float]

    def find_percentile(self, percent: float) -> float:
        """Seconds within which that share of them was answered."""
        return self.seconds[min(len(self.seconds) - 1, int(len(self.seconds) * percent / 100))]


class Client:
    """One kept connection that asks for the same again and again; a bare socket, for it shares the machine."""

    def __init__(self, port: int, path: str, headers: dict, body: str):
        fields = {"Host": f"127.0.0.1:{port}", "Accept": "application/json", **headers}
        if body:
            fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [
            f"{'POST' if body else 'GET'} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in fields.items()),
        ]
        self.request = ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)

    def ask(self, mark: bytes, count: int) -> None:
        """One request and its whole answer; ValueError where it is no success or has not ``mark`` so often."""
        self.socket.sendall(self.request)
        got = bytearray()
        while b"\r\n\r\n" not in got:
            self._receive(got)
        head, _, _ = bytes(got).partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        while length and len(got) < len(head) + 4 + int(length[1]):
            self._receive(got)
        if not length or head[9:11] != b"20" or (mark and got.count(mark) != count):
            raise ValueError(f"unexpected answer {bytes(got[:400])!r}")

    def _receive(self, got: bytearray) -> None:
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ValueError(f"the connection ended after {bytes(got[:400])!r}")
        got += piece


def ask(
    port: int, clients: int, seconds: float, path: str, headers: dict, body: str = "", mark: bytes = b"", count: int = 0
) -> Load:
    """That many clients for so long, each over a connection of its own; the first answer of each does not count.

    Every answer must have ``mark`` ``count`` times, once for each of its objects; SystemExit where one has not.
    """
    taken: list[list[float]] = [[] for _ in range(clients)]
    wrong: list[str] = []
    ready = threading.Barrier(clients + 1)
    ended = threading.Event()

    def work(mine: list[float]) -> None:
        try:
            client = Client(port, path, headers, body)
            with client.socket:
                client.ask(mark, count)
                ready.wait(60)
                while not ended.is_set():
                    began = time.perf_counter()
                    client.ask(mark, count)
                    mine.append(time.perf_counter() - began)
        except threading.BrokenBarrierError:
            pass  # another one has said why
        except (OSError, ValueError) as error:
            wrong.append(f"{path}: {error}")
            ready.abort()
            ended.set()

    threads = [threading.Thread(target=work, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait(60)
    started = time.perf_counter()
    ended.wait(seconds)
    ended.set()
    for thread in threads:
        thread.join()
    if wrong or not all(taken):
        raise SystemExit(wrong[0] if wrong else f"{path}: not one answer for each client")
    rate = sum(map(len, taken)) / (time.perf_counter() - started)
    return Load(rate, sorted(itertools.chain(*taken)))


def measure_hash(rounds: int) -> float:
    """Median seconds of the check of a password's hash, in this process alone."""
    from web.auth import check_password, hash_password
    from web.settings import build_settings

    hashed = hash_password(PASSWORD, build_settings().identity.password_rounds)
    taken = []
    for _ in range(rounds * 4):
        began = time.perf_counter()
        assert check_password(PASSWORD, hashed)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure_small(seconds: float, rounds: int) -> list[Figure]:
    """On one core, over ten servers: lists of servers and of flavors, and tokens, each for 1 and 16 clients."""
    figures = []
    api, ours = {min(CORES)}, CORES - {min(CORES)} or CORES
    os.sched_setaffinity(0, ours)
    with serve_rows(servers=10, cores=api) as (port, token):
        headers = {"X-Auth-Token": token, **VERSION}
        for title, path, mark, count, least, others in (
            ("GET /servers/detail, 10 servers", DETAIL, SERVER, 10, 200, ("4.7", "11.6")),
            ("GET /flavors", FLAVORS, b"", 0, 600, ("88", "180")),
        ):
            for clients, other in zip((1, 16), others, strict=True):
                print(f"  {title}, clients: {clients}", file=sys.stderr, flush=True)
                rate = ask(port, clients, seconds, path, headers, mark=mark, count=count).rate
                name = f"{title}, on one core, clients: {clients}"
                figures.append(Figure(name, rate, "requests/s", f"{other} requests/s", least=least))
        hashed = measure_hash(rounds)
        for clients in (1, 16):
            print(f"  POST /auth/tokens, clients: {clients}", file=sys.stderr, flush=True)
            rate = ask(port, clients, seconds, TOKENS, {}, LOGIN).rate
            figures.append(
                Figure(
                    f"POST /auth/tokens, on one core, clients: {clients}", rate, "requests/s", "3.1 requests/s",
                    ratio=1 / rate / hashed, ratio_most=1.1,
                    of=f"the hash alone ({format_quantity(hashed, 's')}), in seconds a request",
                )
            )  # fmt: skip
    os.sched_setaffinity(0, CORES)
    return figures


def measure_large(seconds: float) -> list[Figure]:
    """On all cores, over a hundred servers: what 1 and 16 clients get, and how long the slowest of 16 waits."""
    with serve_rows(servers=100, cores=CORES) as (port, token):
        figures = []
        for clients in (1, 16):
            print(f"  GET /servers/detail, 100 servers, clients: {clients}", file=sys.stderr, flush=True)
            load = ask(port, clients, seconds, DETAIL, {"X-Auth-Token": token, **VERSION}, mark=SERVER, count=100)
            name = f"GET /servers/detail, 100 servers, clients: {clients}"
            figures.append(Figure(name, load.rate, "requests/s"))
        slowest = load.find_percentile(99) * 1000
        return [*figures, Figure(f"{name}, p99 of {len(load.seconds)}", slowest, "ms", most=400.0)]


def measure(rounds: int) -> list[Figure]:
    """The part's figures."""
    seconds = SECONDS_A_ROUND * rounds
    return [*measure_small(seconds, rounds), *measure_large(seconds)]
