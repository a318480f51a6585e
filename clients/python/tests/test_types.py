"""What tokens show, when they are good, and what an error is; without a broker."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import pprint
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

import credbroker
from credbroker import _cache, _token, errors
from credbroker.v1 import credential_broker_pb2 as pb

REPOSITORY = Path(__file__).parents[3]


def shown(thing: object) -> str:
    """Everything that prints a thing by accident."""
    try:
        raise ValueError(thing)
    except ValueError as error:
        raised = repr(error)
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s %r", (thing, thing), None)
    printed = [repr(thing), str(thing), f"{thing}", f"{thing!r}", "%s" % thing, pprint.pformat([{"t": thing}])]  # noqa: UP031
    return " ".join([*printed, record.getMessage(), raised, json.dumps({"t": thing}, default=str)])


PROMPT = pb.InitiateLoginResponse(
    session_id="s-secret", flow=pb.LOGIN_FLOW_DEVICE_CODE, verification_url="https://x/s-secret", user_code="s-secret"
)


@pytest.mark.parametrize(
    "thing",
    [
        credbroker.Token("s-secret", revision="1", expires_in=60, extra={"id": "s-secret"}),
        credbroker.ApiKey("openai", "s-secret"),
        credbroker.LoginPrompt("acme", "default", PROMPT),
        credbroker.Client("/run/sock", "s-secret"),
        credbroker.AsyncClient("/run/sock", "s-secret"),
        credbroker.Client("/run/sock", "s-secret").token_source("x"),
    ],
)
def test_secrets_are_not_shown(thing: object) -> None:
    assert "s-secret" not in shown(thing)
    with pytest.raises(TypeError):
        json.dumps(thing)
    with pytest.raises(TypeError):
        pickle.dumps(thing)


def test_a_token_is_the_same_in_every_copy() -> None:
    token = credbroker.Token("t", expires_in=60)
    assert copy.copy(token) is token
    assert copy.deepcopy([token])[0] is token
    assert not hasattr(token, "__dict__")


@pytest.mark.parametrize(
    ("lifetime", "passed", "usable", "expired"),
    [
        (3600, 0, True, False),
        (3600, 3594, True, False),
        (3600, 3595, False, False),
        (3600, 3600, False, True),
        (5, 4.4, True, False),
        (5, 4.6, False, False),
        (5, 5, False, True),
        (0, 0, False, True),
        (-10, 0, False, True),
        (None, 1e9, True, False),
    ],
)
def test_when_a_token_is_usable(
    lifetime: float | None, passed: float, usable: bool, expired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(_token, "now", lambda: clock[0])
    token = credbroker.Token("t", expires_in=lifetime)
    clock[0] += passed
    assert (token.usable, token.expired) == (usable, expired)
    assert token.expires_in == (None if lifetime is None else pytest.approx(max(0, lifetime - passed)))


@pytest.mark.parametrize(
    ("kind", "value"), [("", "Bearer t"), ("bearer", "Bearer t"), ("BEARER", "Bearer t"), ("DPoP", "DPoP t")]
)
def test_the_value_of_the_header(kind: str, value: str) -> None:
    assert credbroker.Token("t", token_type=kind).authorization == value


def test_a_pushed_token_is_not_replaced_by_an_older_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(_token, "now", lambda: clock[0])
    cache = _cache.Cache()
    short, long, endless = (credbroker.Token(str(t), revision=str(t), expires_in=t) for t in (60, 120, None))
    for first, second, refused, newest in [
        (long, short, "", long),
        (short, long, "", long),
        (long, short, "120", short),
        (endless, long, "", endless),
        (long, endless, "", endless),
    ]:
        cache.follow(first)
        cache.land(second, refused)
        assert cache.usable() is newest
    cache.follow(short)
    assert cache.usable() is short, "what is pushed replaces everything"
    cache.land(long, refused="60")
    cache.follow(short)
    assert cache.usable() is long, "what was refused and replaced does not come back"
    cache.land(long, refused="120")
    cache.clear()
    cache.follow(long)
    assert cache.usable() is long, "what was refused and is the same again was only too new"
    cache = _cache.Cache()
    cache.follow(short)
    clock[0] = 59.0
    assert cache.usable() is None
    cache.clear()
    assert cache.usable() is None


def test_backoff_grows_and_heeds_the_broker() -> None:
    backoff = _cache.Backoff()
    delays = [backoff.next(None) for _ in range(20)]
    ceiling = 0.1
    for delay in delays:
        assert ceiling / 2 <= delay <= ceiling
        ceiling = min(ceiling * 2, 5.0)
    assert len(set(delays)) == len(delays), "jitter"
    assert backoff.next(30.0) == 30.0
    backoff.reset()
    assert backoff.next(None) <= 0.1


class Refusal(grpc.RpcError):
    """A failed call as the library raises it."""

    def __init__(self, code: grpc.StatusCode, message: str, *details: object) -> None:
        self._code, self._message = code, message
        status = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)  # type: ignore[arg-type]
            status.details.append(packed)
        self._trailers = (("other", "x"), ("grpc-status-details-bin", status.SerializeToString())) if details else ()

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._message

    def trailing_metadata(self) -> Any:
        return self._trailers


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="credbroker.dev", metadata=metadata)


def test_every_reason_of_the_documentation_is_known() -> None:
    text = (REPOSITORY / "README.md").read_text().split("## Errors")[1].split("\n## ")[0]
    documented = {reason for row in re.findall(r"^\| (`[^|]*) \|", text, re.M) for reason in re.findall(r"`([A-Z_]+)`", row)}
    assert len(documented) == 27
    assert documented == set(errors._BY_REASON)
    for reason in documented:
        error = errors.from_rpc(Refusal(grpc.StatusCode.UNKNOWN, "why", info(reason, field="f")))
        assert (error.reason, error.message, error.metadata) == (reason, "why", {"field": "f"})
        assert str(error) == f"{reason}: why"


def test_details_in_any_order() -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000))
    for details in ([info("RATE_LIMITED"), retry], [retry, info("RATE_LIMITED")]):
        error = errors.from_rpc(Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "slower", *details))
        assert type(error) is credbroker.RateLimited
        assert error.retry_after == 1.5


@pytest.mark.parametrize(
    ("code", "details", "kind", "reason", "transient"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, [info("TOO_MANY_STREAMS")], errors.CredbrokerError, "TOO_MANY_STREAMS", True),
        (grpc.StatusCode.UNAVAILABLE, [], credbroker.Unreachable, None, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, [], credbroker.DeadlineExceeded, None, True),
        (grpc.StatusCode.PERMISSION_DENIED, [], credbroker.CredbrokerError, None, False),
        (grpc.StatusCode.UNAVAILABLE, [info("SHUTTING_DOWN")], credbroker.ShuttingDown, "SHUTTING_DOWN", True),
        (grpc.StatusCode.UNAVAILABLE, [info("NEW_ONE")], credbroker.CredbrokerError, "NEW_ONE", True),
        (grpc.StatusCode.NOT_FOUND, [info("NEW_ONE")], credbroker.CredbrokerError, "NEW_ONE", False),
        (grpc.StatusCode.DATA_LOSS, [info("STORE_CORRUPT")], credbroker.StoreError, "STORE_CORRUPT", False),
        (
            grpc.StatusCode.NOT_FOUND,
            [error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain="example.com")],
            credbroker.CredbrokerError,
            None,
            False,
        ),
    ],
)  # fmt: skip
def test_what_a_refusal_becomes(
    code: grpc.StatusCode, details: list[object], kind: type[Exception], reason: str | None, transient: bool
) -> None:
    error = errors.from_rpc(Refusal(code, "why", *details))
    assert type(error) is kind
    assert (error.code, error.reason, error.transient) == (code, reason, transient)
    said = error.message == "why"
    if kind is credbroker.Unreachable:
        said = error.message.endswith("Ensure that the sandbox was started correctly and that its broker runs (why)")
    assert said, error.message


def test_an_error_survives_another_process() -> None:
    error = errors.from_rpc(Refusal(grpc.StatusCode.NOT_FOUND, "why", info("NOT_FOUND", provider="x")))
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is credbroker.NotFound
        assert (again.reason, again.metadata, str(again)) == ("NOT_FOUND", {"provider": "x"}, "NOT_FOUND: why")


def test_a_client_can_be_made_outside_of_a_loop() -> None:
    client = credbroker.AsyncClient("/nonexistent/sock", "x")
    with pytest.raises(credbroker.Unreachable):
        asyncio.run(client.server_info())
