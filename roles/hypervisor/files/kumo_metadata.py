#!/usr/bin/python3
"""The metadata daemon: answers guests at 169.254.169.254 and fe80::a9fe:a9fe, in every namespace, as one process.

It serves what the section metadata wrote to ``STATE_DIR/metadata/<namespace>/<address>.json`` (the format
is described in module_utils/kumo/metadata.py), in OpenStack's form (/openstack/…) and EC2's (/latest/…).
A guest is known by the namespace its packet arrived in and the address it came from, which the firewall
keeps it from forging; no header says who anyone is (OSSN-0074, OSSA-2014-024). A guest may POST one thing,
the password it made itself (/openstack/<version>/password): kept in ``STATE_DIR/servers/<id>/`` where that
is, once until its user clears it (docs/compute.md). Nothing else on the host is changed: a listening socket
is opened inside the namespace, and closed when the namespace or its directory is gone or was made anew.
Python's standard library only; the role hypervisor starts it.
"""

import argparse
import asyncio
import contextlib
import ctypes
import errno
import json
import os
import re
import signal
import socket
import sys
import time

# Installed beside this file; in the source it is module_utils/kumo's, where config_drive.py has it from.
from metadata_answers import PASSWORD_BYTES, PASSWORD_FILE, NotThere, build_answer, is_password, parse_password

IPV4_ADDRESS = "169.254.169.254"
IPV6_ADDRESS = "fe80::a9fe:a9fe"
PORT = 80
NAMESPACES = "/run/netns"
POLL_S = 0.5
REQUEST_BYTES = 8192
REQUEST_S = 5.0
ANSWER_S = 20.0
MOST_CONNECTIONS = 256
MOST_PER_GUEST = 16
CLONE_NEWNET = 0x40000000
IPV6_FREEBIND = 78
PR_SET_NO_NEW_PRIVS = 38
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(path):
    """This thread inside the network namespace of a file below /run/netns, and back afterwards."""
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(there, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            try:
                yield
            finally:
                if _libc.setns(here, CLONE_NEWNET):
                    os._exit(70)  # never answer one tenant from within another's namespace
        finally:
            os.close(here)
    finally:
        os.close(there)


def open_socket(family, address):
    """A listening socket of the namespace this thread is in, whether the address is there yet or not."""
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_FREEBIND", 15), 1)
        listener.bind(address)
        listener.listen(64)
        return listener
    except BaseException:
        listener.close()
        raise


class Namespace:
    """What the daemon has open in one namespace: ``servers`` maps '' (IPv4) or an interface's name to a listener."""

    def __init__(self, name, identity):
        self.name = name
        self.identity = identity
        self.servers = {}
        self.indexes = {}
        self.stamp = None
        self.complaint = None


class Daemon:
    """All namespaces of one state directory, and the connections of their guests."""

    def __init__(self, state_dir):
        self.base = os.path.join(state_dir, "metadata")
        self.servers = os.path.join(state_dir, "servers")
        self.open = {}
        self.connections = {}
        self.total = 0

    def read_wanted(self):
        """{namespace: (its identity, when its directory changed)} of the living namespaces with a directory."""
        found = {}
        try:
            entries = list(os.scandir(self.base))
        except FileNotFoundError:
            return found
        kind = os.stat("/proc/self/ns/net").st_dev
        for entry in entries:
            if entry.name.startswith("."):
                continue
            with contextlib.suppress(OSError):
                status = os.stat(os.path.join(NAMESPACES, entry.name))
                if status.st_dev == kind:  # a file that a reboot left is no namespace
                    found[entry.name] = ((status.st_ino, status.st_dev), entry.stat().st_mtime_ns)
        return found

    def close(self, name):
        """Stop listening in a namespace. What holds a socket of a deleted namespace keeps it alive: be prompt."""
        for server in self.open.pop(name).servers.values():
            server.close()
        for key in [key for key in self.connections if key[0] == name]:
            for writer in list(self.connections[key]):
                writer.transport.abort()
        say(f"left {name}")

    async def refresh(self):
        """Open and close listeners until they match the directories and namespaces that are there."""
        wanted = self.read_wanted()
        for name in list(self.open):
            if name not in wanted or wanted[name][0] != self.open[name].identity:
                self.close(name)
        for name, (identity, stamp) in wanted.items():
            place = self.open.setdefault(name, Namespace(name, identity))
            if place.stamp == stamp:
                continue
            try:
                complete = await self.listen(place)
            except OSError as error:
                if place.complaint != str(error):
                    place.complaint = str(error)
                    say(f"cannot listen in {name}: {error}")
                continue
            place.stamp = stamp if complete else None

    async def listen(self, place):
        """Open what is missing in one namespace; whether everything is open now."""
        scopes = set()
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(os.path.join(self.base, place.name)):
                if entry.endswith(".json") and "%" in entry:
                    scopes.add(entry.removesuffix(".json").split("%", 1)[1])
        opened = []
        with inside(os.path.join(NAMESPACES, place.name)):
            indexes = {}
            for scope in scopes:
                with contextlib.suppress(OSError):
                    indexes[scope] = socket.if_nametoindex(scope)
            for scope in [scope for scope in place.servers if scope and place.indexes.get(scope) != indexes.get(scope)]:
                place.servers.pop(scope).close()
            if "" not in place.servers:
                opened.append(("", open_socket(socket.AF_INET, (IPV4_ADDRESS, PORT))))
            for scope, index in sorted(indexes.items()):
                if scope not in place.servers:
                    try:
                        opened.append((scope, open_socket(socket.AF_INET6, (IPV6_ADDRESS, PORT, 0, index))))
                    except OSError as error:
                        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENODEV):
                            raise
        place.indexes = indexes
        for scope, listener in opened:

            async def answer(reader, writer, scope=scope):
                await self.serve(place.name, scope, reader, writer)

            place.servers[scope] = await asyncio.start_server(answer, sock=listener, limit=REQUEST_BYTES)
        if opened:
            say(f"listening in {place.name}")
        return set(place.servers) == {"", *scopes}

    async def serve(self, name, scope, reader, writer):
        """One connection: one request, one answer, closed."""
        peer = writer.get_extra_info("peername")
        address = peer[0].split("%", 1)[0] if peer else ""
        key = (name, scope, address)
        mine = self.connections.setdefault(key, set())
        if self.total >= MOST_CONNECTIONS or len(mine) >= MOST_PER_GUEST:
            writer.transport.abort()
            if not mine:
                del self.connections[key]
            return
        mine.add(writer)
        self.total += 1
        try:
            status, body, method = await self.read_request(key, reader)
            writer.write(build_response(status, body, method))
            await asyncio.wait_for(writer.drain(), ANSWER_S)
            if writer.can_write_eof():
                writer.write_eof()
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), ANSWER_S)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.total -= 1
            mine.discard(writer)
            if not mine:
                self.connections.pop(key, None)
            if not writer.transport.is_closing() or writer.transport.get_write_buffer_size():
                writer.transport.abort()

    async def read_request(self, key, reader):
        """(status, body, method) for what the guest sent."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_S)
        except TimeoutError:
            return 408, "the request took too long", "GET"
        except asyncio.LimitOverrunError:
            return 431, f"the request is longer than {REQUEST_BYTES} bytes", "GET"
        line = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(line) != 3 or not re.fullmatch(r"HTTP/1\.[01]", line[2]) or not line[1].startswith("/"):
            return 400, "this is not an HTTP/1 request", "GET"
        method, path, _ = line
        takes = method == "POST" and is_password(path)
        if method not in ("GET", "HEAD") and not takes:
            return 405, "only GET and HEAD are answered here", method
        try:
            raw = await read_body(head, reader) if takes else None
        except TimeoutError:
            return 408, "the request took too long", method
        except ValueError as error:
            return 400, str(error), method
        try:
            if takes:
                status, body = self.take_password(self.read_content(*key), raw)
            else:
                content = self.read_content(*key)
                if is_password(path) and "posted_password" in content:
                    content["posted_password"]["text"] = self.read_password(content["posted_password"])
                status, body = 200, build_answer(content, path)
        except NotThere:
            status, body = 404, "there is nothing here"
        except Exception as error:  # one guest's broken file is not another's outage
            say(f"{key[0]} {key[2]}: {type(error).__name__} in its file")
            status, body = 500, "the metadata of this server cannot be read"
        say(f"{key[0]} {key[2]} {method} {path[:200]!r} {status}")
        return status, body, method

    def read_content(self, name, scope, address):
        """The file of the guest that asks; NotThere where nobody has this address."""
        if not re.fullmatch(r"[0-9a-f:.]{2,45}", address):
            raise NotThere
        file = f"{address}%{scope}.json" if address.startswith("fe80:") else f"{address}.json"
        try:
            with open(os.path.join(self.base, name, file), encoding="utf-8") as stream:
                return json.load(stream)
        except FileNotFoundError:
            raise NotThere from None

    def build_password_path(self, posted):
        """Where the password of the server that ``posted`` names is kept; NotThere where it names none."""
        if not UUID.fullmatch(str(posted.get("server"))):
            raise NotThere
        return os.path.join(self.servers, posted["server"], f"{PASSWORD_FILE}{int(posted['cleared'])}")

    def read_password(self, posted):
        """What the guest has posted: as the document has it, else what is kept since the last clearing."""
        if posted["text"]:
            return posted["text"]
        try:
            with open(self.build_password_path(posted), encoding="utf-8", newline="") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""

    def take_password(self, content, raw):
        """(status, body) for a password that the guest posts: kept whole or not at all, and only the first."""
        posted = content.get("posted_password")
        if posted is None:
            raise NotThere
        if self.read_password(posted):
            return 409, "a password was posted before"
        try:
            parse_password(raw)
        except ValueError as error:
            return 400, str(error)
        path = self.build_password_path(posted)
        new = os.path.join(os.path.dirname(path), ".posted_password")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)  # of a daemon that was killed
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as stream:
                stream.write(raw)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(new, path)
        except OSError as error:  # no directory: the guest is on its way here, or away
            say(f"a password cannot be kept: {error.strerror}")
            return 503, "the password cannot be kept now; post it again later"
        return 200, ""

    async def run(self):
        """Serve until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        say(f"serving {self.base}")
        while not stop.is_set():
            await self.refresh()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_S)
        for name in list(self.open):
            self.close(name)


async def read_body(head, reader):
    """The body of a request that says how long it is; ValueError where it does not, or is longer than a password."""
    lengths = []
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"transfer-encoding":
            raise ValueError("a body of a Content-Length is taken, and no other")
        if name.strip().lower() == b"content-length":
            lengths.append(value.strip())
    if len(lengths) != 1 or not re.fullmatch(rb"[0-9]{1,9}", lengths[0]):
        raise ValueError("one Content-Length is needed")
    if int(lengths[0]) > PASSWORD_BYTES:
        raise ValueError(f"a password of 1 to {PASSWORD_BYTES} bytes can be posted")
    return await asyncio.wait_for(reader.readexactly(int(lengths[0])), REQUEST_S)


REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    409: "Conflict", 431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


def build_response(status, body, method):
    """The bytes of an HTTP/1.1 answer; text is sent as JSON where it is an object."""
    raw = isinstance(body, bytes)
    if not raw:
        kind = "application/json" if body.startswith("{") else "text/plain; charset=utf-8"
        body = body.encode()
    else:
        kind = "application/octet-stream"
    head = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status == 405:
        head.append("Allow: GET, HEAD")
    return "\r\n".join([*head, "", ""]).encode() + (b"" if method == "HEAD" else body)


def say(sentence):
    """One line of the log, on stderr (the supervisor keeps it); it never holds what a guest is told."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {sentence}", file=sys.stderr, flush=True)


def main():
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Answers guests that ask for their metadata, in every namespace.")
    parser.add_argument("--state-dir", default="/var/lib/kumo/host", help="what the modules keep (%(default)s)")
    arguments = parser.parse_args()
    if os.geteuid():
        parser.error("run as root: listening inside a namespace takes CAP_SYS_ADMIN")
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    asyncio.run(Daemon(arguments.state_dir).run())


if __name__ == "__main__":
    main()
