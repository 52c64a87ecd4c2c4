"""A WebSocket client that speaks RFC 6455 as little as is needed: to the console proxy, and to browsers."""

from __future__ import annotations

import socket


class Client:
    """One connection. ``status`` is the answer's; 101 where it is open."""

    def __init__(self, port: int, path: str, origin: str | None = None, address: str = "127.0.0.1"):
        self.socket = socket.create_connection((address, port), 10)
        lines = [f"GET {path} HTTP/1.1", f"Host: {address}:{port}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
        lines += [f"Origin: {origin}"] if origin else []
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.head = self.taken = b""
        while b"\r\n\r\n" not in self.head:
            part = self.socket.recv(1)
            if not part:
                break
            self.head += part
        self.status = int(self.head.split()[1])

    def send(self, data: bytes, opcode: int = 2) -> None:
        """One frame; its mask is zero, which is a mask like any other."""
        size = len(data)
        length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
        if size > 65535:
            length = bytes([0xFF]) + size.to_bytes(8, "big")
        self.socket.sendall(bytes([0x80 | opcode]) + length + bytes(4) + data)

    def receive(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next frame that is no ping."""
        first, length = self._read(2)
        if length in (126, 127):
            length = int.from_bytes(self._read(2 if length == 126 else 8), "big")
        data = self._read(length)
        return (first & 15, data) if first & 15 != 9 else self.receive()

    def read(self, count: int) -> bytes:
        """So many bytes of binary frames."""
        while len(self.taken) < count:
            opcode, data = self.receive()
            assert opcode == 2, (opcode, data)
            self.taken += data
        data, self.taken = self.taken[:count], self.taken[count:]
        return data

    def read_until(self, text: bytes, seconds: float = 30) -> bytes:
        """All bytes of binary frames until the text was among them."""
        self.socket.settimeout(seconds)
        while text not in self.taken:
            opcode, data = self.receive()
            assert opcode == 2, (opcode, data, self.taken)
            self.taken += data
        data, self.taken = self.taken, b""
        return data

    def close(self) -> None:
        self.socket.close()

    def _read(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            part = self.socket.recv(count - len(taken))
            assert part, "the other side has closed the connection"
            taken += part
        return taken


def greet(client: Client) -> tuple[int, int, str]:
    """RFB's handshake (RFC 6143) without a password, as noVNC does it: (width, height, name) of the screen."""
    assert client.read(12) == b"RFB 003.008\n"
    client.send(b"RFB 003.008\n")
    assert 1 in client.read(client.read(1)[0])
    client.send(b"\x01")
    assert client.read(4) == bytes(4)
    client.send(b"\x01")
    head = client.read(24)
    name = client.read(int.from_bytes(head[20:], "big"))
    return int.from_bytes(head[:2], "big"), int.from_bytes(head[2:4], "big"), name.decode()
