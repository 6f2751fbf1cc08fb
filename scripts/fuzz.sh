#!/bin/sh
# make fuzz: installs the fuzzer beside what tests need, and runs it. tests/fuzz/run.py takes the arguments.
set -eu
cd "$(dirname "$0")/.."
lock=requirements/fuzz.lock
stamp=.venv/.installed-fuzz
want=$(sha256sum "$lock")
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
  echo "installing the fuzzer ($lock)" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes -r "$lock"
  echo "$want" > "$stamp"
fi
exec .venv/bin/python -m tests.fuzz.run "$@"
