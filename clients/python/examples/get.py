"""Fetches a URL with a fresh token:

credbroker run --allow github -- python examples/get.py github https://api.github.com/user

With no URL it only says what token there is. Needs credbroker[httpx].
"""

import sys

import httpx

import credbroker
from credbroker.httpx import BrokerAuth


def main() -> None:
    provider = sys.argv[1] if len(sys.argv) > 1 else "github"
    with credbroker.Client() as broker:
        tokens = broker.token_source(provider)
        print(f"{provider}: {tokens.token()}")
        for url in sys.argv[2:]:
            with httpx.Client(auth=BrokerAuth(tokens)) as http:
                answer = http.get(url)
            print(f"{url}: {answer.status_code}, {len(answer.content)} bytes")


if __name__ == "__main__":
    try:
        main()
    except credbroker.NeedsLogin as error:
        sys.exit(f"{error}\n(on the host: credbroker login {error.metadata.get('provider', 'PROVIDER')})")
    except credbroker.CredbrokerError as error:
        sys.exit(str(error))
