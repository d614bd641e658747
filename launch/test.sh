#!/usr/bin/env bash
# Sets everything up and runs linter, type checker and the fast tests, in as many
# processes as there are cores, up to four; --all adds the slow ones; further words go to
# pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare test
chosen=()
if [ "${1:-}" = --all ]; then
    shift
    chosen=(-m "slow or not slow")
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy tf_amalgam launch
exec .venv/bin/python -m pytest --numprocesses=logical --maxprocesses=4 \
    --dist=loadfile ${chosen[@]+"${chosen[@]}"} "$@"
