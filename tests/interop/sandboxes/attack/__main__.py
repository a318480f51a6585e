"""The attack: everything that a hostile program in a sandbox may think of, one attempt after the other.

python3 attack [PATTERN]; results and loot go to the directory ATTACK_OUT. What is right is the host's to say.
"""

import json
import os
import re
import sys
import time

import reading  # noqa: F401 - first, because it looks at what was inherited

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import kernel  # noqa: F401 - its attempts
import sockets  # noqa: F401
import calling  # noqa: F401
import flooding  # noqa: F401
from attempts import ATTEMPTS, OUT, run

LAST = ["after everything: the own token"]


def main():
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    os.makedirs(f"{OUT}/loot", exist_ok=True)
    results = []
    for name in [name for name in ATTEMPTS if name not in LAST] + LAST:
        if re.search(pattern, name):
            began = time.monotonic()
            results.append([name, run(name, ATTEMPTS[name]), round(time.monotonic() - began, 2)])
            with open(f"{OUT}/results.json", "w") as file:
                json.dump(results, file)
    print("the attack is over")


main()
