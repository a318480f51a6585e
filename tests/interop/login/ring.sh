#!/usr/bin/env bash
# Logins against npm's oidc-provider, as people make them: in every flow, in the sandbox and on the host; and how that
# looks in a terminal.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need tmux tmux
status=0
start_logins login/logins.py || status=1
start_logins login/terminal.py || status=1
exit "$status"
