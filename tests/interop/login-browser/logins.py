"""Logins in headless Chromium: prints `ok CHECK` or `not ok CHECK: WHY`. The pictures go to LOGIN_CAPTURES."""

import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys

from world import FIXTURE, Provider, listens, redirect_of, sandbox, status, wait_for

CAPTURES = pathlib.Path(os.environ.get("LOGIN_CAPTURES") or FIXTURE / "captures")
BROWSER = pathlib.Path(__file__).parent / "browser.mjs"

idp = Provider()
failed = 0


def at_the_browser(name, answer, url):
    command = ["node", str(BROWSER), str(CAPTURES), name, answer]
    done = subprocess.run(command, input=url, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-800:]
    pages = json.loads(done.stdout)["pages"]
    for page in pages:
        assert pathlib.Path(page["picture"]).stat().st_size > 2000, page["picture"]
    return pages


def check(name, scenario):
    global failed
    try:
        scenario()
        print(f"ok {name}", flush=True)
    except Exception as error:
        failed += 1
        print(f"not ok {name}: {' '.join(str(error).split())}", flush=True)


def agrees():
    with sandbox("agrees", "native/agrees") as shell:
        prompt = shell.begin_login("native", "agrees")
        assert prompt["flow"] == "browser_redirect", prompt
        redirect, port = redirect_of(prompt)
        sign_in, consent, end = at_the_browser("alice", "continue", prompt["auth_url"])
        assert sign_in["title"] == "Sign-in" and "Authorize" in consent["text"], (sign_in, consent)
        assert end["address"].startswith(redirect), end["address"]
        assert "close" in end["text"], end["text"]
        shell.completes()
        token = shell.token("native", "agrees")["access_token"]
        said = idp.introspect("native", token)
        assert said["active"] and said["sub"] == "alice", said
        assert status("native", "agrees")["subject"] == "alice"
        wait_for("nothing listens after the login", lambda: not listens(port), 5)


def cancels():
    with sandbox("cancels", "native/cancels") as shell:
        prompt = shell.begin_login("native", "cancels")
        redirect, port = redirect_of(prompt)
        end = at_the_browser("bob", "cancel", prompt["auth_url"])[-1]
        assert end["address"].startswith(redirect), end["address"]
        shell.fails("ACCESS_DENIED")
        assert status("native", "cancels") is None
        wait_for("nothing listens after the login", lambda: not listens(port), 5)


def reap():
    """Waits for what the browser leaves to its system's first process, which here is this one."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
CAPTURES.mkdir(parents=True, exist_ok=True)
idp.configure()
check("a login in Chromium", agrees)
check("a person who cancels in Chromium", cancels)
idp.end()
signal.alarm(20)
reap()
sys.exit(1 if failed else 0)
