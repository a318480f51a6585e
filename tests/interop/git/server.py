"""Git over HTTP on loopback. The password has to be an access token that the provider calls active at that moment; the
user name may be any. Repositories are those of GIT_PROJECT_ROOT; what is fetched from slow.git takes SLOW seconds.

Prints its port and serves until its standard input ends. Each request is a line of JSON in the file REQUESTS; tokens that
came go to the file TOKENS, one a line."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROVIDER = json.loads(os.environ["OIDC_PROVIDER"])
SLOW = float(os.environ["SLOW"])
quote = urllib.parse.quote_plus
CLIENT = base64.b64encode(f"{quote(PROVIDER['client_id'])}:{quote(PROVIDER['client_secret'])}".encode()).decode()

lock = threading.Lock()
requests = open(os.environ["REQUESTS"], "a", buffering=1)
tokens = open(os.environ["TOKENS"], "a", buffering=1)


def active(token):
    form = urllib.parse.urlencode({"token": token}).encode()
    url = PROVIDER["issuer"] + "/token/introspection"
    request = urllib.request.Request(url, form, {"Authorization": "Basic " + CLIENT})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["active"]


def shown_by(token):
    """The processes that have the token among their arguments or in their environment, and whether git was looked at."""
    needles = [token.encode(), base64.b64encode(b"oauth2:" + token.encode())]
    found, git = [], False
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ["cmdline", "environ"]:
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    content = file.read()
            except OSError:
                continue
            git = git or (name == "cmdline" and b"git-remote-http" in content or b"remote-http" in content)
            if any(needle in content for needle in needles):
                found.append(f"{name} of {pid}")
    return found, git


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.serve()

    def do_POST(self):
        self.serve()

    def serve(self):
        body = self.body()
        about = {"at": time.time(), "method": self.command, "path": self.path}
        user, token = self.credentials()
        if token is None:
            status = 401
        else:
            about |= {"user": user, "token": hashlib.sha256(token.encode()).hexdigest()[:16]}
            with lock:
                print(token, file=tokens)
            status = 200 if active(token) else 401
            about["shown_by"], about["git_was_there"] = shown_by(token)
        if status == 401:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            status = self.backend(user, body)
        with lock:
            print(json.dumps(about | {"status": status, "took": time.time() - about["at"]}), file=requests)

    def credentials(self):
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None, None
        user, _, password = base64.b64decode(value).decode().partition(":")
        return user, password

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def backend(self, user, body):
        path, _, query = self.path.partition("?")
        variables = {
            "GIT_PROJECT_ROOT": os.environ["GIT_PROJECT_ROOT"],
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "PATH": os.environ["PATH"],
            "REMOTE_USER": user or "somebody",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": urllib.parse.unquote(path),
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, stdout=subprocess.PIPE, env=variables, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        status, headers = 200, []
        for line in head.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            if name.lower() == "status":
                status = int(value.split()[0])
            elif name:
                headers.append((name, value))
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if path == "/slow.git/git-upload-pack" and b"command=fetch" in body:
            parts = 20
            step = len(content) // parts + 1
            for at in range(0, len(content), step):
                time.sleep(SLOW / parts)
                self.wfile.write(content[at : at + step])
                self.wfile.flush()
        else:
            self.wfile.write(content)
        return status

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
