"""Floods, bounded: calls, connections, junk. Beside them an honest client of the same sandbox, a process of its own."""

import json
import os
import socket
import subprocess
import sys
import time

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import calls

SOCKET, CAPABILITY = os.environ["CREDBROKER_SOCKET"], os.environ["CREDBROKER_CAPABILITY"]
SECONDS = 2


def honest():
    """Four calls a second over one connection."""
    channel, end, answers, slowest = calls.open_channel(SOCKET), time.monotonic() + SECONDS + 1, [], 0
    while time.monotonic() < end:
        answer = calls.call(channel, calls.BROKER + "GetToken", calls.message("github"), CAPABILITY)
        answers.append(answer.reason or answer.code)
        slowest = max(slowest, answer.seconds)
        time.sleep(0.25)
    print(json.dumps({"answers": answers, "slowest": slowest}))


def call_flood():
    """As fast as it goes, over 20 connections."""
    channels = [calls.open_channel(SOCKET) for _ in range(20)]
    metadata, end, sent = calls.bearer(CAPABILITY), time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        waiting = []
        for channel in channels:
            for name in ("github", "vault"):
                method = channel.unary_unary(calls.BROKER + "GetToken")
                waiting.append(method.future(calls.message(name), metadata=metadata, timeout=5))
        for future in waiting:
            future.exception()
        sent += len(waiting)
    print(json.dumps(sent))


def connection_flood():
    """Connections that say nothing, or the half of a preface, over and over."""
    end, opened, held = time.monotonic() + SECONDS, 0, []
    while time.monotonic() < end:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(1)
        try:
            client.connect(SOCKET)
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[: opened % 25])
            held.append(client)
            opened += 1
        except OSError:
            client.close()
            time.sleep(0.01)
        if len(held) > 400:
            held.pop(0).close()
        time.sleep(0.002)
    print(json.dumps(opened))


def stream_flood():
    """As many streams as there are."""
    metadata, end, opened, held = calls.bearer(CAPABILITY), time.monotonic() + SECONDS, 0, []
    while time.monotonic() < end:
        channel = calls.open_channel(SOCKET)
        for _ in range(70):
            held.append(
                channel.unary_stream(calls.BROKER + "WatchToken")(
                    calls.message("github"), metadata=metadata, timeout=SECONDS
                )
            )
            opened += 1
        held.append(channel)
        time.sleep(0.2)
    print(json.dumps(opened))


KINDS = {"honest": honest, "calls": call_flood, "connections": connection_flood, "streams": stream_flood}


def start(kind):
    return subprocess.Popen([sys.executable, "-B", os.path.abspath(__file__), kind], stdout=subprocess.PIPE)


def finish(process):
    said, _ = process.communicate(timeout=60)
    return json.loads(said)


if __name__ == "__main__":
    KINDS[sys.argv[1]]()
else:
    from attempts import OUT, among, attempt

    def flood(kind):
        # The host lets its own neighbour ask in the same seconds.
        with open(f"{OUT}/flooding", "w") as file:
            file.write(kind)
        attacker, client = start(kind), start("honest")
        sent, served = finish(attacker), finish(client)
        os.unlink(f"{OUT}/flooding")
        with open(f"{OUT}/floods", "a") as file:
            file.write(f"{sent} {kind}; honest calls: {len(served['answers'])}, slowest {served['slowest'] * 1000:.0f} ms\n")
        assert sent > 200 and len(served["answers"]) >= 6, (sent, served)
        return among(served["answers"])

    for _kind in ("calls", "connections", "streams"):
        attempt(f"flood with {_kind}: what the honest client gets")(lambda kind=_kind: flood(kind))
