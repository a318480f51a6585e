"""An honest sandbox: says what it was given, then asks for its token until it is told to stop. neighbour.py ENTRY"""

import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE)]

import calls

OUT = "/attack/out"
capability = os.environ["CREDBROKER_CAPABILITY"]
with open(f"{OUT}/given.new", "w") as file:
    json.dump({"capability": capability, "uid": os.getuid()}, file)
os.rename(f"{OUT}/given.new", f"{OUT}/given")
channel = calls.open_channel(os.environ["CREDBROKER_SOCKET"])
while not os.path.exists(f"{OUT}/stop"):
    answer = calls.call(channel, calls.BROKER + "GetToken", calls.message(sys.argv[1]), capability)
    with open(f"{OUT}/served", "a") as file:
        file.write(f"{answer.reason or answer.code} {answer.seconds * 1000:.1f}\n")
    time.sleep(0.25)
