"""A credbroker client in Python: the stubs that protoc makes, a plain channel, and how to read an error."""

import os

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from credbroker.v1 import credential_broker_pb2 as messages
from credbroker.v1.credential_broker_pb2_grpc import CredentialBrokerStub

TARGET = "unix:" + os.environ["CREDBROKER_SOCKET"]
CAPABILITY = (("authorization", "Bearer " + os.environ["CREDBROKER_CAPABILITY"]),)


def error_info(error):
    """The reason why a call failed. Decide by `reason`, never by the status code or the message."""
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        if detail.Unpack(info):
            break
    return info


def main():
    with grpc.insecure_channel(TARGET) as channel:
        broker = CredentialBrokerStub(channel)
        try:
            answer = broker.GetToken(
                messages.GetTokenRequest(provider="github"), metadata=CAPABILITY, timeout=20
            )
            print("authorization: Bearer " + answer.token.access_token)
        except grpc.RpcError as error:
            raise SystemExit(f"{error_info(error).reason}: {error.details()}")


if __name__ == "__main__":
    main()
