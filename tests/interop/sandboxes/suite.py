"""The hostile suite: the attack of attack/ inside real sandboxes, and what the host finds afterwards.

suite.py BINARY SITE IMAGE. Every attempt has a line in expected.txt, with the outcome in each sandbox; one that did not run,
or that nobody expects, is a failure. Needs root.
"""

import ctypes
import glob
import json
import os
import re
import subprocess
import sys
import threading
import time

import loosened
import rig
from world import World, wait_quiet

binary, site, image = sys.argv[1:4]
os.environ["RING_IMAGE"] = image
WORLDS = [
    ("bwrap", "bwrap", 0, []),
    ("bwrap, a user", "bwrap", 4242, []),
    ("podman", "podman", 0, []),
    ("podman, uids mapped", "podman", 0, ["--uidmap", "0:200000:65536"]),
]


def expected():
    """{attempt: {world: outcomes}} of expected.txt. `/` is between outcomes that are both right."""
    table = {}
    with open(os.path.join(rig.HERE, "expected.txt")) as file:
        lines = [line.rstrip("\n") for line in file if line.strip() and not line.startswith("#")]
    names = [cell.strip() for cell in lines[0].split(" | ")[1:]]
    for line in lines[1:]:
        attempt, *cells = (cell.strip() for cell in line.split(" | "))
        cells = cells * len(names) if len(cells) == 1 else cells  # The same everywhere.
        assert len(cells) == len(names) and attempt not in table, line
        table[attempt] = {name: cell.split(" / ") for name, cell in zip(names, cells)}
    return names, table


def scopes():
    """Whether this kernel can keep a program from abstract sockets: the sixth ABI of Landlock, Linux 6.12."""
    return ctypes.CDLL(None).syscall(444, None, ctypes.c_long(0), ctypes.c_long(1)) >= 6  # landlock_create_ruleset


def afterwards(world, said):
    """What the host sees when the command has ended, as outcomes like the attack's own."""
    yield "host: what run ended with", next(iter(re.findall(r"^status (\d+)$", said, re.M)), f"nothing: {said[-300:]}")
    # The attack's process wrote to the last; nobody may write now.
    heartbeat = world.path("out/heartbeat")
    if os.path.exists(heartbeat):
        yield "host: the process that was left behind", "ended" if wait_quiet(heartbeat) else "alive"
    secrets = dict(world.secrets)
    if world.sandbox == "bwrap" and not scopes():
        del secrets[world.ABSTRACT]
    found = world.found(secrets)
    for kind, where in found.items():
        rig.note(f"{world.name}: {kind} was got at by: {where}")
    yield "host: secrets that the attack got at", ", ".join(sorted(found)) or "nothing"
    own = {**world.own, "the neighbour's capability, which it was told": world.neighbour}
    yield "host: the sandbox's own, that it has to have", ", ".join(sorted(world.found(own))) or "nothing"
    typed = said.partition("typed:\n")[2].split(world.mark)[0]
    yield "host: what was typed into the terminal", repr(typed) if typed.strip() else "nothing"
    with open(world.path("heard")) as file:
        yield "host: signals that run's process group heard", ", ".join(sorted(set(file.read().split()))) or "nothing"
    yield "host: the process that was to be killed", "alive" if world.decoy.poll() is None else "dead"
    places = ["/etc", "/usr", "/usr/bin", "/usr/local/bin", "/usr/lib", "/bin", "/lib", world.home]
    marked = [place for place in places if os.path.exists(os.path.join(place, world.mark))]
    yield "host: files that were put outside", ", ".join(marked) or "nothing"
    live = world.brokers()
    yield "host: brokers that live", "the neighbour's alone" if live == {world.neighbour_socket} else str(live)
    served = world.served()
    rest = {outcome for outcome, _ in served}
    yield "host: what the neighbour's client got", ", ".join(sorted(rest)) if len(served) > 20 else f"{len(served)} answers"
    lines, text = audited(world)
    delivered = {
        line.get("key") or f"{line['provider']}/{line['bucket']}"
        for line in lines
        if line["outcome"] == "ok"
        and re.search("Token$|ApiKey|Secrets|Login|Code", line["operation"])
        and ("provider" in line or "key" in line)
    }
    yield "host: what the broker's audit says was delivered", ", ".join(sorted(delivered)) or "nothing"
    with open(world.path("log"), "rb") as file:
        text += file.read()
    yield "host: control characters in audit and log", "some" if re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", text) else "none"


def audited(world):
    """The lines of the attacked broker: it is the one that refused the most. And the bytes of all files."""
    files, text = [], b""
    for path in glob.glob(world.path("audit/*")):
        with open(path, "rb") as file:
            data = file.read()
        text += data
        files.append([json.loads(line) for line in data.splitlines() if b'"operation"' in line])
    return max(files, key=lambda lines: sum(line["outcome"] != "ok" for line in lines), default=[]), text


def attacked(work, name, sandbox, uid, flags, results, loose=False):
    world = World(work, os.path.join(work, "credbroker"), name, sandbox, uid, flags)
    try:
        world.start_neighbours()
        world.tell()
        if loose:
            loosened.install(world)
        began = time.monotonic()
        said = world.attack(loosened.pattern(sandbox) if loose else "")
        took = time.monotonic() - began
        outcomes = {}
        if os.path.exists(world.path("out/results.json")):
            with open(world.path("out/results.json")) as file:
                listed = json.load(file)
            outcomes = {attempt: outcome for attempt, outcome, _ in listed}
            slow = sorted(listed, key=lambda row: -row[2])[:4]
            rig.note(f"{name}: {len(listed)} attempts in {took:.0f} s; the longest: {[(row[0], row[2]) for row in slow]}")
        else:
            with open(world.path("log")) as file:
                rig.note(f"{name}: {said[-400:]!r} {file.read()[-600:]!r}")
        outcomes.update(afterwards(world, said))
        for file in ("floods", "medians"):
            if os.path.exists(world.path("out", file)):
                with open(world.path("out", file)) as lines:
                    for line in lines:
                        rig.note(f"{name}: {line.strip()}")
        results[name] = outcomes
    finally:
        world.end()


def main():
    names, table = expected()
    assert names == [name for name, *_ in WORLDS], names
    if not scopes():
        for world in ("bwrap", "bwrap, a user"):
            table["connect to an abstract socket of the host"][world] = ["connected"]
    results = {}
    with rig.workplace(site) as work:
        subprocess.run(["install", "-m", "0755", binary, f"{work}/credbroker"], check=True)
        threads = [threading.Thread(target=attacked, args=(work, *world, results)) for world in WORLDS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # One after the other, and alone: what is loosened may reach the others.
        for sandbox in loosened.NOTICED:
            attacked(work, f"{sandbox}, loosened", sandbox, 0, [], results, loose=True)
    rows = []
    for attempt in [*table, *sorted({seen for name in names for seen in results.get(name, {})} - set(table))]:
        cells = []
        for name in names:
            outcome = results.get(name, {}).get(attempt, "did not run")
            right = table.get(attempt, {}).get(name, ["(nobody expects it)"])
            cells.append(outcome)
            rig.check(f"{name}: {attempt}", outcome in right, f"{outcome}; expected: {' / '.join(right)}")
        rows.append(
            [
                attempt,
                *cells,
                "as expected" if all(c in table.get(attempt, {}).get(n, []) for n, c in zip(names, cells)) else "NO",
            ]
        )
    rig.grid(["attempt", *names, "judgement"], rows)
    for sandbox, attempts in loosened.NOTICED.items():
        for attempt in attempts:
            outcome = results.get(f"{sandbox}, loosened", {}).get(attempt, "did not run")
            noticed = not outcome.startswith("did not run") and outcome not in table.get(attempt, {}).get(sandbox, [])
            rig.check(f"{sandbox}, loosened by hand: noticed: {attempt}", noticed, outcome)


main()
rig.alone()
