#!/bin/sh
# make debug: kmsd under debugpy, which waits for nobody: attach to 127.0.0.1:5678 (DEBUG_PORT) at any time.
# Host processes are programs of their own and are not debugged: a stop in one would look like a module that hangs.
set -eu
cd "$(dirname "$0")/.."
. scripts/apt.sh
[ $# -gt 0 ] || set -- dev
[ "$1" != dev ] || [ -n "$(command -v softhsm2-util)" ] || apt_install softhsm2
exec .venv/bin/python -Xfrozen_modules=off -m debugpy --listen "127.0.0.1:${DEBUG_PORT:-5678}" \
  --configure-subProcess false .venv/bin/kmsd "$@"
