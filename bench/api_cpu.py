"""What a request costs the API in CPU: the WSGI application called in this process, over rows without hosts.

CPU time, not wall time: to be had on a machine that others load, too. No socket and no gunicorn, which a real request
pays as well (`rates.py` has both). A part of `bench/run`; wants no cloud.
"""

from __future__ import annotations

import cProfile
import gc
import io
import pstats
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, event

from web.app import create_app
from web.auth import TokenKeys, read_token
from web.models import Database
from web.settings import load_settings

from .figures import Figure
from .rows import fill, write_config

SERVERS, MANY = 100, 1000
REQUESTS_A_ROUND = 20
SERVER = "/compute/v2.1/servers"
REQUESTS = (  # title, path, query, aim in ms of CPU, OpenStack's
    ("GET one server", SERVER + "/{server}", "", 4.0, "148 ms"),
    (f"GET /servers/detail, {SERVERS} servers", SERVER + "/detail", "", 16.0, "800 ms"),
    ("GET /servers/detail, 10 servers", SERVER + "/detail", "limit=10", 5.0, ""),
    ("GET /flavors", "/compute/v2.1/flavors", "", 1.6, ""),
)
TOKEN_AIM_MS = 1.0
PLACE = re.compile(r".*(?:site-packages|python3[.\d]*|(?=/web))/(\w+)")  # the last folder of packages in a path


def build_environ(path: str, query: str, token: str) -> dict:
    """What gunicorn hands to the application for a GET."""
    return {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, "SCRIPT_NAME": "",
        "REMOTE_ADDR": "127.0.0.1", "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "6780", "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1:6780", "HTTP_X_AUTH_TOKEN": token, "HTTP_ACCEPT": "application/json",
        "HTTP_OPENSTACK_API_VERSION": "compute 2.90",
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr,
        "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False,
    }  # fmt: skip


def call(app, path: str, query: str, token: str) -> bytes:
    """The body of the answer; RuntimeError where it is no 200."""
    seen = []
    answer = app(build_environ(path, query, token), lambda status, headers, error=None: seen.append(status))
    try:
        body = b"".join(answer)
    finally:
        getattr(answer, "close", lambda: None)()
    if not seen[0].startswith("200"):
        raise RuntimeError(f"{path}: {seen[0]} {body[:300]!r}")
    return body


def measure_step(step, rounds: int) -> float:
    """Median milliseconds of CPU that one step takes, after some that fill what is filled once."""
    for _ in range(10):
        step()
    taken = []
    for _ in range(rounds * REQUESTS_A_ROUND):
        began = time.process_time()
        step()
        taken.append((time.process_time() - began) * 1000)
    return statistics.median(taken)


def build_profile(step, times: int = 50) -> str:
    """Where a step's CPU goes: shares of packages, and the ten functions with the most of their own."""
    profile = cProfile.Profile(time.process_time, builtins=False)  # C functions count as their callers
    profile.enable()
    for _ in range(times):
        step()
    profile.disable()
    packages, functions = Counter(), Counter()
    for (path, line, name), (_, _, own, _, _) in pstats.Stats(profile).stats.items():
        match = PLACE.match(path)
        packages[match[1] if match else "others"] += own
        functions[f"{path[match.start(1) :] if match else path}:{line} {name}"] += own
    total = sum(packages.values()) or 1
    lines = [f"{100 * own / total:5.1f} %  {name}" for name, own in packages.most_common(7)]
    return "\n".join([*lines, "", *(f"{100 * own / total:5.1f} %  {name}" for name, own in functions.most_common(10))])


def measure_requests(folder: Path, rounds: int) -> list[Figure]:
    """A token's check and each of REQUESTS, with a profile of what is over its aim."""
    settings = load_settings(str(write_config(folder, 6780)))
    token = fill(settings, SERVERS)
    app, database = create_app(settings), Database(settings.database.url)
    keys = TokenKeys(settings.identity.key_dir)
    server = re.search(rb'"id": ?"([^"]+)"', call(app, SERVER, "limit=1", token))[1].decode()
    gc.collect()
    gc.freeze()  # as web/serve.py does

    def check_token() -> None:
        with database.read() as session:
            read_token(session, keys, token)

    figures = [Figure("a token's check, CPU", measure_step(check_token, rounds), "ms", most=TOKEN_AIM_MS)]
    for title, path, query, aim, others in REQUESTS:
        step = partial(call, app, path.format(server=server), query, token)
        print(f"  {title}", file=sys.stderr, flush=True)
        took = measure_step(step, rounds)
        profile = build_profile(step) if took > aim else ""
        figures.append(Figure(f"{title}, CPU", took, "ms", others, most=aim, profile=profile))
    database.engine.dispose()
    return figures


def count_statements(step) -> int:
    """How many statements a step sends to the database."""
    seen = []

    def note(connection, cursor, statement, *_) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        step()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return len(seen)


def measure_statements(folder: Path) -> Figure:
    """Those of a list of 1,000 servers, beside one of ten: their number must not grow with the list."""
    print(f"  statements for {MANY} servers", file=sys.stderr, flush=True)
    settings = load_settings(str(write_config(folder, 6780)))
    token = fill(settings, MANY)
    app = create_app(settings)
    counted = []
    for limit in (10, MANY):
        call(app, SERVER + "/detail", f"limit={limit}", token)  # what is looked up once
        counted.append(count_statements(partial(call, app, SERVER + "/detail", f"limit={limit}", token)))
    few, many = counted
    return Figure(
        f"GET /servers/detail, {MANY:,} servers, statements", many, "",
        ratio=many / few, of=f"those for 10 servers, {few}", ratio_most=1.0,
    )  # fmt: skip


def measure(rounds: int) -> list[Figure]:
    """The part's figures."""
    with (
        tempfile.TemporaryDirectory(prefix="kumo-bench-") as first,
        tempfile.TemporaryDirectory(prefix="kumo-bench-") as second,
    ):
        return [*measure_requests(Path(first), rounds), measure_statements(Path(second))]
