"""wire.py: the protocol as docs/protocol.md tells it, in a few lines and without any of our code.

    answer = wire.Connection("tcp://127.0.0.1:20880").call(wire.META_ROUTE, wire.text(1, "orders"))
    groups = answer[2]  # field number → list of values; messages and texts are bytes
"""
import socket
import struct

HELLO, META_ROUTE, META_NODES = 1, 66, 67
REQUEST, REPLY = 0x30, 0x31  # numbers of the scalability protocols


class Refused(Exception):
    """An answer whose status is not 0."""


def number(field, value):
    return _varint(field << 3) + _varint(value)


def text(field, value):
    data = value.encode()
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def decode(data):
    """A protobuf message: {field number: [value, …]}."""
    fields, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            value = varint()
        elif key & 7 == 2:
            length = varint()
            value, at = data[at:at + length], at + length
        else:
            raise ValueError("wire type %d" % (key & 7))
        fields.setdefault(key >> 3, []).append(value)
    return fields


class Connection:
    def __init__(self, url):
        host, port = url.removeprefix("tcp://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.socket.sendall(b"\0SP\0" + struct.pack(">HH", REQUEST, 0))
        greeting = self._read(8)
        if greeting != b"\0SP\0" + struct.pack(">HH", REPLY, 0):
            raise ValueError("not a server of this protocol: %r" % greeting)
        self.requests = 0
        self.hello = self.call(HELLO, number(1, 0) + text(3, "wire.py"))

    def call(self, operation, header=b"", payload=b""):
        """The answer's header, decoded."""
        start = (16 + len(header) + 3) // 8 * 8 + 4 if payload else 16 + len(header)
        message = struct.pack("<BBHHhII", 0x51, 0, operation, 0, 0, len(header), start)
        message = (message + header).ljust(start, b"\0") + payload
        self.requests += 1
        request = struct.pack(">I", 0x80000000 | self.requests)
        self.socket.sendall(struct.pack(">Q", len(message) + 4) + request + message)
        while True:
            (length,) = struct.unpack(">Q", self._read(8))
            answer = self._read(length)
            if answer[:4] == request:
                break
        magic, version, op, flags, status, size, _ = struct.unpack_from("<BBHHhII", answer, 4)
        if (magic, version, op, flags) != (0x51, 0, operation, 0):
            raise ValueError("a strange answer: %r" % answer[4:20])
        fields = decode(answer[20:20 + size])
        if status != 0:
            raise Refused("%d %s" % (status, {k: v[0] for k, v in fields.items()}))
        return fields

    def _read(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionError("closed by the server")
            data += more
        return data
