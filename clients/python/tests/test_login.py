"""Logins through both clients, with a real provider and a scripted person with a browser."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import PATIENCE, Broker, variable

import credbroker
from credbroker import LoginFlow, LoginPrompt, _login

Login = Callable[..., credbroker.Token | None]


@pytest.fixture
def person() -> Any:
    sys.path.insert(0, variable("TEST_LOGIN_PERSON"))
    try:
        from person import Person  # type: ignore[import-not-found]
    finally:
        del sys.path[0]
    return Person("alice")


@pytest.fixture
def world(broker: Broker) -> Iterator[Broker]:
    log = broker.directory / "provider.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            ["node", variable("TEST_LOGIN_SERVER")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line, log.read_text()
        says = json.loads(line)
        common = f'issuer = "{says["issuer"]}"\nscopes = ["openid", "offline_access"]\n'
        consent = 'authorization_params = { prompt = "consent" }\n'
        broker.configure(
            f'[providers.native]\nclient_id = "native"\nflow = "device_code"\n{common}{consent}'
            f'[providers.paste]\nclient_id = "paste"\nflow = "pkce_redirect"\n{common}{consent}'
            f'redirect_url = "{says["page"]}"\n'
        )
        broker.start("--allow", "native", "--allow-login", "*")
        yield broker
        broker.stop()
        server.stdin.close()
        server.wait(PATIENCE)


@pytest.fixture(params=["blocking", "asyncio"])
def login(request: pytest.FixtureRequest, world: Broker) -> Login:
    def blocking(*arguments: Any, **named: Any) -> credbroker.Token | None:
        with world.client() as client:
            return client.login(*arguments, **named)

    def on_a_loop(*arguments: Any, code: Any = None, **named: Any) -> credbroker.Token | None:
        async def paste(prompt: LoginPrompt) -> Any:
            return await asyncio.to_thread(code, prompt)

        async def main() -> credbroker.Token | None:
            async with world.aclient() as client:
                return await client.login(*arguments, code=paste if code else None, **named)

        return asyncio.run(main())

    return blocking if request.param == "blocking" else on_a_loop


def test_device_code(login: Login, person: Any) -> None:
    prompts: list[LoginPrompt] = []
    users: list[threading.Thread] = []

    def show(prompt: LoginPrompt) -> None:
        prompts.append(prompt)
        user = threading.Thread(target=person.agree, args=(prompt.verification_url, prompt.user_code))
        user.start()
        users.append(user)

    token = login("native", "mine", flow=LoginFlow.DEVICE_CODE, show=show)
    for user in users:
        user.join()
    # The bucket may not be read here, so there is no token.
    assert token is None
    prompt = prompts[0]
    assert (prompt.provider, prompt.bucket, prompt.flow) == ("native", "mine", LoginFlow.DEVICE_CODE)
    assert prompt.user_code in prompt.verification_url_complete
    assert prompt.url == prompt.verification_url_complete
    assert prompt.expire_time is not None


def test_a_token_that_may_be_read(login: Login, person: Any) -> None:
    def show(prompt: LoginPrompt) -> None:
        person.agree(prompt.verification_url, prompt.user_code)

    token = login("native", show=show)
    assert token is not None
    assert token.usable


def test_a_pasted_code(login: Login, person: Any) -> None:
    def code(prompt: LoginPrompt) -> str:
        assert prompt.flow is LoginFlow.PKCE_REDIRECT
        return str(person.agree(prompt.auth_url).code)

    assert login("paste", show=lambda _: None, code=code) is None


def test_the_user_says_no(login: Login, person: Any) -> None:
    def show(prompt: LoginPrompt) -> None:
        person.refuse(prompt.verification_url, prompt.user_code)

    with pytest.raises(credbroker.AccessDenied) as caught:
        login("native", show=show)
    assert caught.value.reason == "ACCESS_DENIED"


def test_a_wrong_code(login: Login) -> None:
    with pytest.raises(credbroker.ExchangeFailed):
        login("paste", show=lambda _: None, code=lambda _: "wrong")


def test_no_code_is_pasted(login: Login, world: Broker) -> None:
    with pytest.raises(credbroker.LoginCancelled):
        login("paste", show=lambda _: None)
    with pytest.raises(credbroker.LoginCancelled):
        login("paste", show=lambda _: None, code=lambda _: None)
    assert all_ended(world)


def test_an_exception_cancels_the_login(login: Login, world: Broker) -> None:
    def show(_: LoginPrompt) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        login("native", show=show)
    assert all_ended(world)


def test_given_up(world: Broker) -> None:
    given_up = threading.Event()
    with world.client() as client, pytest.raises(credbroker.LoginCancelled):
        client.login("native", show=lambda _: given_up.set(), given_up=given_up)
    assert all_ended(world)


@pytest.mark.parametrize("shown", [True, False])
def test_a_cancelled_task_cancels_the_login(world: Broker, shown: bool) -> None:
    async def main() -> None:
        async with world.aclient() as client:
            reached = asyncio.Event()
            login = asyncio.create_task(client.login("native", show=lambda _: reached.set()))
            if shown:
                await reached.wait()
            else:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            login.cancel()
            with pytest.raises(asyncio.CancelledError):
                await login
            assert reached.is_set() == shown

    asyncio.run(main())
    assert all_ended(world)


def all_ended(world: Broker) -> bool:
    """Whether the broker has no login open: then there is room for all sixteen of them, and for no more."""
    with world.client() as client:
        for _ in range(16):
            client._call(client._stub.InitiateLogin, _login.initiate("native", "", None))
        with pytest.raises(credbroker.CredbrokerError) as caught:
            client._call(client._stub.InitiateLogin, _login.initiate("native", "", None))
    return caught.value.reason == "TOO_MANY_SESSIONS"
