#!/bin/sh
# Generate kmsd/api from protos/. With --check: fail if what is committed differs.
set -eu
cd "$(dirname "$0")/.."
out=.
if [ "${1:-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
# shellcheck disable=SC2046
.venv/bin/python -m grpc_tools.protoc -Iprotos --python_out="$out" --pyi_out="$out" \
  $(cd protos && find kmsd -name '*.proto' | sort)
if [ "${1:-}" = --check ]; then
  for f in $(cd "$out" && find . -type f); do
    cmp -s "$out/$f" "$f" || { echo "$f differs from what protos/ generates: run make proto" >&2; exit 1; }
  done
fi
