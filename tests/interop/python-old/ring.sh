#!/usr/bin/env bash
# The client of the python ring with the last grpcio that sends the socket's path as it is as :authority. Its wheels end
# with Python 3.11: another Python can be named in CREDBROKER_INTEROP_OLD_PYTHON.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

old=${CREDBROKER_INTEROP_OLD_PYTHON:-}
for candidate in python3 python3.11 python3.10 python3.9 python3.8; do
  if [[ -z $old ]] && "$candidate" -c 'import sys; sys.exit(not (3, 7) <= sys.version_info < (3, 12))' 2>/dev/null; then
    old=$candidate
  fi
done
[[ -n $old ]] || die "python-old needs a Python from 3.7 to 3.11: name it in CREDBROKER_INTEROP_OLD_PYTHON"
cached python-old "$interop/python-old/requirements.txt" make_venv "$old" "$interop/python-old/requirements.txt"
python=$cache/python-old/bin/python

"$python" -W ignore -m grpc_tools.protoc -I "$root/proto" \
  --python_out="$fixture" --grpc_python_out="$fixture" credbroker/v1/credential_broker.proto
export PYTHONPATH=$fixture PYTHONDONTWRITEBYTECODE=1

client "grpc" "$python" "$interop/python/checks.py"
client "grpc.aio" "$python" "$interop/python/checks.py" aio
