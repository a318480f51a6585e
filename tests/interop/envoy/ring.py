"""A sandbox's requests through Envoy, which gets the token from the broker. Prints `ok CHECK` or `not ok CHECK: WHY`."""

import os
import queue
import subprocess
import sys
import time
import traceback

import grpc
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2 as discovery
from envoy.service.secret.v3 import sds_pb2_grpc
from google.rpc import status_pb2

from world import ENTRY, EXAMPLE, FIXTURE, Api, Broker, Envoy, Load, Provider, until

TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
SDS = f"sds.token/{ENTRY}."
INITIAL_METADATA = """                              initial_metadata:
                                - key: authorization
                                  value: "Bearer {}"
"""

failed = False


def check(name, holds, *arguments):
    global failed
    try:
        said = holds(*arguments)
        print(f"ok {name}", flush=True)
        if said:
            print(f"# {said}", flush=True)
    except Exception as error:
        failed = True
        traceback.print_exc()
        print(f"not ok {name}: {error!r}", flush=True)


def first_request(envoy, api):
    assert envoy.status() == 200
    assert api.tokens[-1] not in ("", "none yet")


def rotations(envoy, api):
    """Three rotations under continuous load, and not one request that fails."""
    load = Load(envoy)
    before = len(api.tokens)
    took = until("four tokens", lambda: len(set(api.tokens[before:])) >= 4, 40)
    load.end()
    assert load.statuses() == {200}, load.statuses()
    return f"{len(load.answers)} requests in {took:.0f} s, all 200, with {len(set(api.tokens[before:]))} tokens"


def overwrites(envoy, api):
    assert envoy.status(headers={"authorization": "Bearer the sandbox's own"}) == 200
    assert "the sandbox's own" not in api.tokens


def routes(envoy, api):
    before = len(api.tokens)
    table = [("POST", "/repos/a"), ("GET", "/admin"), ("TRACE", "/repos/a"), ("GET", "/repos/../admin")]
    got = [(method, path, envoy.status(method, path)) for method, path in table]
    assert {status for _, _, status in got} <= {400, 403, 405}, got
    # An escaped slash is one spelling too many.
    assert envoy.status("GET", "/repos/..%2fadmin") == 400
    assert len(api.tokens) == before, "the API was asked"


def accepted(envoy):
    assert int(envoy.stat(SDS + "update_success")) >= 4, envoy.stat(SDS + "update_success")
    assert envoy.stat(SDS + "update_rejected") == "0"
    assert envoy.stat(SDS + "version_text") not in (None, '""')


def dump_hides(envoy, api):
    token = api.tokens[-1]
    dump = envoy.asked("/config_dump?include_eds")
    assert "credential_injector" in dump and token not in dump


def provider_down(envoy, provider, api):
    load = Load(envoy)
    try:
        provider.close()
        down = time.monotonic()
        until("the first 401", lambda: load.first(401, down), 15)
        refused = load.first(401, down) - down
        time.sleep(1)
        late = {status for at, status in list(load.answers) if at > down + refused + 0.2}
        assert late == {401}, late
        # The provider counts in whole seconds, and so ends a token up to a second before the broker does.
        ended = [at for at, status in list(load.answers) if status == 403]
        assert load.statuses() <= {200, 401, 403} and all(at > down + refused - 2 for at in ended), load.statuses()
        provider.open()
        back = time.monotonic()
        until("a token again", lambda: load.first(200, back), 60)
        recovered = load.first(200, back) - back
        time.sleep(1)
        assert load.statuses(since=back + recovered + 0.2) == {200}
    finally:
        load.end()
        provider.open()
    return f"401 after {refused:.1f} s without a provider (tokens live 5 s), 200 again {recovered:.1f} s after it was back"


def broker_restarts(envoy, broker):
    load = Load(envoy)
    try:
        start = time.monotonic()
        broker.stop()
        broker.start()
        restarted = time.monotonic() - start
        until("the Envoy is back", lambda: envoy.stat(SDS + "control_plane.connected_state") == "1", 20)
        back = time.monotonic()
        # Longer than a token lives.
        time.sleep(7)
        assert load.statuses(since=back + 1) == {200}, load.statuses(since=back + 1)
        others = {status for status in load.statuses() if status != 200}
    finally:
        load.end()
    return f"restart {restarted:.2f} s, Envoy back {back - start:.2f} s after its beginning, other answers: {others or 'none'}"


def logout(envoy, broker):
    load = Load(envoy, pause=0.005)
    try:
        time.sleep(0.5)
        began = time.monotonic()
        broker.command("logout", "idp")
        ended = time.monotonic()
        until("the first 401", lambda: load.first(401, began), 10)
        first = load.first(401, began)
        time.sleep(0.5)
        assert load.statuses(since=first + 0.2) == {401}, load.statuses(since=first + 0.2)
        assert first - ended < 1.0, f"{first - ended:.3f} s"
    finally:
        load.end()
    return f"the first 401 came {first - began:.3f} s after the logout began, {first - ended:.3f} s after it ended"


def comes_back(envoy, broker, provider):
    start = time.monotonic()
    broker.store(provider.another_login())
    until("a token again", lambda: envoy.status() == 200, 10)
    return f"200 again {time.monotonic() - start:.2f} s after a new import began"


class Talk:
    """A StreamSecrets by hand."""

    def __init__(self, broker, names):
        self.requests = queue.Queue()
        self.channel = grpc.insecure_channel(f"unix:{broker.socket}")
        self.stub = sds_pb2_grpc.SecretDiscoveryServiceStub(self.channel)
        self.capability = [("authorization", f"Bearer {broker.capability}")]
        self.names = names
        self.requests.put(discovery.DiscoveryRequest(resource_names=names, type_url=TYPE_URL))
        self.answers = self.stub.StreamSecrets(iter(self.requests.get, None), metadata=self.capability, timeout=60)

    def told(self):
        answer = next(self.answers)
        told = {}
        for resource in answer.resources:
            secret = secret_pb2.Secret()
            assert resource.Unpack(secret)
            told[secret.name] = secret.generic_secret.secret.inline_string
        return answer, told

    def refuse(self, answer):
        detail = status_pb2.Status(code=13, message="not this one")
        request = discovery.DiscoveryRequest(
            resource_names=self.names, type_url=TYPE_URL, response_nonce=answer.nonce, error_detail=detail
        )
        self.requests.put(request)

    def end(self):
        self.answers.cancel()
        self.requests.put(None)
        self.channel.close()


def refused(broker):
    talk = Talk(broker, [f"token/{ENTRY}"])
    answer, first = talk.told()
    for _ in range(3):
        talk.refuse(answer)
    start = time.monotonic()
    again, second = talk.told()
    took = time.monotonic() - start
    talk.end()
    assert again.version_info != answer.version_info and first != second, "the same was sent again"
    log = (FIXTURE / "broker.log").read_text()
    assert log.count("did not accept") == 1 and "not this one" in log, log
    assert not any(value in log for value in first.values())
    return f"the next answer came {took:.1f} s after a refusal, with another token"


def all_alike(broker):
    names = ["token/absent/default", "token/github/default", "token/nowhere/x", "api-key/anthropic", "nothing/at/all", "*"]
    talk = Talk(broker, names)
    told = {}
    start = time.monotonic()
    while len(told) < len(names):
        told.update(talk.told()[1])
    took = time.monotonic() - start
    request = discovery.DiscoveryRequest(resource_names=names, type_url=TYPE_URL)
    fetched = talk.stub.FetchSecrets(request, metadata=talk.capability, timeout=10)
    talk.end()
    assert set(told.values()) == {""} and set(told) == set(names), told
    assert len(fetched.resources) == len(names)
    assert len({len(resource.value) - len(name) for resource, name in zip(fetched.resources, sorted(names))}) == 1
    assert took < 1, took
    outside = lambda: [line for line in broker.audit() if line.get("reason") == "UNAUTHORIZED"]
    # A line for each and each call; a broker writes its records when it has a moment.
    until("their records", lambda: len(outside()) == 6, 5)
    assert {line.get("provider") or line.get("key") for line in outside()} == {"github", "nowhere", "anthropic"}


def api_key(envoy, api):
    # Not the provider's, so the API refuses it; it got it all the same.
    assert envoy.status() == 403
    assert api.tokens[-1] == "sk-demo"


def gets_nothing(envoy, api):
    before = len(api.tokens)
    assert {envoy.status() for _ in range(5)} == {401}
    assert len(api.tokens) == before, "the API was asked"


def unauthenticated(broker):
    reasons = {(line["operation"], line.get("reason")) for line in broker.audit() if not line["sandbox"]}
    assert ("StreamSecrets", "UNAUTHENTICATED") in reasons, reasons


def records(broker, api):
    audit = broker.audit()
    delivered = [line for line in audit if line["operation"] == "StreamSecrets" and line.get("provider") == "idp"]
    assert len([line for line in delivered if line["outcome"] == "ok"]) >= 4
    text = str(audit) + (FIXTURE / "broker.log").read_text()
    assert not any(token in text for token in set(api.tokens) if token), "a token is in a record"


def example_is_valid():
    path = FIXTURE / "example.yaml"
    path.write_text(EXAMPLE)
    subprocess.run([os.environ["ENVOY"], "--mode", "validate", "-c", path], check=True, stdout=sys.stderr)


def main():
    provider = Provider()
    api = Api(provider)
    broker = Broker(provider)
    # The access token is none of the provider's: the broker has to refresh before there is a first one.
    broker.store({"access_token": "none yet", "refresh_token": provider.told["refresh_token"], "expires_in": 0})
    envoy = Envoy("envoy", broker, api)
    nobody = Envoy("nobody", broker, api, (INITIAL_METADATA.format(broker.capability), ""))
    outside = Envoy("outside", broker, api, (f"name: token/{ENTRY}", "name: token/github/default"))
    unknown = Envoy("unknown", broker, api, (f"name: token/{ENTRY}", "name: token/absent/default"))
    keyed = Envoy("keyed", broker, api, (f"name: token/{ENTRY}", "name: api-key/openai"))
    running = []
    try:
        broker.start()
        running.append(broker)
        check("the documented configuration is valid", example_is_valid)
        check("so is what is made of it here", envoy.validate)
        envoy.start()
        running.append(envoy)
        check("a request without a credential leaves with the token", first_request, envoy, api)
        check("what the sandbox sends as its own is replaced", overwrites, envoy, api)
        check("what the routes do not allow reaches nobody", routes, envoy, api)
        check("three rotations without a dropped request", rotations, envoy, api)
        check("each answer was accepted", accepted, envoy)
        check("Envoy's own description does not show the token", dump_hides, envoy, api)
        check("401 when the token ends while the provider is down, and back by itself", provider_down, envoy, provider, api)
        check("a restart of the broker", broker_restarts, envoy, broker)
        check("401 within a second of a logout", logout, envoy, broker)
        check("a new import is used at once", comes_back, envoy, broker, provider)
        check("what a client refuses is not sent again", refused, broker)
        check("unknown, malformed, absent and outside the policy are empty, all alike", all_alike, broker)
        for name, other in [("outside the policy", outside), ("without an entry", unknown)]:
            other.start()
            running.append(other)
            check(f"an Envoy whose secret is {name} gets 401", gets_nothing, other, api)
        keyed.start()
        running.append(keyed)
        check("an API key is added as well", api_key, keyed, api)
        nobody.start()
        running.append(nobody)
        check("an Envoy without the capability gets 401", gets_nothing, nobody, api)
        check("and stands in the audit as such", unauthenticated, broker)
        check("each delivery has a line, and no record a token", records, broker, api)
        check("a request at the end", first_request, envoy, api)
    finally:
        for one in reversed(running):
            one.stop()
        provider.end()
        if failed:
            sys.stderr.write((FIXTURE / "broker.log").read_text())
    sys.exit(failed)


main()
