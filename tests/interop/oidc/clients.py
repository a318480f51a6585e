"""Twenty clients of one broker, for as long as OIDC_SECONDS says: every token that one of them gets must be active at the
provider at once. Prints what was seen; ends with 1 if anything was wrong."""

import asyncio
import base64
import json
import os
import sys
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
from credbroker.v1 import credential_broker_pb2 as pb
from credbroker.v1 import credential_broker_pb2_grpc as rpc

CLIENTS = 20
PAUSE = 0.25
SECONDS = float(os.environ["OIDC_SECONDS"])
PROVIDER = json.loads(os.environ["OIDC_PROVIDER"])
CAPABILITY = [("authorization", "Bearer " + os.environ["CREDBROKER_CAPABILITY"])]

pool = ThreadPoolExecutor(8)
quote = urllib.parse.quote_plus
basic = f"{quote(PROVIDER['client_id'])}:{quote(PROVIDER['client_secret'])}"
AUTHORIZATION = "Basic " + base64.b64encode(basic.encode()).decode()

calls = 0
tokens = set()
wrong = []


def active(token):
    form = urllib.parse.urlencode({"token": token}).encode()
    url = PROVIDER["issuer"] + "/token/introspection"
    request = urllib.request.Request(url, form, {"Authorization": AUTHORIZATION})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)["active"]


async def client():
    global calls
    loop = asyncio.get_running_loop()
    # Channels of one process share their connection otherwise, and these stand for twenty programs.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel("unix:" + os.environ["CREDBROKER_SOCKET"], options) as channel:
        broker = rpc.CredentialBrokerStub(channel)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                answer = await broker.GetToken(pb.GetTokenRequest(provider="idp"), metadata=CAPABILITY, timeout=30)
            except grpc.aio.AioRpcError as error:
                wrong.append(f"{error.code()}: {error.details()}")
                await asyncio.sleep(PAUSE)
                continue
            calls += 1
            got = time.monotonic()
            left = answer.token.expires_in.ToTimedelta().total_seconds()
            tokens.add(answer.token.access_token)
            is_active = await loop.run_in_executor(pool, active, answer.token.access_token)
            # A question that was asked too late says nothing about the token.
            if not is_active and time.monotonic() - got < left:
                wrong.append(f"a token that was not active, {left:.1f} s before its end")
            await asyncio.sleep(PAUSE)


async def main():
    await asyncio.gather(*(client() for _ in range(CLIENTS)))


asyncio.run(main())
print(json.dumps({"calls": calls, "tokens": len(tokens), "wrong": len(wrong)}))
for line in wrong[:10]:
    print(line, file=sys.stderr)
sys.exit(1 if wrong or not calls else 0)
