"""A warm ansible-playbook: one process that has imported all of Ansible, and a fork of it for each run.

A cold `ansible-playbook` spends about a second on imports and on plugins' documentation before it does anything. This
process spends it once, and never runs a play itself. Beside it: `warm_client.py`, which runs start in place of the
executable; `run.py`, which starts both. Started as `python -m web.reconcile.warm SOCKET` with the environment of a run;
a request with another one (of what Ansible reads while it is imported) is refused, and then runs cold. No part of
Ansible is changed.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
import warnings

import psutil

PR_SET_PDEATHSIG = 1  # prctl(2)
LONGEST_REQUEST = 1 << 20
REQUEST_S = 2.0
# What Ansible reads as it is imported; of the rest each fork takes its request's.
COMPARED = ("ANSIBLE_", "LC_", "LANG", "HOME")
# What a play of Kumo's needs, by the loader's name in ansible.plugins.loader; and the loaders of which it reads all.
PLUGINS = {
    "action_loader": ("kumo_host", "normal"),
    "cache_loader": ("memory",),
    # Not awx_display, which looks at a run's environment as it is imported.
    "callback_loader": ("default", "junit", "minimal", "oneline", "tree"),
    "inventory_loader": ("kumo", "yaml", "ini", "host_list"),
    "strategy_loader": ("linear",),
}
CLASSES = ("become_loader", "connection_loader", "shell_loader")
INSTANCES = ("filter_loader", "test_loader", "vars_loader")


def choose_compared(environment: dict[str, str]) -> dict[str, str]:
    """The part of an environment that must be the same for a fork to be what a cold start would be."""
    return {name: value for name, value in environment.items() if name.startswith(COMPARED)}


def load_ansible():
    """Import Ansible and the plugins of Kumo's plays; what runs `ansible-playbook`'s words."""
    from ansible.cli.playbook import PlaybookCLI
    from ansible.plugins import loader

    loader.init_plugin_loader()
    # Each fork calls that again, finds it done, and says so.
    warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")
    importlib.import_module("ansible_collections.ansible.builtin")
    for name, plugins in PLUGINS.items():
        for plugin in plugins:
            getattr(loader, name).get(plugin, class_only=True)
    for name in CLASSES:
        list(getattr(loader, name).all(class_only=True))
    for name in INSTANCES:
        list(getattr(loader, name).all())
    return PlaybookCLI.cli_executor


class Warm:
    """The listening process. ``run(words)`` is what a fork does; its SystemExit is the status."""

    def __init__(self, path: str, run):
        self.path, self.run = path, run
        self.environment = choose_compared(dict(os.environ))
        self.runs: dict[int, socket.socket] = {}  # pid: who waits for its status
        self.selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Take requests until SIGTERM."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o177)
        own = f"{self.path}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(own)
        listener.bind(own)
        os.umask(old)
        listener.listen(64)
        os.replace(own, self.path)  # who finds it can connect
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        self.selector.register(listener, selectors.EVENT_READ, self._accept)
        self.selector.register(reader, selectors.EVENT_READ, self._reap)
        try:
            while True:
                for key, _ in self.selector.select():
                    key.data(key.fileobj)
        finally:
            for pid in list(self.runs):
                end_tree(pid)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(REQUEST_S)
        streams: list[int] = []
        try:
            request = read_request(connection, streams)
            if choose_compared(request["environment"]) != self.environment:
                connection.sendall(b"n")
                return
            connection.sendall(b"y")
            pid = os.fork()
            if pid == 0:
                self._become(request, streams)
            self.runs[pid] = connection
            self.selector.register(connection, selectors.EVENT_READ, lambda gone: self._hang_up(pid, gone))
        except (OSError, ValueError, KeyError):
            traceback.print_exc()
        finally:
            for stream in streams:
                os.close(stream)
            if connection not in self.runs.values():
                connection.close()

    def _hang_up(self, pid: int, connection: socket.socket) -> None:
        """Who asked has ended: so does the run, with all that it started here."""
        self.selector.unregister(connection)
        end_tree(pid)

    def _reap(self, reader: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 4096)
        while self.runs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self.runs.pop(pid, None)
            if connection is None:
                continue
            with contextlib.suppress(KeyError):
                self.selector.unregister(connection)
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):
                connection.sendall(bytes([code if code >= 0 else 128 - code]))
            connection.close()

    def _become(self, request: dict, streams: list[int]) -> None:
        """In the fork: the request's process, as if it had been started anew. Never returns."""
        status = 250  # what ansible-playbook itself answers to what it did not expect
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            self.selector.close()
            os.setsid()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.closerange(3, 256)
            # Not in the process group of who asked: where this process's parent dies, so does it.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.environ.clear()
            os.environ.update(request["environment"])
            os.chdir(request["directory"])
            sys.argv = request["words"]
            self.run(request["words"])
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1 if end.code else 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


def read_request(connection: socket.socket, streams: list[int]) -> dict:
    """{words, environment, directory}; the three standard streams are put into ``streams``."""
    descriptors = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(3 * descriptors.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    streams.extend(descriptors)
    length = int.from_bytes(head, "big")
    if len(head) != 4 or len(streams) != 3 or length > LONGEST_REQUEST:
        raise ValueError("this is no request of a run")
    body = b""
    while len(body) < length:
        chunk = connection.recv(length - len(body))
        if not chunk:
            raise ValueError("the request ended early")
        body += chunk
    return json.loads(body)


def end_tree(pid: int) -> None:
    """Kill a process and all that descends from it, whatever sessions they made for themselves.

    What sudo has started is root's, and ends by itself: the root helper, whose request is whole.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()


def main(argv: list[str]) -> int:
    """Serve at the socket ``argv[0]``, and end with the process that started this one."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 0
    Warm(argv[0], load_ansible()).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
