"""Who is let in? Runs in each sandbox of the table: every method at every socket that standard input names.

caller.py SITE; prints {"uid", "sockets": {name: {"read_only", "answers": {method: [code, reason, message, payload]}}}}.
"""

import json
import os
import sys

sys.path.insert(0, sys.argv[1])

import calls

asked = json.load(sys.stdin)
found = {"uid": os.getuid(), "sockets": {}}
for name, (path, capability) in asked["sockets"].items():
    # A file system that is mounted read-only is no obstacle to connect.
    read_only = bool(os.statvfs(os.path.dirname(path)).f_flag & os.ST_RDONLY)
    answers = {}
    channel = calls.open_channel(path)
    for method, streaming in asked["methods"].items():
        request = calls.message("github") if method.endswith("/GetToken") else b""
        if "reflection" in method:
            request = calls.field(7, "*")
        answer = calls.call(channel, method, request, capability, streaming, timeout=5)
        answers[method] = [answer.code, answer.reason, answer.message, answer.payload.hex()]
    channel.close()
    found["sockets"][name] = {"read_only": read_only, "answers": answers}
print(json.dumps(found))
