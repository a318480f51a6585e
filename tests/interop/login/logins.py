"""Logins as people make them, against a real authorization server: prints `ok CHECK` or `not ok CHECK: WHY` for each."""

import concurrent.futures
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.request

from person import Person
from world import (
    BINARY,
    FIXTURE,
    PROVIDERS,
    RECORDS,
    Provider,
    Shell,
    Watch,
    listens,
    login_command,
    prompts,
    query,
    redirect_of,
    sandbox,
    status,
    wait_for,
)

COLOUR = re.compile(rb"\x1b\[[\d;]*m")
SESSION = re.compile(rb'session"?[=:]"([0-9a-f]{8})"')

idp = Provider()
failed = 0
printing = threading.Lock()


def check(name, scenario, *arguments):
    global failed
    try:
        scenario(*arguments)
        line = f"ok {name}"
    except Exception as error:
        failed += 1
        trace = "".join(traceback.format_exception(error)).strip().replace("\n", "\n  ")
        line = f"not ok {name}: {' '.join(str(error).split())}\n  {trace}"
    with printing:
        print(line, flush=True)


def is_active(provider, token):
    return idp.introspect(provider, token)["active"]


def shows(provider, bucket, sub):
    """The entry as `status` shows it on the host: whose it is, and when it is renewed next."""
    entry = status(provider, bucket)
    assert entry, "no entry"
    assert entry["state"] == "ok" and entry["subject"] == sub and entry["failures"] == 0, entry
    assert entry["next_renewal"] and entry["next_renewal"] < entry["expire_time"], entry


def goes_on(shell, provider, bucket, sub):
    """The entry is usable in the sandbox, and goes on being renewed: two more tokens, each active, each of the same
    account."""
    tokens = []

    def another():
        answer = shell.token(provider, bucket)
        token = answer["access_token"]
        # The provider counts whole seconds: a token's last one says nothing.
        if token not in tokens and answer["expires_in"] > 1.5:
            said = idp.introspect(provider, token)
            assert said["active"] and said["sub"] == sub, said
            tokens.append(token)
        time.sleep(0.3)
        return len(tokens) > 2

    another()
    shows(provider, bucket, sub)
    wait_for("two renewals", another)


def in_sandbox(flow):
    provider, bucket, sub = PROVIDERS[flow], f"sandbox-{flow}", f"alice-{flow}"
    with sandbox(bucket, f"{provider}/{bucket}") as shell:
        prompt = shell.begin_login(provider, bucket, "--flow", flow)
        assert prompt["flow"] == flow, prompt
        # A thread of its own writes there and holds up no answer, so the sandbox may know a moment earlier.
        for shown in [prompt["auth_url"] or prompt["verification_url"], prompt["user_code"] or ""]:
            wait_for(f"run's terminal shows {shown}", lambda shown=shown: shown in shell.terminal(), 5)
        shell.answer(prompt, Person(sub))
        event = shell.completes()
        assert event["provider"] == provider and event["bucket"] == bucket, event
        wait_for("run's terminal says whose account it is", lambda: sub in shell.terminal(), 5)
        goes_on(shell, provider, bucket, sub)
        assert shell.end() == 0


def on_host(flow):
    provider, bucket, sub = PROVIDERS[flow], f"host-{flow}", f"bob-{flow}"
    with Shell(bucket) as shell:
        prompt = shell.begin_login(provider, bucket, "--flow", flow)
        if flow == "device_code":
            # The page that has the code in it.
            prompt["verification_url"] = prompt["verification_url_complete"]
        shell.answer(prompt, Person(sub))
        event = shell.completes()
        assert event["subject"] == sub and event["expire_time"], event
        assert status(provider, bucket)["subject"] == sub
    with Shell(f"{bucket}-read", "--allow", f"{provider}/{bucket}") as shell:
        goes_on(shell, provider, bucket, sub)


def says_no(flow):
    provider, bucket = PROVIDERS[flow], f"no-{flow}"
    with sandbox(bucket, f"{provider}/{bucket}") as shell:
        prompt = shell.begin_login(provider, bucket, "--flow", flow)
        page = Person("carol").refuse(prompt["auth_url"] or prompt["verification_url"], prompt["user_code"])
        if flow == "pkce_redirect":
            # There is no code on that page; its address says why.
            shell.say(page.url)
        shell.fails("ACCESS_DENIED")
    assert status(provider, bucket) is None


def another_account():
    provider, bucket = "native", "account"
    with sandbox(bucket, f"{provider}/{bucket}") as shell:
        shell.log_in(provider, bucket, "dora")
        shell.log_in(provider, bucket, "dora")
        before = shell.terminal()
        assert "credbroker login" not in before, before
        prompt = shell.begin_login(provider, bucket)
        shell.answer(prompt, Person("eve"))
        event = shell.fails("EXCHANGE_FAILED")
        assert "eve" not in event["message"] and "dora" not in event["message"], event
        how = f"credbroker login {provider} --bucket {bucket}"
        wait_for("run's terminal says how to log in anew", lambda: how in shell.terminal(), 5)
        goes_on(shell, provider, bucket, "dora")
        for tokens in idp.tokens_of("eve"):
            wait_for("what eve got is revoked", lambda: not is_active(provider, tokens["access_token"]), 10)
            assert not is_active(provider, tokens["refresh_token"]), "eve's refresh token"
        # The host may.
        with Shell(f"{bucket}-host") as host:
            assert host.log_in(provider, bucket, "eve")["subject"] == "eve"
        goes_on(shell, provider, bucket, "eve")


def wrong_state():
    for how, answer in [("another state", "{code}#wrong"), ("an empty state", "{code}#"), ("no code", "#{state}")]:
        with sandbox(f"state-{how.replace(' ', '-')}", "paste/state") as shell:
            prompt = shell.begin_login("paste", "state")
            page = Person("frank").agree(prompt["auth_url"])
            code, state = page.code.split("#")
            shell.say(answer.format(code=code, state=state))
            shell.fails("EXCHANGE_FAILED")
    assert status("paste", "state") is None
    assert not idp.tokens_of("frank"), "a code with the wrong state was exchanged"


def foreign_code():
    """The answer of one login in another one; the one that it belongs to is none the worse."""
    with sandbox("foreign-1", "paste/foreign-1") as one, sandbox("foreign-2", "paste/foreign-2") as two:
        first, second = one.begin_login("paste", "foreign-1"), two.begin_login("paste", "foreign-2")
        page = Person("grace").agree(second["auth_url"])
        assert page.code
        one.say(page.code)
        one.fails("EXCHANGE_FAILED")
        two.say(page.code)
        two.completes()
        assert first["auth_url"] != second["auth_url"]
    assert status("paste", "foreign-1") is None and status("paste", "foreign-2")["subject"] == "grace"


def replayed_code():
    with sandbox("replay", "paste/*") as shell:
        prompt = shell.begin_login("paste", "replay-1")
        page = shell.answer(prompt, Person("heidi"))
        shell.completes()
        code = page.code.split("#")[0]
        for again in [page.code, code, page.url]:
            shell.begin_login("paste", "replay-2")
            shell.say(again)
            shell.fails("EXCHANGE_FAILED")
    assert status("paste", "replay-2") is None


def junk_at_the_redirect():
    with sandbox("junk", "native/junk") as shell:
        prompt = shell.begin_login("native", "junk")
        redirect, port = redirect_of(prompt)
        state = query(prompt["auth_url"])["state"]
        root = redirect.rsplit("/", 1)[0]
        for url in [
            f"{root}/favicon.ico",
            root,
            redirect,
            f"{redirect}?code=x&state=wrong",
            f"{redirect}/more?code=x&state={state}",
            f"{redirect}?error=access_denied&state=wrong",
        ]:
            page = Person("nobody").open(url)
            assert page.status == 404, (url, page.status)
            assert state not in page.body
        ivan = Person("ivan")
        shell.answer(prompt, ivan)
        shell.completes()
        wait_for("nothing listens after the login", lambda: not listens(port), 5)
        try:
            again = Person("ivan").open(ivan.visited[-1])
            raise AssertionError(f"the redirect was answered twice, with {again.status}")
        except urllib.request.URLError:
            pass


def stopped():
    """A broker that is stopped in the middle of logins, and one whose login is cancelled."""
    shells = []
    for flow, end in [("browser_redirect", "stop"), ("device_code", "stop"), ("browser_redirect", "cancel")]:
        name = f"end-{end}-{flow}"
        shell = sandbox(name, f"native/{name}")
        shells.append(shell)
        with shell:
            # The number of the process that logs in comes first.
            command = login_command("native", name, "--flow", flow)
            shell.say(shlex.join(["sh", "-c", 'echo $$; exec "$0" "$@"', *command]))
            login = int(shell.line())
            prompt = shell.prompt()
            port = redirect_of(prompt)[1] if flow == "browser_redirect" else None
            if port:
                assert "127.0.0.1" in listens(port), "nobody listens for the browser"
            if end == "stop":
                shell.process.send_signal(signal.SIGTERM)
                shell.process.wait(20)
            else:
                os.kill(login, signal.SIGINT)
                assert shell.rest()[1] == 130
            if port:
                wait_for("nothing listens", lambda: not listens(port), 5)
    # On the host, by Ctrl-C.
    login = subprocess.Popen(
        login_command("native", "end", json=False), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    port = None
    while port is None:
        line = login.stderr.readline().decode()
        assert line, "the login ended"
        if "redirect_uri=" in line:
            port = redirect_of({"auth_url": line.strip()})[1]
    assert listens(port), "nobody listens for the browser"
    login.send_signal(signal.SIGINT)
    rest = login.communicate(timeout=20)[1].decode()
    assert login.returncode == 130, (login.returncode, rest)
    assert not listens(port)
    for name in ["end", "end-stop-browser_redirect", "end-stop-device_code", "end-cancel-browser_redirect"]:
        assert status("native", name) is None, name


def logout():
    provider, bucket = "paste", "out"
    with Shell(bucket) as host, Shell(f"{bucket}-run", "--allow", f"{provider}/{bucket}") as inside:
        host.log_in(provider, bucket, "judy")
        token = inside.token(provider, bucket)["access_token"]
        assert is_active(provider, token)
        lines, code = inside.run("logout", provider, "--bucket", bucket)
        assert code == 77, (code, lines)
        assert is_active(provider, inside.token(provider, bucket)["access_token"])

        lines, code = host.run("logout", provider, "--bucket", bucket)
        assert code == 0, (code, lines)
        said = [line for line in host.terminal().splitlines() if "logged out" in line]
        assert said and re.search(rf"{provider}/{bucket}.*revoked", said[0]), host.terminal()
        for tokens in idp.tokens_of("judy"):
            for kind in ["access_token", "refresh_token"]:
                assert not is_active(provider, tokens[kind]), f"a {kind} is active after logout"
        assert status(provider, bucket) is None

        def gone():
            return inside.run("token", "get", provider, "--bucket", bucket)[1] == 66

        wait_for("the sandbox finds nothing", gone, 5)
        assert host.run("logout", provider, "--bucket", bucket)[1] == 66


def not_allowed():
    with Shell("not-allowed", "--allow", "native") as shell:
        shell.say(f"{BINARY} login native --no-browser --json")
        shell.fails("UNAUTHORIZED")


def no_trace():
    """Everything that brokers and commands wrote at the level `trace`, the audit files, arguments and environments."""
    seen = idp.seen()
    secrets = seen["secrets"]
    for kind in ["verifier", "code", "device code", "refresh token", "id token"]:
        assert secrets.get(kind), f"the provider has seen no {kind}"
    audit = [path for path in (FIXTURE / "state").rglob("*") if path.is_file()]
    records = sorted(RECORDS.iterdir()) + audit
    texts = {path.name: COLOUR.sub(b"", path.read_bytes()) for path in records}
    everything = b"\n".join(texts.values())
    for sign in [b" TRACE ", b"a login is complete", b"InitiateLogin", b"--json", b"CREDBROKER_SOCKET="]:
        assert sign in everything, f"nothing says {sign.decode()}: this is no record of logins"
    assert any(tokens["access_token"].encode() in everything for tokens in seen["tokens"]), "no access token was printed"
    sessions = set(SESSION.findall(everything))
    assert len(sessions) >= len(prompts), f"{len(sessions)} sessions are on record, of {len(prompts)} logins at least"
    found = []
    for name, text in texts.items():
        for kind, values in secrets.items():
            found += [f"{name} holds a {kind}" for value in set(values) if value.encode() in text]
        found += [f"{name} holds a session's id" for short in sessions if re.search(short + rb"[0-9a-f]{24}", text)]
        for prompt in prompts:
            url = prompt["auth_url"]
            if url:
                rest = text.replace(url.encode(), b"")
                for part in ["state", "code_challenge"]:
                    if query(url)[part].encode() in rest:
                        found.append(f"{name} holds a {part} outside of a URL")
    assert not found, "; ".join(found)


def main():
    idp.configure()
    Watch.start()
    flows = list(PROVIDERS)
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for flow in flows:
            pool.submit(check, f"{flow} in the sandbox", in_sandbox, flow)
            pool.submit(check, f"{flow} on the host", on_host, flow)
            pool.submit(check, f"{flow}: the person says no", says_no, flow)
        for name, scenario in [
            ("another account from the sandbox", another_account),
            ("a wrong state", wrong_state),
            ("a code of another login", foreign_code),
            ("a code that was used", replayed_code),
            ("junk at the loopback redirect", junk_at_the_redirect),
            ("a broker that is stopped in the middle", stopped),
            ("logout", logout),
            ("a login that is not allowed", not_allowed),
        ]:
            pool.submit(check, name, scenario)
    Watch.end()
    seen = idp.seen()
    print(f"# {len(seen['tokens'])} token answers, {seen['refreshed']} of them renewals, {time.monotonic() - started:.0f} s")
    check("no secret in logs, records, arguments and environments", no_trace)
    idp.end()


main()
sys.exit(1 if failed else 0)
