#!/bin/sh
# make install: .venv with the locked versions and the programs. `install.sh dev` adds what tests need.
# Does nothing when .venv is up to date.
set -eu
cd "$(dirname "$0")/.."
. scripts/apt.sh

lock=requirements/run.lock
stamp=.venv/.installed-run
if [ "${1:-run}" = dev ]; then
  lock=requirements/dev.lock
  stamp=.venv/.installed-dev
fi

digest() {
  cat "$@" pyproject.toml | sha256sum | cut -d' ' -f1
}
want=$(digest "$lock")
if [ -x .venv/bin/kmsd ]; then
  [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && exit 0
  # What tests need includes what running needs.
  [ "$(cat .venv/.installed-dev 2>/dev/null)" = "$(digest requirements/dev.lock)" ] && [ "${1:-run}" = run ] && exit 0
fi

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
  echo "kmsd needs Python 3.11 or later as \`$python\`; name another one: make PYTHON=python3.12 ..." >&2
  exit 2
}
if [ ! -x .venv/bin/python ]; then
  # Debian keeps ensurepip in a package of its own; without it a venv has no pip.
  "$python" -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
  echo "making .venv" >&2
  "$python" -m venv .venv
fi
echo "installing the locked versions ($lock)" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r "$lock"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
echo "$want" > "$stamp"
