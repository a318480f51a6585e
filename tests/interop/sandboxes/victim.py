"""In the process group of `run`: writes down what it hears. victim.py FILE"""

import signal
import sys
import time


def heard(number, _):
    with open(sys.argv[1], "a") as file:
        file.write(signal.Signals(number).name + "\n")


for number in (signal.SIGWINCH, signal.SIGURG, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, heard)
open(sys.argv[1], "w").close()
while True:
    time.sleep(60)
