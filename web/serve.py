"""gunicorn in this process: the API at one address, or each service at its own port.

Next room: `app.py`, which it serves.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys

from gunicorn.app.base import BaseApplication

from .app import create_app, find_services


class _Server(BaseApplication):
    """gunicorn with options from `kumo.conf` and none from files or the environment."""

    def __init__(self, make_app, options: dict):
        self.make_app, self.options = make_app, options
        super().__init__()

    def load_config(self):
        for name, value in self.options.items():
            self.cfg.set(name, value)

    def load(self):
        return self.make_app()


def build_options(settings, listen: str) -> dict:
    """gunicorn's options: threads (a long download holds one), keep-alive, graceful stop."""
    options = {
        "bind": listen,
        "workers": settings.api.workers,
        "threads": settings.api.threads,
        "worker_class": "gthread",
        "worker_tmp_dir": "/dev/shm",
        "timeout": 120,
        "graceful_timeout": 10,
        "keepalive": 75,
        "accesslog": "-" if settings.kumo.debug else None,
        "errorlog": "-",
        "loglevel": "info",
        "control_socket_disable": True,
        # The processes share the app's memory: it is made before they are, and kept out of garbage collection's reach,
        # which would write to every page of it. Nobody has a connection to the database yet.
        "preload_app": True,
        "when_ready": lambda server: (gc.collect(), gc.freeze()),
        "proc_name": "kumo-api",
        "limit_request_line": 8190,
    }
    if settings.api.tls_cert:
        options |= {"certfile": settings.api.tls_cert, "keyfile": settings.api.tls_key}
    return options


def serve(settings, services: list[str] | None, config_path: str | None) -> int:
    """Serve until a signal ends it; the exit status."""
    chosen = find_services(services)
    if not settings.api.separate_ports or len(chosen) == 1:
        listen = settings.api.listen
        if settings.api.separate_ports:
            listen = f"{listen.rsplit(':', 1)[0]}:{chosen[0].port}"
        names = [service.name for service in chosen]
        _Server(lambda: create_app(settings, names), build_options(settings, listen)).run()
        return 0
    return _serve_each([service.name for service in chosen], config_path)


def _serve_each(names: list[str], config_path: str | None) -> int:
    """One child a service; the first one to end ends them all."""
    base = [sys.executable, "-m", "web.cli", *(["--config", config_path] if config_path else []), "serve", "--services"]
    children = {subprocess.Popen([*base, name]).pid: name for name in names}

    def end(*_):
        for pid in children:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    pid, status = os.wait()
    children.pop(pid)
    end()
    while children:
        pid, _ = os.wait()
        children.pop(pid)
    return os.waitstatus_to_exitcode(status)
