"""What an attempt is, and where its loot goes."""

import errno
import json
import os

OUT = os.environ.get("ATTACK_OUT", "/attack/out")
ATTEMPTS = {}
_stolen = _pieces = 0
ENOUGH = 96 << 20


def attempt(name):
    """Names an attempt. It returns its outcome; an OSError that it raises is one by its name."""

    def register(function):
        assert name not in ATTEMPTS, name
        ATTEMPTS[name] = function
        return function

    return register


def run(name, function):
    try:
        return str(function())
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except Exception as error:  # A flaw of the attack, not an outcome: nothing is expected to be this.
        return f"did not run: {type(error).__name__}: {error}"


def steal(what, data):
    """Keeps what was got at. The host looks for its secrets in all of it."""
    global _stolen, _pieces
    data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    if _stolen + len(data) > ENOUGH:
        raise RuntimeError("more was got at than expected; look into it")
    _stolen += len(data)
    _pieces += 1
    # By whom, too: what a child counts, its parent does not know.
    with open(f"{OUT}/loot/{_pieces:06}-{os.getpid()}", "wb") as file:
        file.write(what.encode("utf-8", "surrogateescape") + b"\n" + data)


def told():
    """What the host says to the attacker, so that luck is not needed: paths, numbers, another sandbox's capability."""
    with open(f"{OUT}/told.json") as file:
        return json.load(file)


def among(values):
    """A set as an outcome."""
    return ", ".join(sorted(set(values))) or "nothing"
