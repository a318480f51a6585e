"""Sandboxes that somebody loosened by hand: the suite has to notice. A program of the runtime's name, first in PATH, changes
the arguments that `run` gives it.

What is attempted here would work, so nothing is that could disturb others on the host: a read, a signal to a process of the
suite's own, a file that is opened and not written.
"""

import os
import re
import shutil

SHIM = """#!/usr/bin/python3 -I
import os, sys
arguments = sys.argv[1:]
{change}
os.execv({program!r}, [{program!r}, *arguments])
"""

BWRAP = """
# Before the last one: what is mounted after /etc would lie over it.
last = [at for at, word in enumerate(arguments) if word == "--remount-ro"]
end = last[-1] if last else arguments.index("--")
given, command = arguments[:end], arguments[end:]
given = [word for word in given if word not in ("--unshare-pid", "--unshare-ipc", "--new-session")]
for option in ("--cap-drop", "--seccomp"):
    while option in given:
        at = given.index(option)
        del given[at : at + 2]
for at in range(len(given) - 2):
    if given[at] == "--ro-bind" and given[at + 2] == "/run/credbroker":
        given[at] = "--bind"
arguments = [*given, *{more!r}, *command]
"""

PODMAN = """
if arguments[:1] == ["run"]:
    kept, last = ["run"], ""
    for word in arguments[1:]:
        # podman refuses a process of its own in the host's namespace of processes.
        if word not in ("--cap-drop", "--init") and last != "--cap-drop":
            kept.append(word)
        last = word
    kept = [word.replace(",target=/run/credbroker,readonly", ",target=/run/credbroker") for word in kept]
    arguments = [kept[0], *{more!r}, *kept[1:]]
"""

# What has to come out otherwise than expected.txt says.
NOTICED = {
    "bwrap": [
        "own environment: names beyond the allow-list", "other processes that are seen",
        "mounts beyond what was asked for",
        "devices beyond the usual ones", "open the store's identity", "open the store's token", "open a file in the home",
        "open another project in the home", "open the configuration", "open a file in /run", "open a file in /var",
        "the home: names in it", "kill a process of the host, by its number",
        "make what is mounted read-only writable", "mount a file system", "the host's shared memory: a segment that is attached",
        "capabilities of root's that are left, of those that lead out", "connect to an ssh-agent of the host",
        "connect to the control socket", "connect to another sandbox's socket", "any other socket that is seen in the file system",
        "link the host's kernel keyrings, by every way to ask: a key that is read",
        "unlink the socket", "host: secrets that the attack got at",
    ],
    "podman": [
        "mounts beyond what was asked for", "devices beyond the usual ones", "open the store's identity", "open a file in the home",
        "other processes that are seen", "kill a process of the host, by its number",
        "the kernel's switches: what opens for writing", "mount a file system", "open a file of the host by its handle",
        "capabilities of root's that are left, of those that lead out", "connect to an abstract socket of the host",
        "connect to a service on the host's loopback address", "connect to an ssh-agent of the host", "unlink the socket",
        "host: secrets that the attack got at", "host: the process that was to be killed",
    ],
}  # fmt: skip

# Attempted as well; what comes of it, the host sees.
UNJUDGED = ["signal the process group, everybody, and the terminal's group"]


def pattern(sandbox):
    """What is attempted. Unlinking the socket is the last thing that works."""
    names = [name for name in NOTICED[sandbox] if not name.startswith("host:")] + UNJUDGED
    return "|".join(f"^{re.escape(name)}$" for name in names)


def install(world):
    """Puts the shim first in the caller's PATH."""
    home, runtime = world.home, world.path("runtime")
    directory = world.path("shim")
    os.mkdir(directory, 0o755)
    if world.sandbox == "bwrap":
        more = ["--dev-bind", "/dev", "/dev", "--setenv", "GITHUB_TOKEN", world.secrets["the variable GITHUB_TOKEN"]]
        for path in (home, runtime, world.path("agents"), *world.elsewhere[:2]):
            more += ["--bind", path, path]
        change = BWRAP.format(more=more)
    else:
        more = ["--privileged", "--pid", "host", "--network", "host"]
        for path in (home, world.path("agents")):
            more += ["--volume", f"{path}:{path}"]
        change = PODMAN.format(more=more)
    program = os.path.join(directory, world.sandbox)
    with open(program, "w") as file:
        file.write(SHIM.format(change=change, program=shutil.which(world.sandbox)))
    os.chmod(program, 0o755)
    world.environment["PATH"] = directory + ":" + world.environment["PATH"]
