"""An authorization server that rotates refresh tokens, revokes the family when an old one comes back, and strikes when it
is told to. Prints its port; serves until its standard input ends.

    GET  /new       a new family, as a login would give it
    GET  /counts    what was seen since: {"presented", "rotated", "reused"}
    GET  /strike?when=before|after&command=C
                    runs C at the next request for a token, before or after the refresh token is rotated, and only then
                    goes on; the answer is not sent if C ends with 1
    POST /token     RFC 6749 section 6
"""

import json
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIFETIME = 3600


class Families:
    def __init__(self):
        self.number = 0
        self.strike = None
        self.new()

    def new(self):
        self.number += 1
        self.generation = 0
        self.revoked = False
        self.counts = {"presented": 0, "rotated": 0, "reused": 0}
        return self.answer()

    def answer(self):
        version = f"{self.number}-{self.generation}"
        return {
            "access_token": f"access-{version}",
            "refresh_token": f"refresh-{version}",
            "token_type": "Bearer",
            "expires_in": LIFETIME,
        }

    def refresh(self, token):
        self.counts["presented"] += 1
        if self.revoked or token != self.answer()["refresh_token"]:
            self.counts["reused"] += 1
            self.revoked = True
            return 400, {"error": "invalid_grant"}
        self.generation += 1
        self.counts["rotated"] += 1
        return 200, self.answer()


families = Families()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/new":
            self.send(200, families.new())
        elif url.path == "/counts":
            self.send(200, families.counts)
        elif url.path == "/strike":
            query = dict(urllib.parse.parse_qsl(url.query))
            families.strike = (query["when"], query["command"])
            self.send(200, {})
        else:
            self.send(404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        form = dict(urllib.parse.parse_qsl(body))
        strike, families.strike = families.strike, None
        silent = strike and strike[0] == "before" and self.struck(strike)
        status, answer = (200, {}) if silent else families.refresh(form.get("refresh_token"))
        silent = silent or (strike and strike[0] == "after" and self.struck(strike))
        if silent:
            self.close_connection = True
        else:
            self.send(status, answer)

    def struck(self, strike):
        return subprocess.run(["sh", "-c", strike[1]], check=False).returncode == 1

    def send(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        try:
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # Whoever asked is gone, as it was meant to be.

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
