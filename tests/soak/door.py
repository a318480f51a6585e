"""The provider's door. Each life of a broker has one of its own, so that who presented what is known beyond doubt; it
passes requests on to the provider, writes down what becomes of them, and fails as it is told to."""

import http.client
import json
import random
import select
import socket
import struct
import threading
import time
import urllib.parse
from collections import deque

from record import Presentation

# Before and after the provider is asked: most kills shall hit an exchange somewhere.
DELAY = 0.15
PROVIDER = 180


class Weather:
    """How the provider's side is: fine, refuse (no door is open), busy (503), hang (nothing is passed on until it is fine).
    `once` has what is done to single exchanges: cut before, 500 before, cut after, 500 after, half."""

    def __init__(self):
        self.state = "fine"
        self.once = deque()
        self.doors = []
        self.changed = threading.Condition()

    def set(self, state):
        with self.changed:
            self.state = state
            self.changed.notify_all()
            doors = list(self.doors)
        for door in doors:
            if state == "refuse":
                door.shut()
            else:
                door.open()


class Door:
    def __init__(self, life, weather, record, provider, lost):
        """`lost` is told of a family that the provider revoked."""
        self.life, self.weather, self.record, self.provider, self.lost = life, weather, record, provider, lost
        self.lock = threading.Lock()
        self.listener = None
        self.port = 0
        self.bind()
        weather.doors.append(self)
        if weather.state != "refuse":
            self.open()

    def bind(self):
        """Has the port without listening at it: connections are refused."""
        for _ in range(200):
            self.bound = socket.socket()
            self.bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                self.bound.bind(("127.0.0.1", self.port))
            except OSError:
                self.bound.close()
                time.sleep(0.02)
                continue
            self.port = self.bound.getsockname()[1]
            return
        self.record.violation(f"the door's port {self.port} cannot be had again: the soak itself is broken")

    def open(self):
        with self.lock:
            if self.listener is None:
                self.listener = self.bound
                self.listener.listen(64)
                threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def shut(self):
        with self.lock:
            if self.listener is not None:
                self.listener.shutdown(socket.SHUT_RDWR)
                self.listener.close()
                self.listener = None
                self.bind()

    def end(self):
        """Nobody knocks any more."""
        self.weather.doors.remove(self)
        self.shut()
        self.bound.close()

    def accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection, self.record.now()), daemon=True).start()

    def serve(self, connection, arrived):
        presentation = Presentation(self.life, arrived)
        try:
            request = read_request(connection)
            if request is not None:
                self.exchange(connection, presentation, *request)
        finally:
            connection.close()
            if presentation.ended is None:
                presentation.ended, presentation.how = self.record.now(), presentation.how or "gone"

    def exchange(self, connection, p, headers, body):
        form = dict(urllib.parse.parse_qsl(body.decode()))
        if form.get("grant_type") != "refresh_token":
            self.record.violation(f"{self.life} asked for {form.get('grant_type')}")
            return
        self.record.begun(p, form["refresh_token"])
        if p.token is None or p.family is None:
            return
        with self.weather.changed:
            p.fault = self.weather.once.popleft() if self.weather.once else None
            if p.fault is None and self.weather.state in ("busy", "hang"):
                p.fault = self.weather.state
        if p.fault == "busy":
            retry = random.choice(["", "", "Retry-After: 1\r\n"])
            self.deliver(connection, p, 503, b"busy", retry)
            return
        if p.fault == "hang":
            self.hang(connection, p)
        self.wait(connection, p, random.uniform(0, DELAY))
        if p.fault == "cut before":
            self.cut(connection, p)
            return
        if p.fault == "500 before":
            self.deliver(connection, p, 500, b"before")
            return
        if p.ended is not None and random.random() < 0.5:
            return  # Who asked is gone, and the provider had not read it yet. Else it had.
        status, answer = self.ask(p, headers, body)
        self.wait(connection, p, random.uniform(0, DELAY))
        if p.ended is not None:
            return
        if p.fault == "cut after":
            self.cut(connection, p)
        elif p.fault == "500 after":
            self.deliver(connection, p, 500, b"after")
            p.delivered = None  # Not what the provider said.
            p.how = "cut"
        elif p.fault == "half":
            self.cut(connection, p, response(status, answer)[: -len(answer) // 2])
        else:
            self.deliver(connection, p, status, answer)

    def ask(self, p, headers, body):
        """Passed on in any case to its end, whoever lives or dies: the record has to know."""
        asked = {name: value for name, value in headers.items() if name in ("authorization", "content-type", "accept")}
        upstream = http.client.HTTPConnection("127.0.0.1", self.provider.port, timeout=PROVIDER)
        p.forwarded = self.record.now()
        upstream.request("POST", "/token", body, asked)
        answer = upstream.getresponse()
        content = answer.read()
        p.answered = self.record.now()
        upstream.close()
        said = json.loads(content)
        if answer.status == 200:
            self.record.gave(p, said)
        else:
            family = self.record.refused(p, said.get("error"))
            if family is not None:
                self.lost(family)
        return answer.status, content

    def wait(self, connection, p, seconds):
        """A pause; what the broker closes meanwhile is noticed."""
        end = self.record.now() + seconds
        while p.ended is None:
            left = end - self.record.now()
            if left <= 0:
                return
            if select.select([connection], [], [], left)[0]:
                closed(connection, p, self.record.now, "gone")

    def hang(self, connection, p):
        while p.ended is None and self.weather.state == "hang":
            self.wait(connection, p, 0.1)

    def cut(self, connection, p, said=b""):
        p.how = "cut"
        try:
            if said:
                connection.sendall(said)
            else:
                # A reset instead of an orderly end.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        p.ended = self.record.now()

    def deliver(self, connection, p, status, answer, more=""):
        if p.ended is not None:
            return
        try:
            connection.sendall(response(status, answer, more))
            p.delivered = self.record.now()
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            p.how, p.ended = "lost", self.record.now()
            return
        while p.ended is None:
            closed(connection, p, self.record.now, "taken")


def closed(connection, p, now, how):
    """Reads; at the end of the connection writes down what it was like. A process that dies with an unread answer resets."""
    try:
        if connection.recv(4096):
            return
        p.how = how
    except OSError:
        p.how = "lost"
    p.ended = now()


def response(status, answer, more=""):
    about = f"Content-Type: application/json\r\nContent-Length: {len(answer)}\r\n{more}Connection: close\r\n"
    return f"HTTP/1.1 {status} -\r\n{about}\r\n".encode() + answer


def read_request(connection):
    """Headers and body; None if the broker went away before."""
    connection.settimeout(120)
    data = b""
    try:
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return None
            data += more
        head, body = data.split(b"\r\n\r\n", 1)
        headers = {}
        for line in head.decode().split("\r\n")[1:]:
            name, value = line.split(":", 1)
            headers[name.strip().lower()] = value.strip()
        while len(body) < int(headers.get("content-length", 0)):
            more = connection.recv(65536)
            if not more:
                return None
            body += more
    except OSError:
        return None
    connection.settimeout(None)
    return headers, body
