"""Calls beyond the policy: every method, wrong capabilities, names that are none, what answers give away."""

import os
import secrets
import socket
import statistics
import subprocess
import time

from attempts import OUT, among, attempt, steal, told

import calls

SOCKET, CAPABILITY = os.environ["CREDBROKER_SOCKET"], os.environ["CREDBROKER_CAPABILITY"]
SDS = "/envoy.service.secret.v3.SecretDiscoveryService/"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


class Channel:
    """One connection, for a few calls: what is too much for one connection is another attempt."""

    def __enter__(self):
        self.channel = calls.open_channel(SOCKET)
        return self

    def __exit__(self, *_):
        self.channel.close()

    def call(self, method, request=b"", capability=CAPABILITY, **more):
        method = method if method.startswith("/") else calls.BROKER + method
        answer = calls.call(self.channel, method, request, capability, **more)
        steal(f"answer of {method}", answer.payload + answer.details + answer.message.encode())
        return answer


def one(method, request=b"", **more):
    with Channel() as channel:
        answer = channel.call(method, request, **more)
    return answer.reason or answer.code


def discovery(*names):
    return b"".join(calls.field(3, name) for name in names) + calls.field(4, SECRET)


def secret(answer):
    """The value that secret discovery answered with; None if there is no such resource in it."""
    for resource in calls.every(answer.payload, 2):
        return calls.first(calls.first(resource, 2), 5, 1, 3)
    return None


SESSION = "0" * 32
# Every method with what it is tried with: entries, keys and rights that the policy does not give.
BEYOND = {
    calls.BROKER + "GetServerInfo": b"",
    calls.BROKER + "GetToken": calls.message("vault"),
    calls.BROKER + "SaveToken": calls.message("github", "", calls.field(1, "planted")),
    calls.BROKER + "RemoveToken": calls.message("github"),
    calls.BROKER + "RefreshToken": calls.message("vault"),
    calls.BROKER + "WatchToken": calls.message("vault"),
    calls.BROKER + "ListProviders": b"",
    calls.BROKER + "ListBuckets": calls.message("vault"),
    calls.BROKER + "GetBucketStats": calls.message("vault"),
    calls.BROKER + "GetApiKey": calls.message("stripe"),
    calls.BROKER + "ListApiKeys": b"",
    calls.BROKER + "InitiateLogin": calls.message("github"),
    calls.BROKER + "ExchangeCode": calls.message(SESSION, "code"),
    calls.BROKER + "PollLogin": calls.message(SESSION),
    calls.BROKER + "CancelLogin": calls.message(SESSION),
    SDS + "StreamSecrets": discovery("token/vault/default"),
    SDS + "DeltaSecrets": b"",
    SDS + "FetchSecrets": discovery("token/vault/default"),
    calls.HEALTH + "Check": b"",
    calls.HEALTH + "Watch": b"",
    calls.REFLECTION.format("v1"): calls.field(7, "*"),
    calls.REFLECTION.format("v1alpha"): calls.field(7, "*"),
}
HIDDEN = [
    "/credbroker.v1.ControlBroker/GetStatus",
    "/grpc.channelz.v1.Channelz/GetServers",
    "/grpc.reflection.v9.X/Y",
    "//",
    "/",
]
STREAMS = ("WatchToken", "StreamSecrets", "DeltaSecrets", "Watch", "ServerReflectionInfo")


def streaming(method):
    return method.rsplit("/", 1)[1] in STREAMS


def said(method, answer):
    """An answer as an outcome: what a list or a secret held counts, not that it was OK."""
    if answer.code == "OK" and method.endswith(("ListProviders", "ListBuckets", "ListApiKeys")):
        return "lists " + among(name.decode() for name in calls.every(answer.payload, 1))
    if answer.code == "OK" and "Secret" in method:
        return {None: "no secret", b"": "an empty secret"}.get(secret(answer), "a secret")
    return answer.reason or answer.code


@attempt("own rights: they work, so that the refusals say something")
def rights():
    with Channel() as channel:
        token = channel.call("GetToken", calls.message("github"))
        key = channel.call("GetApiKey", calls.message("openai"))
        found = channel.call(SDS + "FetchSecrets", discovery("token/github/default"))
    return f"{token.code} {key.code} {'a secret' if secret(found) else 'no secret'}"


for _method, _request in BEYOND.items():

    def _beyond(method=_method, request=_request):
        with Channel() as channel:
            return said(method, channel.call(method, request, streaming=streaming(method)))

    attempt(f"call {_method.split('.')[-1]} beyond the policy" if "reflection" not in _method else f"call {_method[1:]}")(
        _beyond
    )


@attempt("methods that reflection shows and nothing here tries")
def untried():
    with Channel() as channel:
        shown = calls.methods(channel.channel)
    assert len(shown) > 15, shown
    return among(set(shown) ^ set(BEYOND))


@attempt("call services that are not on this socket")
def hidden():
    return among(one(method) for method in HIDDEN)


@attempt("call the control socket's service as a stream, with large and small messages")
def control():
    return among(
        one(HIDDEN[0], request, streaming=stream)
        for request in (b"", b"\xff" * 64, bytes(100 << 10))
        for stream in (False, True)
    )


def wrong(capability=None, **more):
    """Every method that needs the capability, with a wrong one."""
    outcomes = set()
    for method, request in BEYOND.items():
        if method.startswith((calls.BROKER, SDS)):
            outcomes.add(one(method, request, capability=capability, streaming=streaming(method), **more))
    return among(outcomes)


attempt("every method without a capability")(lambda: wrong(None))
attempt("every method with a capability that was guessed")(lambda: wrong(secrets.token_hex(32)))
attempt("every method with another sandbox's capability")(lambda: wrong(told()["neighbour"]))
attempt("every method with the capability of a sandbox that has ended")(lambda: wrong(told()["ended"]))


@attempt("a capability that is almost right")
def almost():
    flipped = CAPABILITY[:-1] + ("0" if CAPABILITY[-1] != "0" else "1")
    odd = ["", CAPABILITY[:-1], CAPABILITY[:-2], CAPABILITY + "00", CAPABILITY + "0", flipped, "0" * 64, "f" * 64]
    return among(one("GetToken", calls.message("github"), capability=value) for value in odd)


@attempt("two capabilities at once, or one in another header")
def twice():
    # The order of the two must not matter: what is ambiguous is refused.
    bearer, other = ("authorization", "Bearer " + CAPABILITY), ("authorization", "Bearer " + told()["neighbour"])
    tries = [[other], [("x-authorization", bearer[1])], [("authorization", "Basic " + CAPABILITY)], [("cookie", bearer[1])]]
    tries += [[bearer, other], [other, bearer]]
    return among(one("GetToken", calls.message("vault"), metadata=metadata) for metadata in tries)


# A name that is stored and one of the same length that is not. All are outside the policy.
PAIRS = [
    ("GetToken", lambda name: calls.message(name), "vault", "valut"),
    ("GetToken", lambda name: calls.message("github", name), "work", "wurk"),
    ("RefreshToken", lambda name: calls.message(name), "vault", "valut"),
    ("WatchToken", lambda name: calls.message(name), "vault", "valut"),
    ("SaveToken", lambda name: calls.message(name, "", calls.field(1, "x")), "vault", "valut"),
    ("RemoveToken", lambda name: calls.message(name), "vault", "valut"),
    ("GetBucketStats", lambda name: calls.message(name), "vault", "valut"),
    ("ListBuckets", lambda name: calls.message(name), "vault", "valut"),
    ("InitiateLogin", lambda name: calls.message(name), "vault", "valut"),
    ("GetApiKey", lambda name: calls.message(name), "stripe", "stripo"),
    (SDS + "FetchSecrets", lambda name: discovery(f"token/{name}/default"), "vault", "valut"),
    (SDS + "FetchSecrets", lambda name: discovery(f"api-key/{name}"), "stripe", "stripo"),
]


def canonical(method, answer, name):
    """The bytes of an answer, with the name made the same. The parts of an ErrorInfo's map come in any order."""

    def details(data):
        return sorted((calls.first(any_, 1), sorted(calls.fields(calls.first(any_, 2)))) for any_ in calls.every(data, 3))

    # Secret discovery numbers what it answers, by a random value and the names: fields 1 and 5.
    payload = [
        (number, value) for number, value in calls.fields(answer.payload) if "Secret" not in method or number not in (1, 5)
    ]
    whole = repr((answer.code, answer.message.encode(), details(answer.details), payload))
    return whole.replace(name, "?" * len(name))


@attempt("enumerate: an answer that differs for what is stored")
def enumerate_():
    different, slow = set(), []
    for method, request, stored, absent in PAIRS:
        times = {stored: [], absent: []}
        with Channel() as channel:
            for _ in range(12):
                seen = set()
                for name in (stored, absent):
                    answer = channel.call(method, request(name), streaming=streaming("/" + method))
                    times[name].append(answer.seconds)
                    seen.add(canonical(method, answer, name))
                if len(seen) > 1:
                    different.add(f"{method} {stored}")
        medians = [statistics.median(times[name]) * 1e6 for name in (stored, absent)]
        slow.append(f"{method.rsplit('/', 1)[-1]} {stored}: {medians[0]:.0f} and {medians[1]:.0f} us")
    with open(f"{OUT}/medians", "w") as file:
        file.write("\n".join(slow))
    return among(different)


NAMES = {
    "control characters": ["\x1b[2J\x1b]0;owned\x07", "a\rb", "a\nb", "a\0b", "\x7f"],
    "invalid UTF-8": [b"\xff\xfe", b"git\xc0\xafhub", b"\xed\xa0\x80"],
    "over-long": ["a" * 65, "a" * 4096],
    "paths": ["..", ".", "../github", "/etc/passwd", "github/default", "%2e%2e"],
    "letters that look alike or turn the text": ["gith\u0443b", "\u202ebuhtig", "github\u200b", "\ufeffgithub"],
    "patterns and nothing": ["*", "git*", "git?ub", " github", "github ", "$(id)"],
}


def named(names):
    outcomes = set()
    with Channel() as channel:
        for name in names:
            for method in ("GetToken", "WatchToken", "GetApiKey", "ListBuckets", "RemoveToken", "InitiateLogin"):
                outcomes.add(one_of(channel, method, calls.message(name)))
            outcomes.add(one_of(channel, "GetToken", calls.message("github", name)))
            entry = name if isinstance(name, bytes) else name.encode()
            found = channel.call(SDS + "FetchSecrets", discovery(b"token/" + entry + b"/default"))
            if found.code == "OK" and secret(found):
                outcomes.add("a secret")
    return among(outcomes)


def one_of(channel, method, request):
    answer = channel.call(method, request, streaming=streaming("/" + method))
    return answer.reason or answer.code


for _what, _names in NAMES.items():
    attempt(f"names: {_what}")(lambda names=_names: named(names))


@attempt("names: empty, or a message too large")
def sizes():
    return f"{one('GetToken', calls.message(''))}, {one('GetToken', calls.message('a' * (100 << 10)))}"


@attempt("junk on the wire: what is answered but the end of the connection")
def junk():
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\0\0\0\4\0\0\0\0\0"
    tries = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3" + bytes(200), os.urandom(4096),
        preface + os.urandom(4096), preface + settings + b"\xff\xff\xff\1\4\0\0\0\1" + bytes(64),
        preface + settings + b"\0\0\5\1\4\0\0\0\1\x3f\xff\xff\xff\x7f", preface + settings + b"\0\0\4\3\0\0\0\0\1\0\0\0\0",
        preface + settings + b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",
    ]  # fmt: skip
    outcomes = set()
    for bytes_ in tries:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(8)
            client.connect(SOCKET)
            try:
                client.sendall(bytes_)
                while data := client.recv(65536):
                    steal("answer to junk", data)
            except ConnectionError:
                pass
            except TimeoutError:
                outcomes.add("still open after 8 s: " + bytes_[:40].hex())
    return among(outcomes)


@attempt("a capability in Envoy's place: secrets that are not one's own")
def envoy():
    outcomes = set()
    names = ["token/vault/default", "token/valut/default", "api-key/stripe", "token/github/work", "token/github/default/../../vault",
             "token/*/default", "*", "", "api-key/../vault", "identity"]  # fmt: skip
    with Channel() as channel:
        for name in names:
            answer = channel.call(SDS + "FetchSecrets", discovery(name))
            outcomes.add(said(SDS, answer) if answer.code == "OK" else answer.reason)
        answer = channel.call(SDS + "FetchSecrets", calls.field(4, SECRET))
        outcomes.add(said(SDS, answer) if answer.code == "OK" else answer.reason)
    return among(outcomes)


def command(*arguments, **environment):
    import shutil

    program = shutil.which("credbroker")
    if program is None:
        raise FileNotFoundError(2, "credbroker is not in PATH")
    ended = subprocess.run(
        [program, *arguments], env={**os.environ, **environment}, input=b"{}", capture_output=True, timeout=20
    )
    steal(f"credbroker {arguments}", ended.stdout + ended.stderr)
    return ended


@attempt("credbroker itself: commands of the host")
def host_commands():
    commands = [
        "serve",
        "providers",
        "token import x",
        "key set x",
        "key remove openai",
        "run -- true",
        "token get vault",
        "key get stripe",
    ]
    return among(str(command(*line.split()).returncode) for line in commands)


@attempt("credbroker itself, as if this were the host: entries that it lists")
def own_host():
    without = {name: value for name, value in os.environ.items() if not name.startswith("CREDBROKER")}
    import shutil

    program = shutil.which("credbroker")
    if program is None:
        raise FileNotFoundError(2, "credbroker is not in PATH")
    listed = set()
    for line in ("token list", "key list", "status"):
        ended = subprocess.run([program, *line.split()], env=without, capture_output=True, timeout=20)
        steal(f"credbroker {line}", ended.stdout + ended.stderr)
        listed |= set(ended.stdout.decode().split()) & {"github/default", "vault/default", "openai", "stripe"}
    return among(listed)


@attempt("after everything: the own token")
def after():
    time.sleep(1)
    return one("GetToken", calls.message("github"))
