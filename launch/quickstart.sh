#!/usr/bin/env bash
# Sets everything up, trains an optimizer on the embedded digits and compares it with
# its teachers. Safe to run twice; Ctrl-C leaves something that the next call resumes.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare
exec .venv/bin/python -m tf_amalgam_launch.quickstart "$@"
