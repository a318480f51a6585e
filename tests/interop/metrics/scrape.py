"""A real broker, scraped over TCP and over a Unix socket, and read as strictly as Prometheus' own library can."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time

from prometheus_client.openmetrics.parser import text_string_to_metric_families

binary, fixture = sys.argv[1:]
KEPT = ["XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "PATH", "HOME"]


def check(name, holds, why=""):
    print(f"ok {name}" if holds else f"not ok {name}: {why}", flush=True)


def serve(listen):
    host = {name: os.environ[name] for name in KEPT} | {"CREDBROKER_METRICS_LISTEN": listen}
    process = subprocess.Popen([binary, "serve"], env=host, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    at = None
    for line in process.stderr:
        found = re.search(r"metrics are shown at=(\S+)", line)
        at = found.group(1) if found else at
        if "serving" in line:
            return process, at
    raise SystemExit(f"the broker did not start: {process.wait()}")


def get(connection, path="/metrics"):
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.getheader("content-type"), answer.read().decode()


def over_unix(path):
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    return connection


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


sandbox = os.path.join(os.environ["XDG_RUNTIME_DIR"], "credbroker/daemon/sandbox/sock")
path = os.path.join(fixture, "metrics.sock")
os.chmod(fixture, 0o755)
for name, listen in [("tcp", "127.0.0.1:0"), ("unix", path)]:
    process, at = serve(listen)

    def connect():
        if name == "unix":
            return over_unix(at)
        return http.client.HTTPConnection(at.removeprefix("http://").removesuffix("/metrics"), timeout=30)

    environment = {"PATH": os.environ["PATH"], "CREDBROKER_SOCKET": sandbox}
    for provider in ["github", "absent"]:
        subprocess.run([binary, "token", "get", provider], env=environment, capture_output=True, timeout=30)
    # An answer is given again for a second.
    for _ in range(50):
        status, kind, text = get(connect())
        if 'method="GetToken",reason="NOT_FOUND"' in text:
            break
        time.sleep(0.1)
    check(f"{name}: answered", status == 200 and kind.startswith("application/openmetrics-text; version=1.0.0"), kind)
    try:
        found = families(text)
        check(f"{name}: the text is OpenMetrics", len(found) > 10, text)
    except Exception as error:  # The parser's own judgement.
        check(f"{name}: the text is OpenMetrics", False, repr(error))
        continue
    requests = {
        (sample.labels["method"], sample.labels["reason"]): sample.value
        for sample in found["credbroker_requests"].samples
        if sample.name.endswith("_total")
    }
    check(
        f"{name}: calls are counted",
        requests[("GetToken", "OK")] == 1 and requests[("GetToken", "NOT_FOUND")] == 1,
        requests,
    )
    expiry = {tuple(sample.labels.values()): sample.value for sample in found["credbroker_entry_expires_in_seconds"].samples}
    check(f"{name}: entries are shown", 0 < expiry[("github", "default")] <= 3600, expiry)
    check(f"{name}: no secret", not re.search("gho_demo|ghr_never|sk-demo|AGE-SECRET", text), text)
    check(f"{name}: nothing else is there", get(connect(), "/")[0] == 404)
    process.send_signal(signal.SIGTERM)
    process.stderr.read()
    check(f"{name}: it ends", process.wait(30) == 0)
check("the socket is gone", not os.path.exists(path))
