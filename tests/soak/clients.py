"""Where the clients come from: a process that has everything loaded and forks one for each line of its standard input,

    start NAME KIND SLOT SOCKET BUCKET PAUSE

It prints `started NAME PID`, and `ended PID STATUS` for each that is gone. What a client sees goes to the descriptor in
SOAK_REPORTS, a line for each token and each failure:

    token NAME SLOT KIND BUCKET SENT GOT DIGEST
    error NAME SLOT KIND BUCKET SENT GOT REASON

SENT and GOT are by the monotonic clock, which all processes of a system share; a token is told by its digest only."""

import hashlib
import os
import random
import select
import signal
import sys
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from credbroker.v1 import credential_broker_pb2 as pb
from credbroker.v1.credential_broker_pb2_grpc import CredentialBrokerStub

REPORTS = int(os.environ["SOAK_REPORTS"])
PATIENCE = 20
# A stock client waits up to two minutes before it connects again; a killed broker is back within seconds here.
OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()[:24]


def reason(error):
    """The broker's own reason; what gRPC said by itself has none."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return info.reason
    return f"grpc:{error.code().name}"


class Client:
    def __init__(self, name, kind, slot, socket, bucket, pause):
        self.who = f"{name} {slot} {kind} {bucket}"
        self.kind, self.socket, self.bucket, self.pause = kind, socket, bucket, float(pause)
        self.metadata = [("authorization", "Bearer " + os.environ["SOAK_CAPABILITY"])]
        self.revision = ""

    def report(self, what, sent, got, said):
        # One write of less than a pipe takes at once: lines are whole also when their writer is killed.
        os.write(REPORTS, f"{what} {self.who} {sent:.6f} {got:.6f} {said}\n".encode())

    def got(self, token, sent):
        at = time.monotonic()
        self.revision = token.revision
        self.report("token", sent, at, digest(token.access_token))

    def use(self, broker):
        sent = time.monotonic()
        try:
            if self.kind == "watch":
                for message in broker.WatchToken(
                    pb.WatchTokenRequest(provider="idp", bucket=self.bucket), metadata=self.metadata
                ):
                    self.got(message.token, sent)
                return
            if self.kind == "get":
                call, request = broker.GetToken, pb.GetTokenRequest(provider="idp", bucket=self.bucket)
            else:
                call, request = (
                    broker.RefreshToken,
                    pb.RefreshTokenRequest(provider="idp", bucket=self.bucket, revision=self.revision),
                )
            self.got(call(request, metadata=self.metadata, timeout=PATIENCE).token, sent)
        except grpc.RpcError as error:
            self.report("error", sent, time.monotonic(), reason(error))

    def run(self):
        with grpc.insecure_channel("unix:" + self.socket, OPTIONS) as channel:
            broker = CredentialBrokerStub(channel)
            while True:
                self.use(broker)
                time.sleep(self.pause * random.uniform(0.5, 1.5))


def start(words):
    pid = os.fork()
    if pid == 0:
        try:
            random.seed()
            sys.stdin.close()
            Client(*words).run()
        finally:
            os._exit(1)
    print("started", words[0], pid, flush=True)


def reap():
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        print("ended", pid, os.waitstatus_to_exitcode(status), flush=True)


def main():
    buffered = b""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([0], [], [], 0.2)
        reap()
        if not ready:
            continue
        more = os.read(0, 65536)
        if not more:
            return
        *lines, buffered = (buffered + more).split(b"\n")
        for line in lines:
            start(line.decode().split()[1:])


main()
