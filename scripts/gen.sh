#!/bin/sh
# make gen: write anew what is generated from the code: kmsd/api from protos/, docs/architecture.svg from imports,
# docs/metrics.md and k8s/monitoring from the catalogue and the rules, docs/reference from settings, help texts and
# protos/, docs/screenshots from the screens. With --check: fail if what is committed differs.
set -eu
cd "$(dirname "$0")/.."
sh scripts/proto.sh "$@"
.venv/bin/python scripts/architecture.py "$@"
.venv/bin/python scripts/metrics.py "$@"
.venv/bin/python scripts/dashboard.py "$@"
.venv/bin/python scripts/reference.py "$@"
.venv/bin/python -m tests.tui.screenshots "$@"
