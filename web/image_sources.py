"""Fetching an image from an address that a user named, without being led into places that are not theirs to see.

Security case 24. The name is looked up once, every address that it has is checked, and the connection goes to a checked
address and nowhere else; a redirect is a new address, checked like the first. No proxy, no credentials, no cookies.
Bounded by time here and by size in `image_store.Upload`. Next room: `image_imports.py`.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import SplitResult, urljoin, urlsplit

from .errors import BadRequest, TooLarge
from .image_store import CHUNK

PORTS = {"http": 80, "https": 443}
SOCKET_TIMEOUT_S = 15.0
MOST_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")


def parse_uri(uri: str, settings) -> SplitResult:
    """The address in parts; BadRequest where its form, scheme, port or (written as such) IP address is not allowed."""
    refused = "URI for web-download does not pass filtering: "
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise BadRequest(f"{refused}{error}") from None
    if not uri.isascii() or not uri.isprintable() or any(one in uri for one in ' \\"<>'):
        raise BadRequest(f"{refused}it has characters that no URI has")
    if parts.scheme not in settings.image.import_schemes:
        raise BadRequest(f"{refused}its scheme must be one of {', '.join(settings.image.import_schemes)}")
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise BadRequest(f"{refused}it must name a host, and no user")
    if str(port if port is not None else PORTS[parts.scheme]) not in settings.image.import_ports:
        raise BadRequest(f"{refused}its port must be one of {', '.join(settings.image.import_ports)}")
    with contextlib.suppress(ValueError):
        _check_address(str(ipaddress.ip_address(parts.hostname)), settings)
    return parts


def is_public(address: str) -> bool:
    """Whether an address is everyone's: not private, loopback, link-local, multicast or reserved, in any notation."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if ip in NAT64_LOCAL or ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_loopback or ip.is_link_local)


def _is_own(address: str) -> bool:
    """Whether the address is this machine's: the kernel would send from it what it sends to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False
        return probe.getsockname()[0] == address


def _check_address(address: str, settings) -> None:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if any(ip in ipaddress.ip_network(one) for one in settings.image.import_networks):
        return
    if not is_public(address) or _is_own(address):
        # Which address a name has inside is not for the asker to learn.
        raise BadRequest("URI for web-download does not pass filtering: its host is not on a public network")


def resolve(host: str, port: int) -> list[str]:
    """Every address that a name has; BadRequest where it has none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise BadRequest(f"{host} has no address: {error}") from None
    return list(dict.fromkeys(one[4][0] for one in found))


class _Connection(http.client.HTTPConnection):
    """A connection to a checked address, whatever the name means by now; over TLS the certificate is the name's."""

    def __init__(self, parts: SplitResult, settings):
        super().__init__(parts.hostname, parts.port or PORTS[parts.scheme], timeout=SOCKET_TIMEOUT_S)
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.default_port = PORTS[parts.scheme]
        self.addresses = resolve(self.host, self.port)
        for address in self.addresses:
            _check_address(address, settings)

    def connect(self) -> None:
        problem: OSError = OSError("no address")
        for address in self.addresses:
            try:
                sock = socket.create_connection((address, self.port), self.timeout)
                break
            except OSError as error:
                problem = error
        else:
            raise problem
        self.sock = sock
        if self.tls:
            self.sock = self.tls.wrap_socket(sock, server_hostname=self.host)


def read_web(uri: str, settings, most: int) -> Iterator[bytes]:
    """The bytes behind the address, in chunks; a Problem says why there are none (without what the query holds)."""
    until = time.monotonic() + settings.image.import_timeout_s
    for _ in range(MOST_REDIRECTS + 1):
        parts = parse_uri(uri, settings)
        connection = _Connection(parts, settings)
        timer = threading.Timer(max(until - time.monotonic(), 0), _cut, (connection,))
        timer.daemon = True
        timer.start()
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Accept-Encoding": "identity", "User-Agent": "kumo-import"})
            response = connection.getresponse()
            if response.status in REDIRECTS and response.headers.get("Location"):
                uri = urljoin(uri, response.headers["Location"])
                continue
            yield from _read_body(response, parts.hostname, most)
            if time.monotonic() >= until:  # a body without a length ends well wherever it is cut
                raise TimeoutError
            return
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= until:
                seconds = settings.image.import_timeout_s
                raise BadRequest(f"{parts.hostname} took longer than {seconds} seconds.") from None
            raise BadRequest(f"{parts.hostname} could not be read: {error or type(error).__name__}") from None
        finally:
            timer.cancel()
            connection.close()
    raise BadRequest(f"The URI leads through more than {MOST_REDIRECTS} redirects.")


def _cut(connection: _Connection) -> None:
    """End a connection that another thread waits for."""
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _read_body(response, host: str, most: int) -> Iterator[bytes]:
    if response.status != 200:
        raise BadRequest(f"{host} answered {response.status}.")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadRequest(f"{host} answered in an encoding that was not asked for.")
    announced = response.length
    if announced is not None and announced > most:
        raise TooLarge(f"The image is larger than {most} bytes, the most this store takes.")
    size = 0
    while chunk := response.read(CHUNK):
        size += len(chunk)
        yield chunk
    if announced is not None and size != announced:
        raise BadRequest(f"{host} ended after {size} of {announced} bytes.")
