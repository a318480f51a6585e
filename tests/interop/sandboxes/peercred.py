"""What SO_PEERCRED tells the broker about each way of starting a sandbox, and whom it lets in therefore.

peercred.py BINARY SITE IMAGE. Three brokers on one store: one of root's without flags, one of root's that names uids, and
one of another user. Needs root.
"""

import concurrent.futures
import glob
import json
import os
import subprocess
import sys
import time

import calls
import rig

binary, site, image = sys.argv[1:]
NAMED = [1000, 4242, 200000, 201000]
OTHER = 1000  # The user of the third broker.
SHORT = {"own": "root's, no flag", "named": "root's, --allow-uid", "other": f"uid {OTHER}'s, no flag"}
# What the pages of the services say, and two that are not there.
BESIDES = {"/credbroker.v1.ControlBroker/GetStatus": False, "/no.Such/Method": False}

AS_4242 = ["setpriv", "--reuid", "4242", "--regid", "4242", "--clear-groups"]
MERGED = ["--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"]


def bwrap(work, mounts, *flags):
    command = ["bwrap", "--ro-bind", "/usr", "/usr", *MERGED, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    command += ["--unshare-pid", "--die-with-parent", "--ro-bind", f"{work}/site", "/site", *flags]
    for source, target in mounts:
        command += ["--ro-bind", source, target]
    return command


def podman(work, mounts, *flags):
    command = ["podman", "run", "--rm", "-i", "--network", "none", "--pull", "never", "-v", "/usr:/usr:ro"]
    command += ["-v", f"{work}/site:/site:ro", *flags]
    for source, target in mounts:
        command += ["-v", f"{source}:{target}:ro"]
    return [*command, image]


MAPPED = ["--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536"]
# started by, the uid inside, the uid that the broker sees; whether the mount is read-only.
WAYS = [
    ("the broker's own user", lambda *at: [], 0, 0, False),
    ("setpriv to uid 4242", lambda *at: AS_4242, 4242, 4242, False),
    ("unshare -U", lambda *at: ["unshare", "-U"], 65534, 0, False),
    ("unshare -U -r as uid 4242", lambda *at: [*AS_4242, "unshare", "-U", "-r"], 0, 4242, False),
    ("bwrap", bwrap, 0, 0, True),
    ("bwrap --unshare-user --uid 1000", lambda *at: bwrap(*at, "--unshare-user", "--uid", "1000"), 1000, 0, True),
    ("bwrap as uid 4242", lambda *at: [*AS_4242, *bwrap(*at)], 4242, 4242, True),
    ("podman, container root", podman, 0, 0, True),
    ("podman --user 1000", lambda *at: podman(*at, "--user", "1000"), 1000, 1000, True),
    ("podman --uidmap 0:200000:65536", lambda *at: podman(*at, *MAPPED), 0, 200000, True),
    ("podman --uidmap, --user 1000", lambda *at: podman(*at, *MAPPED, "--user", "1000"), 1000, 201000, True),
]


def sentence(uid):
    """What every refusal begins with: who it was, and what the host can do."""
    return f"uid {uid} may not use this socket: the host allows it with `--allow-uid {uid}`"


def verdict(answers, uid):
    """`let in`, `refused`, or what is wrong with the answers of one broker."""
    token = answers["/credbroker.v1.CredentialBroker/GetToken"]
    if token[0] == "OK":
        turned = [method for method, (_, reason, *_) in answers.items() if reason in ("PEER_NOT_ALLOWED", "UNAUTHENTICATED")]
        return f"let in, but not by {turned}" if turned else "let in"
    for method, (code, reason, message, payload) in answers.items():
        if (code, reason, payload) != ("PERMISSION_DENIED", "PEER_NOT_ALLOWED", ""):
            return f"{method}: {code} {reason} {message}"
        if not message.startswith(sentence(uid)):
            return f"{method}: {message}"
    return "refused"


def main():
    with rig.workplace(site) as work:
        brokers = {}
        try:
            brokers.update(start(work))
            table(work, brokers)
        finally:
            for broker in brokers.values():
                broker.stop()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            rows = list(pool.map(lambda numbered: started(work, numbered[0], *numbered[1]), enumerate(RUNS)))
        rig.grid(["run --sandbox", "uid the broker sees", "let in besides", "refused"], rows)


def start(work):
    def directory(name, owner=0):
        path = os.path.join(work, name)
        os.mkdir(path, 0o711)
        os.chown(path, owner, owner)
        return path

    yield "own", rig.Broker(binary, directory("own"))
    named = [flag for uid in NAMED for flag in ("--allow-uid", str(uid))]
    yield "named", rig.Broker(binary, directory("named"), named)
    # A user with a store, a runtime directory and a binary of its own.
    home = directory("home", OTHER)
    os.chmod(home, 0o700)
    places = {f"XDG_{kind}_HOME": home for kind in ("DATA", "STATE", "CONFIG")}
    environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": home, "HOME": home, **places}
    prefix = ["setpriv", "--reuid", str(OTHER), "--regid", str(OTHER), "--clear-groups"]
    copy = os.path.join(work, "credbroker")
    subprocess.run(["install", "-m", "0755", binary, copy], check=True)
    token = b'{"access_token":"gho_other"}'
    subprocess.run(
        [*prefix, copy, "token", "import", "github"], env=environment, input=token, check=True, capture_output=True
    )
    other = directory("other", OTHER)
    for path in (other + ".audit",):
        os.mkdir(path, 0o700)
        os.chown(path, OTHER, OTHER)
    yield "other", rig.Broker(copy, other, prefix=prefix, environment=environment)


def table(work, brokers):
    channel = calls.open_channel(brokers["own"].socket)
    methods = {**calls.methods(channel), **BESIDES}
    channel.close()
    rig.check(
        "reflection names the services", len(methods) > 20 and "/grpc.health.v1.Health/Check" in methods, sorted(methods)
    )
    rows = []
    for started, way, inside, seen, read_only in WAYS:
        mounts = [(broker.directory, f"/run/credbroker/{name}") for name, broker in brokers.items()]
        sockets = {name: f"/run/credbroker/{name}/sock" if read_only else broker.socket for name, broker in brokers.items()}
        site_inside = "/site" if read_only else f"{work}/site"
        before = {name: (broker.recorded(), len(broker.audited())) for name, broker in brokers.items()}
        asked = {name: [path, brokers[name].capability] for name, path in sockets.items()}
        command = [*way(work, mounts), rig.PYTHON, "-B", f"{site_inside}/caller.py", site_inside]
        given = json.dumps({"sockets": asked, "methods": methods})
        ended = subprocess.run(command, input=given, capture_output=True, text=True, timeout=rig.PATIENCE, cwd="/")
        rig.check(
            f"peer: {started}: it starts", ended.returncode == 0, f"status {ended.returncode}: {ended.stderr.strip()[-600:]}"
        )
        if ended.returncode:
            rows.append([started, "?", "?", "?", *["did not run"] * len(brokers)])
            continue
        found = json.loads(ended.stdout)
        rows.append(row(started, found, brokers, before, (inside, seen, read_only)))
    rig.grid(["started by", "uid inside", "read-only", "uid the broker sees", *SHORT.values()], rows)


def row(started, found, brokers, before, expected):
    inside, seen, read_only = expected
    lets = {"own": [0], "named": [0, *NAMED], "other": [OTHER]}
    cells, uids, mounted = [], set(), set()
    for name, broker in brokers.items():
        answers = found["sockets"][name]
        mounted.add(answers["read_only"])
        # Lines are on disk within 20 ms of the call. An answer goes out before its line does.
        recorded, audited = before[name]
        rig.until(lambda: broker.recorded() >= recorded + 15, "audit lines")
        uids |= {line["peer_uid"] for line in broker.audited()[audited:]}
        cell, right = verdict(answers["answers"], seen), "let in" if seen in lets[name] else "refused"
        rig.check(f"peer: {started}, a broker of {SHORT[name]}: {right}", cell == right, cell)
        cells.append(cell)
    rig.check(f"peer: {started}: the uid inside is {inside}", found["uid"] == inside, found["uid"])
    rig.check(f"peer: {started}: every audit line has peer_uid {seen}", uids == {seen}, uids)
    if read_only:
        rig.check(f"peer: {started}: the mount is read-only, and still allows connect", mounted == {True}, mounted)
    return [started, str(found["uid"]), "yes" if mounted == {True} else "no", ", ".join(map(str, sorted(uids))), *cells]


# What `run` is told; the user who runs it; the uid that the broker sees; other uids of the host, and whether they are let in.
# Refused as well: whoever may not even open the socket. The broker's own user is always let in.
RUNS = [
    ("bwrap", 0, [], 0, {4242: False, 200000: False}),
    ("bwrap", 4242, [], 4242, {4243: False}),
    ("podman", 0, [], 0, {4242: False, 1000: False}),
    ("podman", 0, ["--user", "1000"], 1000, {1000: True, 1001: False}),
    ("podman", 0, ["--uidmap", "0:200000:65536"], 200000, {200005: True, 265535: True, 265536: False, 199999: False}),
    ("podman", 0, ["--uidmap", "0:200000:65536", "--user", "1000"], 201000, {201000: True, 1000: False, 265536: False}),
    ("podman", 0, ["--userns", "host", "--user", "1000"], 1000, {1000: True, 4242: False}),
]


def started(work, number, sandbox, uid, flags, seen, others):
    """One row: a sandbox that `run` starts, and who else is let in while it lives."""
    name = " ".join([sandbox, *flags] + (["as uid " + str(uid)] if uid else []))
    place = os.path.join(work, f"run-{number}")
    for directory in ("", "out", "project", "home"):
        os.mkdir(os.path.join(place, directory), 0o755)
        os.chown(os.path.join(place, directory), uid, uid)
    os.chmod(os.path.join(place, "home"), 0o700)
    os.chmod(os.path.join(place, "out"), 0o777)
    home = {f"XDG_{kind}_HOME": f"{place}/home" for kind in ("DATA", "STATE", "CONFIG")}
    environment = {name: os.environ[name] for name in ("PATH", "CONTAINERS_CONF")}
    environment |= {
        **home,
        "HOME": f"{place}/home",
        "XDG_RUNTIME_DIR": f"{place}/home",
        "CREDBROKER_AUDIT_PATH": f"{place}/home/audit",
    }
    prefix = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"] if uid else []
    program = os.path.join(work, "credbroker")
    token = b'{"access_token":"gho_run"}'
    imported = [*prefix, program, "token", "import", "github"]
    subprocess.run(imported, env=environment, input=token, check=True, capture_output=True)
    command = [*prefix, program, "run", "--sandbox", sandbox, "--allow", "github", *flags]
    command += ["--mount", f"{work}/site:/attack/site:ro", "--mount", f"{place}/out:/attack/out"]
    command += ["--image", image, "--mount", "/usr:/usr:ro"] if sandbox == "podman" else []
    command += ["--", rig.PYTHON, "-B", "/attack/site/attack/neighbour.py", "github"]
    with open(f"{place}/log", "wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=f"{place}/project"
        )
    try:
        rig.until(lambda: process.poll() is not None or os.path.exists(f"{place}/out/served"), name)
        if process.poll() is not None:
            with open(f"{place}/log") as log:
                rig.check(f"peer: run --sandbox {name}: it starts", False, log.read()[-600:])
            return [name, "did not run", "", ""]
        with open(f"{place}/out/given") as file:
            capability = json.load(file)["capability"]
        (path,) = glob.glob(f"{place}/home/credbroker/*/sandbox/sock")
        verdicts = {other: asked_by(other, work, os.path.dirname(path), capability) for other in others}
        time.sleep(0.1)  # The lines of the last calls.
        with open(f"{place}/out/served") as file:
            served = {line.split()[0] for line in file}
        uids = {line["peer_uid"] for line in audit(f"{place}/home/audit") if line.get("outcome") == "ok"}
    finally:
        open(f"{place}/out/stop", "w").close()
        process.wait(rig.PATIENCE)
    rig.check(f"peer: run --sandbox {name}: its command is served", served == {"OK"}, served)
    allowed = {other for other, let in others.items() if let}
    rig.check(f"peer: run --sandbox {name}: the broker sees {seen}", uids - allowed - {seen} == set() and seen in uids, uids)
    for other, let in others.items():
        right = ("let in",) if let else (sentence(other), "cannot open the socket")
        wanted = "let in" if let else "refused"
        rig.check(f"peer: run --sandbox {name}: uid {other} is {wanted}", verdicts[other].startswith(right), verdicts[other])
    rig.check(f"peer: run --sandbox {name}: it ends with 0", process.returncode == 0, process.returncode)
    let_in = [str(other) for other, said in verdicts.items() if said == "let in"]
    refused = [
        str(other) + (" (no way to the socket)" if "open" in said else "")
        for other, said in verdicts.items()
        if said != "let in"
    ]
    return [
        name,
        ", ".join(map(str, sorted(uids - allowed | {seen} & uids))),
        ", ".join(let_in) or "nobody",
        ", ".join(refused),
    ]


def audit(directory):
    lines = []
    for path in glob.glob(directory + "/*"):
        with open(path) as file:
            lines += [json.loads(line) for line in file if '"operation"' in line]
    return lines


def asked_by(uid, work, directory, capability):
    """What GetToken answers to another user of the host. The way past the directories that keep it out is a descriptor."""
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        os.set_inheritable(opened, True)
        path = f"/proc/self/fd/{opened}/sock"
        prefix = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        if subprocess.run([*prefix, "test", "-w", path], pass_fds=[opened]).returncode:
            return "cannot open the socket"
        asked = {"sockets": {"run": [path, capability]}, "methods": {calls.BROKER + "GetToken": False}}
        ended = subprocess.run(
            [*prefix, rig.PYTHON, "-B", f"{work}/site/caller.py", f"{work}/site"],
            input=json.dumps(asked), capture_output=True, text=True, timeout=rig.PATIENCE, cwd="/", pass_fds=[opened],
        )  # fmt: skip
        if ended.returncode:
            return ended.stderr.strip()[-300:]
        code, reason, message, _ = json.loads(ended.stdout)["sockets"]["run"]["answers"][calls.BROKER + "GetToken"]
        return "let in" if code == "OK" else message if reason == "PEER_NOT_ALLOWED" else f"{code} {message}"
    finally:
        os.close(opened)


main()
rig.alone()
