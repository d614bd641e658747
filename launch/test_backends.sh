#!/usr/bin/env bash
# Runs the tests of trained optimizers on Keras' other backends, each with a CPU build of
# its own and without TensorFlow: launch/test_backends.sh [jax] [torch]. JAX and
# TORCH say what pip installs, a smaller build say: TORCH="torch==2.13.0".
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
python="$(supported_python)"
for backend in "$@"; do
    if [ "$backend" != jax ] && [ "$backend" != torch ]; then
        echo "error: the other backends are jax and torch; received $backend." >&2
        exit 1
    fi
done
[ $# -gt 0 ] || set -- jax torch
for backend in "$@"; do
    needed="${JAX:-jax}"
    [ "$backend" = torch ] && needed="${TORCH:-torch}"
    folder=".venv-$backend"
    make_environment "$folder" "$python"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
        'keras>=3.12,<3.16' 'numpy>=1.26' 'pytest>=8' "$needed"
    echo "Keras on $backend:"
    # Not the tests' own conftest.py: it is about TensorFlow's devices.
    KERAS_BACKEND="$backend" PYTHONPATH=. "$folder/bin/python" -m pytest --noconftest \
        -W ignore::DeprecationWarning tests/backends
done
