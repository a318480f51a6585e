#!/usr/bin/env bash
# Installs the package into a fresh virtual environment in $CLIENT_WORK and runs its checks and tests there. The ring
# tests/interop/clients of the repository starts it, with everything that the tests need: see its README. Arguments go to
# pytest. PYTHON names another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")"
export PYTHONDONTWRITEBYTECODE=1
venv=$CLIENT_WORK/venv
"${PYTHON:-python3}" -m venv "$venv"
# pip before 25.1 does not read groups of pyproject.toml.
"$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
"$venv/bin/python" -m pip install --quiet --group dev '.[httpx,requests]'
"$venv/bin/ruff" check --no-cache
"$venv/bin/ruff" format --check --no-cache
"$venv/bin/mypy" --cache-dir "$CLIENT_WORK/mypy"
"$venv/bin/pytest" "$@"
