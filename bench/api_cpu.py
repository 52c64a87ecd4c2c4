"""What a request costs the API in CPU: the WSGI application called in this process, over rows without hosts.

CPU time, not wall time: to be had on a machine that others load, too. No socket and no gunicorn, which a real request
pays as well (`bench/foundation.py` has rates through both).

    .venv/bin/python bench/api_cpu.py [--rounds 60] [--profile TITLE]
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import io
import pstats
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from bench.rows import fill, write_config  # noqa: E402
from web.app import create_app  # noqa: E402
from web.auth import TokenKeys, read_token  # noqa: E402
from web.models import Database  # noqa: E402
from web.settings import load_settings  # noqa: E402

SERVERS = 100
SERVER = "/compute/v2.1/servers"
REQUESTS = (  # title, path, query, aim in ms of CPU
    ("GET one server", SERVER + "/{server}", "", 4.0),
    (f"GET /servers/detail, {SERVERS} servers", SERVER + "/detail", "", 16.0),
    ("GET /servers/detail, 10 servers", SERVER + "/detail", "limit=10", 5.0),
    ("GET /flavors", "/compute/v2.1/flavors", "", 1.6),
)
TOKEN_AIM_MS = 1.0


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


def measure(step, rounds: int) -> float:
    """Median milliseconds of CPU that one step takes, after some that fill what is filled once."""
    for _ in range(10):
        step()
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        step()
        taken.append((time.process_time() - began) * 1000)
    return statistics.median(taken)


def measure_all(folder: Path, rounds: int, only: str | None) -> list[tuple[str, float, float]]:
    """[(title, median ms of CPU, aim)]; with ``only``, a profile of the requests whose title has it is printed."""
    settings = load_settings(str(write_config(folder, 6780)))
    token = fill(settings, SERVERS)
    app, database = create_app(settings), Database(settings.database.url)
    keys = TokenKeys(settings.identity.key_dir)
    found = call(app, SERVER, "limit=1", token).decode()
    server = found.split('"id": "')[1].split('"')[0]
    gc.collect()
    gc.freeze()  # as web/serve.py does

    def check_token() -> None:
        with database.read() as session:
            read_token(session, keys, token)

    measured = [("a token's check", measure(check_token, rounds), TOKEN_AIM_MS)]
    for title, path, query, aim in REQUESTS:
        path = path.format(server=server)
        measured.append((title, measure(lambda p=path, q=query: call(app, p, q, token), rounds), aim))
        if only and only in title:
            profile = cProfile.Profile()
            profile.enable()
            for _ in range(rounds):
                call(app, path, query, token)
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--profile", metavar="TITLE", help="print a profile of the requests whose title has this, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kumo-api-cpu-") as folder:
        for title, took, aim in measure_all(Path(folder), args.rounds, args.profile):
            print(f"{title:<40} {took:7.2f} ms of CPU   (aim: {aim:.1f}{'' if took <= aim else ', missed'})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
