"""Calls by hand: any method, any bytes, no stubs. What is sent need not be a message that a client library would make.

Runs inside the sandboxes as well, with grpcio and nothing else.
"""

import collections
import time

import grpc

Answer = collections.namedtuple("Answer", "code reason message details payload seconds")
BROKER = "/credbroker.v1.CredentialBroker/"
REFLECTION = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"
HEALTH = "/grpc.health.v1.Health/"


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value):
    """One field of a message: a number, or anything that is written as a length and bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(*values):
    """Strings as fields 1, 2, 3 and so on."""
    return b"".join(field(number, value) for number, value in enumerate(values, 1))


def fields(data):
    """[(number, value)] of a message; fixed-width values as their bytes."""
    found, at = [], 0

    def number():
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
        tag = number()
        if tag & 7 == 0:
            found.append((tag >> 3, number()))
            continue
        size = number() if tag & 7 == 2 else {1: 8, 5: 4}[tag & 7]
        found.append((tag >> 3, data[at : at + size]))
        at += size
    return found


def first(data, *path):
    """The first value at a path of field numbers; b"" if there is none."""
    for step in path:
        data = next((value for number, value in fields(data) if number == step), b"")
    return data


def every(data, step):
    return [value for number, value in fields(data) if number == step]


def open_channel(socket):
    # A channel of its own for everybody who asks: the library would share connections.
    return grpc.insecure_channel("unix:" + socket, options=[("grpc.use_local_subchannel_pool", 1)])


def bearer(capability):
    return [] if capability is None else [("authorization", "Bearer " + capability)]


def call(channel, method, request=b"", capability=None, streaming=False, metadata=None, timeout=10):
    """One call. A stream is read up to its first message."""
    metadata = bearer(capability) if metadata is None else metadata
    began = time.perf_counter()

    def answer(code, payload=b"", details=b"", text=""):
        reason = ""
        for any_ in every(details, 3):
            if first(any_, 1) == b"type.googleapis.com/google.rpc.ErrorInfo":
                reason = first(first(any_, 2), 1).decode()
        return Answer(code, reason, text, details, payload, time.perf_counter() - began)

    try:
        if streaming:
            stream = channel.stream_stream(method)(iter([request]), metadata=metadata, timeout=timeout)
            try:
                payload = next(stream, None)
            finally:
                stream.cancel()
            return answer("OK", payload) if payload is not None else answer("ENDED")
        return answer("OK", channel.unary_unary(method)(request, metadata=metadata, timeout=timeout))
    except grpc.RpcError as error:
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        return answer(error.code().name, b"", details, error.details() or "")


def methods(channel):
    """{method: streaming} of everything that the socket offers, by its own reflection."""
    listing = REFLECTION.format("v1")
    answer = call(channel, listing, field(7, "*"), streaming=True)
    found = {}
    for service in every(first(answer.payload, 6), 1):
        name = first(service, 1).decode()
        described = call(channel, listing, field(4, name), streaming=True)
        for file in every(first(described.payload, 4), 1):
            package = first(file, 2).decode()
            for offered in every(file, 6):
                if f"{package}.{first(offered, 1).decode()}" != name:
                    continue
                for method in every(offered, 2):
                    streaming = bool(first(method, 5) or first(method, 6))
                    found[f"/{name}/{first(method, 1).decode()}"] = streaming
    return found
