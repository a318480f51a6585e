#!/usr/bin/env bash
# The metrics, read with Prometheus' own parser of the OpenMetrics text format.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need python3 python3-venv
echo 'prometheus-client==0.26.0' >"$fixture/requirements"
cached metrics "$fixture/requirements" make_venv python3 "$fixture/requirements"
# shellcheck disable=SC2016
on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
  "$cache/metrics/bin/python" "$interop/metrics/scrape.py" "$CREDBROKER_BIN" "$fixture" 2>>"$fixture/stderr"
