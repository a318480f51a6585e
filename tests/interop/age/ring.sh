#!/usr/bin/env bash
# What `credbroker token import` stored is read with the stock age tool.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need age age
need python3 python3-venv
store=$fixture/data/credbroker
hex() { printf %s "$1" | od -An -tx1 | tr -d ' \n'; }

decrypted() { # decrypted FILE NAME...: whether the file decrypts to JSON that has all of these strings as values.
  age -d -i "$store/identity.txt" "$1" | python3 -c '
import json, sys
def strings(value):
    if isinstance(value, str): yield value
    elif isinstance(value, dict): yield from (s for v in value.values() for s in strings(v))
    elif isinstance(value, list): yield from (s for v in value for s in strings(v))
found = set(strings(json.load(sys.stdin)))
missing = set(sys.argv[1:]) - found
sys.exit(f"missing: {missing}" if missing else 0)
' "${@:2}"
}
sealed() { # sealed: whether no secret is in a file as it is.
  ! grep -rlE 'gho_demo|ghr_never|sk-demo' "$store"
}
token=$store/tokens/$(hex github)/$(hex default).age
key=$store/keys/$(hex openai).age

check "the token is in its entry" decrypted "$token" gho_demo ghr_never github default
check "the key is in its entry" decrypted "$key" sk-demo openai
check "nothing is stored in the clear" sealed
check "the identity is the owner's" test "$(stat -c %a "$store/identity.txt")" = 600
age-keygen -o "$fixture/other" 2>/dev/null
check "another identity does not open it" says 'no identity matched' age -d -i "$fixture/other" "$token"
