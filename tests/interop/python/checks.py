"""Every line of checks.txt, with the blocking API or (argument `aio`) with grpc.aio."""

import asyncio
import sys
import traceback

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from client import CAPABILITY, TARGET, CredentialBrokerStub, error_info, messages

AIO = "aio" in sys.argv


def open_channel():
    return (grpc.aio if AIO else grpc).insecure_channel(TARGET)


async def done(call):
    """The answer of a call of either API: grpc.aio calls are awaited, the others have ended already."""
    return await call if AIO else call


def status_of(error):
    """The google.rpc.Status of a failed call. grpcio-status reads both kinds of error, the asynchronous one by hand."""
    if not AIO:
        return rpc_status.from_call(error)
    from google.rpc import status_pb2

    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    return None


async def refused(call, code, reason, **metadata):
    try:
        answer = await done(call())
    except grpc.RpcError as error:
        assert error.code() == code, error.code()
        status = status_of(error)
        found = [error_details_pb2.ErrorInfo.FromString(d.value) for d in status.details
                 if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
        assert len(found) == 1, status
        info = found[0]
        assert (info.reason, info.domain) == (reason, "credbroker.dev"), info
        assert dict(info.metadata) == metadata, info
        assert error.details() == status.message and status.code == code.value[0], status
        if not AIO:
            assert error_info(error) == info, error_info(error)
        return status
    raise AssertionError(f"it was answered: {answer}")


class Checks:
    def __init__(self, channel):
        self.channel = channel
        self.broker = CredentialBrokerStub(channel)

    def get_token(self, provider="github", metadata=CAPABILITY, timeout=20):
        return self.broker.GetToken(messages.GetTokenRequest(provider=provider), metadata=metadata, timeout=timeout)

    async def token(self):
        token = (await done(self.get_token())).token
        assert token.access_token == "gho_demo", token
        assert (token.token_type, token.scope) == ("bearer", "repo"), token
        assert 3000 < token.expires_in.seconds < 3600 and token.HasField("expire_time"), token
        assert token.revision, token

    async def api_key(self):
        answer = await done(self.broker.GetApiKey(messages.GetApiKeyRequest(name="openai"), metadata=CAPABILITY))
        assert answer.api_key == "sk-demo", answer

    async def no_refresh_token(self):
        answer = await done(self.get_token())
        assert b"ghr_never" not in answer.SerializeToString(), answer
        for message in messages.DESCRIPTOR.message_types_by_name.values():
            assert not [f.name for f in message.fields if "refresh" in f.name], message.name

    async def lists(self):
        broker, paging = self.broker, dict(metadata=CAPABILITY, timeout=20)
        assert list((await done(broker.ListProviders(messages.ListProvidersRequest(), **paging))).providers) == ["github"]
        buckets = await done(broker.ListBuckets(messages.ListBucketsRequest(provider="github"), **paging))
        assert list(buckets.buckets) == ["default"], buckets
        assert list((await done(broker.ListApiKeys(messages.ListApiKeysRequest(), **paging))).names) == ["openai"]

    async def outside_the_policy(self):
        await refused(lambda: self.get_token("gitlab"), grpc.StatusCode.PERMISSION_DENIED, "UNAUTHORIZED",
                      provider="gitlab", bucket="default")
        await refused(
            lambda: self.broker.GetApiKey(messages.GetApiKeyRequest(name="anthropic"), metadata=CAPABILITY),
            grpc.StatusCode.PERMISSION_DENIED, "UNAUTHORIZED", name="anthropic")

    async def outside_the_policy_and_not_stored(self):
        await refused(lambda: self.get_token("nowhere"), grpc.StatusCode.PERMISSION_DENIED, "UNAUTHORIZED",
                      provider="nowhere", bucket="default")

    async def no_capability(self):
        await refused(lambda: self.get_token(metadata=None), grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")

    async def wrong_capability(self):
        wrong = (("authorization", "Bearer " + "0" * 64),)
        await refused(lambda: self.get_token(metadata=wrong), grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")

    async def not_found(self):
        await refused(lambda: self.get_token("absent"), grpc.StatusCode.NOT_FOUND, "NOT_FOUND",
                      provider="absent", bucket="default")
        await refused(lambda: self.broker.GetApiKey(messages.GetApiKeyRequest(name="absent"), metadata=CAPABILITY),
                      grpc.StatusCode.NOT_FOUND, "NOT_FOUND", name="absent")

    async def invalid_request(self):
        status = await refused(lambda: self.get_token("../etc"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST",
                               field="provider")
        bad = error_details_pb2.BadRequest()
        assert any(d.Unpack(bad) for d in status.details), status
        assert [v.field for v in bad.field_violations] == ["provider"] and bad.field_violations[0].description, bad

    async def unknown_method(self):
        call = self.channel.unary_unary("/credbroker.v1.CredentialBroker/Nothing")
        await refused(lambda: call(b"", metadata=CAPABILITY), grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")

    async def deadline_passed(self):
        try:
            await done(self.get_token(timeout=-1))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        else:
            raise AssertionError("it was answered")

    async def deadline_kept(self):
        assert (await done(self.get_token(timeout=5))).token.access_token == "gho_demo"

    async def calls_in_parallel(self):
        request = messages.GetTokenRequest(provider="github")
        if AIO:
            answers = await asyncio.gather(*(self.get_token() for _ in range(20)))
        else:
            calls = [self.broker.GetToken.future(request, metadata=CAPABILITY, timeout=20) for _ in range(20)]
            answers = [call.result() for call in calls]
        assert [a.token.access_token for a in answers] == ["gho_demo"] * 20

    async def second_channel(self):
        channel = open_channel()
        assert (await done(Checks(channel).get_token())).token.access_token == "gho_demo"
        await done(channel.close()) if AIO else channel.close()

    async def health(self):
        health = health_pb2_grpc.HealthStub(self.channel)
        for service in ("", "credbroker.v1.CredentialBroker"):
            answer = await done(health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, answer


async def main():
    failed = False
    channel = open_channel()
    checks = Checks(channel)
    for method, check in vars(Checks).items():
        if not asyncio.iscoroutinefunction(check):
            continue
        name = method.replace("_", " ")
        try:
            await check(checks)
            print("ok", name)
        except Exception as error:
            failed = True
            print(f"not ok {name}: {error!r}".replace("\n", " "))
            traceback.print_exc()
    await done(channel.close()) if AIO else channel.close()
    return failed


sys.exit(asyncio.run(main()))
