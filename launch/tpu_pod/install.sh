#!/usr/bin/env bash
# Installs palmscale on a TPU worker, into .venv in the code's folder, with Python 3.11 or later. Does
# nothing if constraints.txt and pyproject.toml are those of the last time. The stock images of
# TPU VMs have Python 3.10; there, uv brings a newer one.
set -u

cd "$(dirname "$0")/../.." || exit 1
export PIP_DISABLE_PIP_VERSION_CHECK=1
pins=$(cat constraints.txt pyproject.toml | cksum)
[[ $(cat .venv/pins 2>/dev/null) == "$pins" ]] && exit

recent() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

make_environment() {
  local python
  for python in python3.12 python3.11 python3.13 python3; do
    # Debian's python3 lacks venv if its package python3-venv is absent.
    recent "$python" && "$python" -m venv --clear .venv >/dev/null 2>&1 && return
  done
  python3 -m pip install -q --upgrade --target=.uv uv && .uv/bin/uv venv -q --seed --clear --python 3.12 .venv
}

if ! make_environment || ! recent .venv/bin/python; then
  echo "error: $(hostname) has no Python 3.11 or later, and uv cannot install one; use an image that has one, or --install=COMMAND"
  exit 1
fi
.venv/bin/pip install -q -c constraints.txt -e '.[tpu,gcs]' && echo "$pins" >.venv/pins
