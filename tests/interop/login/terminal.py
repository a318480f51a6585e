"""What a person sees of a login in a terminal of 80 columns and 24 lines (tmux): prints `ok CHECK` or `not ok CHECK: WHY`
for each flow, and keeps the pictures in the directory LOGIN_CAPTURES."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

from person import Person
from world import BINARY, FIXTURE, Provider, wait_for

COLUMNS, LINES = 80, 24
CAPTURES = pathlib.Path(os.environ.get("LOGIN_CAPTURES") or FIXTURE / "captures")
TOOLS = FIXTURE / "tools"
OPENED = FIXTURE / "opened"
TMUX = ["tmux", "-u", "-S", str(FIXTURE / "tmux"), "-f", "/dev/null"]

idp = Provider()
failed = 0


def tmux(*arguments):
    done = subprocess.run([*TMUX, *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Terminal:
    """One window with a shell in it, as a person has it."""

    def __init__(self, name):
        self.name = name
        # A screen there is, or not, as the scenario wants it.
        shell = ["env", "-u", "DISPLAY", "-u", "WAYLAND_DISPLAY", f"PATH={TOOLS}:{os.environ['PATH']}", "PS1=$ ", "sh"]
        tmux("new-session", "-d", "-s", name, "-x", str(COLUMNS), "-y", str(LINES), shlex.join(shell))
        self.pictures = 0
        self.shows("$")

    def type(self, text):
        tmux("send-keys", "-t", self.name, "-l", text)
        tmux("send-keys", "-t", self.name, "Enter")

    def press(self, key):
        tmux("send-keys", "-t", self.name, key)

    def lines(self):
        """Everything since the start, as it was written: what the terminal had to wrap is joined."""
        return [line.rstrip() for line in tmux("capture-pane", "-p", "-J", "-S", "-", "-t", self.name).splitlines()]

    def text(self):
        return "\n".join(self.lines())

    def code(self):
        """The code to enter, on a line of its own."""
        return wait_for("a code", lambda: re.findall(r"(?m)^\s*([A-Z]{4}-[A-Z]{4})$", self.text()), 20)[0]

    def visible(self):
        """What is on the screen now, without what has gone off at the top."""
        return tmux("capture-pane", "-p", "-J", "-t", self.name)

    def picture(self, what):
        """As it looks."""
        self.pictures += 1
        shown = tmux("capture-pane", "-p", "-S", "-", "-t", self.name).rstrip() + "\n"
        (CAPTURES / f"{self.name}-{self.pictures}-{what}.txt").write_text(shown)

    def shows(self, text):
        """Waits for words, wherever a line ends between them."""

        def shown():
            return " ".join(text.split()) in " ".join(self.text().split())

        return wait_for(f"the terminal {self.name} shows {text!r}", shown, 20)

    def url(self, start):
        """The URL, which a terminal may wrap, but nobody else."""
        found = wait_for("a URL", lambda: re.findall(rf"(?m)^\s*({re.escape(start)}\S*)$", self.text()), 20)
        return found[0]

    def reads_well(self):
        """Nothing of ours is wider than the terminal but URLs, and nothing is written into another line."""
        for line in self.lines():
            if not line.startswith("$ "):
                assert not re.search(r"\S.*(credbroker: |\d{4}-\d\d-\d\dT)", line), f"written into another line: {line}"
                assert len(line) <= COLUMNS or "http://" in line, f"wider than the terminal: {line}"

    def end(self):
        tmux("kill-session", "-t", self.name)


def check(name, scenario):
    global failed
    terminal = Terminal(name.replace(" ", "-"))
    try:
        scenario(terminal)
        terminal.reads_well()
        print(f"ok terminal: {name}", flush=True)
    except Exception as error:
        failed += 1
        shown = terminal.text().rstrip().replace("\n", "\n  ")
        print(f"not ok terminal: {name}: {' '.join(str(error).split())}\n  {shown}", flush=True)
    terminal.end()


def counts_down(terminal, *shown):
    """The remaining time is shown, and goes down, and the rest of what the person needs is still on the screen."""

    def left():
        found = re.findall(r"\b(\d+):(\d\d)\b", terminal.text())
        return found and int(found[-1][0]) * 60 + int(found[-1][1])

    first = wait_for("the remaining time", left, 10)
    terminal.picture("prompt")
    assert 500 < first <= 600, first
    wait_for("the time goes on", lambda: left() < first, 10)
    assert len(re.findall(r"\b\d+:\d\d\b", terminal.text())) == 1, "the time is shown more than once"
    for part in shown:
        assert part in terminal.visible().split(), f"{part} has gone off the screen"


def device(terminal):
    terminal.type(f"{BINARY} login native --flow device_code")
    url = terminal.url(f"{idp.issuer}/device")
    code = terminal.code()
    counts_down(terminal, url, code)
    assert any("▀" in line or "█" in line or "▄" in line for line in terminal.lines()), "no QR code"
    Person("alice").agree(url, code)
    terminal.shows("logged in")
    terminal.picture("done")
    assert "alice" in terminal.text()


def browser(terminal):
    terminal.type(f"{BINARY} login native --flow browser_redirect")
    url = terminal.url(f"{idp.issuer}/auth?")
    counts_down(terminal, url)
    Person("alice").agree(url)
    terminal.shows("logged in")
    terminal.picture("done")


def browser_that_is_opened(terminal):
    """Where there is a screen, the page opens by itself."""
    terminal.type(f"DISPLAY=:0 {BINARY} login native --bucket opened")
    wait_for("a browser", OPENED.exists)
    url = OPENED.read_text()
    assert url == terminal.url(f"{idp.issuer}/auth?"), url
    counts_down(terminal, url)
    Person("alice").agree(url)
    terminal.shows("logged in")
    OPENED.unlink()
    terminal.type(f"DISPLAY=:0 {BINARY} login native --bucket opened --no-browser")
    counts_down(terminal)
    terminal.press("C-c")
    terminal.shows("cancelled")
    assert not OPENED.exists(), "--no-browser opened one"


def paste(terminal):
    terminal.type(f"{BINARY} login paste")
    url = terminal.url(f"{idp.issuer}/auth?")
    counts_down(terminal, url)
    page = Person("alice").agree(url)
    terminal.type(page.code)
    terminal.shows("logged in")
    terminal.picture("done")
    code = page.code.split("#")[0]
    assert code not in terminal.text(), "the code is shown"
    # Typing is shown again.
    terminal.type("echo back again")
    terminal.shows("$ echo back again")


def interrupted(terminal):
    terminal.type(f"{BINARY} login paste --bucket none; echo status $?")
    terminal.url(f"{idp.issuer}/auth?")
    counts_down(terminal)
    terminal.press("C-c")
    terminal.shows("status 130")
    terminal.picture("done")
    terminal.type("echo back again")
    terminal.shows("$ echo back again")


def sandbox(terminal):
    """The host's own words and those of the program in the sandbox on one terminal."""
    rights = "--allow native/box --allow-login native/box"
    terminal.type(f"{BINARY} run {rights} -- {BINARY} login native --bucket box --flow device_code")
    url = terminal.url(f"{idp.issuer}/device")
    code = terminal.code()
    counts_down(terminal, url, code)
    Person("bob").agree(url, code)
    terminal.shows("the account is bob")
    terminal.shows("logged in")
    terminal.picture("done")


def sandbox_other_account(terminal):
    rights = "--allow native/box --allow-login native/box"
    login = "login native --bucket box --flow browser_redirect"
    terminal.type(f"{BINARY} run {rights} -- {BINARY} {login}; echo status $?")
    Person("carol").agree(terminal.url(f"{idp.issuer}/auth?"))
    terminal.shows("status 77")
    terminal.picture("done")
    assert "credbroker login native --bucket box" in terminal.text()


def logout(terminal):
    terminal.type(f"{BINARY} status; {BINARY} logout native; {BINARY} logout native; echo status $?")
    terminal.shows("status 66")
    terminal.picture("done")


CAPTURES.mkdir(parents=True, exist_ok=True)
TOOLS.mkdir()
# What opens pages on a desktop.
(TOOLS / "xdg-open").write_text(f"#!/bin/sh\nprintf %s \"$1\" >'{OPENED}.new' && mv '{OPENED}.new' '{OPENED}'\n")
(TOOLS / "xdg-open").chmod(0o755)
# So that the server outlives each terminal.
tmux("new-session", "-d", "-s", "first", "cat")
try:
    idp.configure()
    for each in [device, browser, browser_that_is_opened, paste, interrupted, sandbox, sandbox_other_account, logout]:
        check(each.__name__.replace("_", " "), each)
finally:
    subprocess.run([*TMUX, "kill-server"], capture_output=True)
idp.end()
sys.exit(1 if failed else 0)
