# shellcheck shell=bash
# Sourced by the other scripts: makes .venv and installs this package into it once.
# Usage: . launch/environment.sh; prepare [extra]

# Prints a Python that this package runs on.
supported_python() {
    local python="${PYTHON:-}"
    if [ -z "$python" ]; then
        for python in python3.11 python3.12 python3.13 python3; do
            command -v "$python" >/dev/null 2>&1 && break
        done
    fi
    if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
        echo "error: Python 3.11, 3.12 or 3.13 is needed; found $("$python" --version 2>&1). Set PYTHON to one." >&2
        return 1
    fi
    echo "$python"
}

# Makes a virtual environment, anew where the last attempt did not get to its end or its
# Python is gone; one that somebody made without pip gets it.
# Usage: make_environment FOLDER PYTHON
make_environment() {
    if [ ! -f "$1/bin/activate" ] || ! "$1/bin/python" -c '' 2>/dev/null; then
        "$2" -m venv --clear "$1"
    elif ! "$1/bin/python" -m pip --version >/dev/null 2>&1; then
        "$1/bin/python" -m ensurepip --upgrade
    fi
}

prepare() {
    local extra="${1:-}" python stamp
    python="$(supported_python)" || return 1
    # Installed again whenever what it is made of has changed.
    stamp="$(cat setup.py pyproject.toml | cksum) $extra $PWD"
    if [ "$(cat .venv/installed 2>/dev/null)" != "$stamp" ] || ! .venv/bin/python -c ''; then
        echo "Installing into .venv (1 to 2 minutes the first time) ..."
        make_environment .venv "$python"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=23'
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
        echo "$stamp" >.venv/installed
    fi
    export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
}
