#!/bin/sh
# What hadolint finds in the Containerfile; nothing is allowed.
set -eu
cd "$(dirname "$0")/.."
. scripts/own-venv.sh
own_venv image
exec "$venv/bin/hadolint" --failure-threshold style k8s/Containerfile
