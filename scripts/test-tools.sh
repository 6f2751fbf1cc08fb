#!/bin/sh
# What the tests use besides Python packages: a software token and its tools, etcd, kubectl, tmux.
set -eu
cd "$(dirname "$0")/.."
. scripts/apt.sh
need=
command -v softhsm2-util >/dev/null || need="$need softhsm2"
command -v etcd >/dev/null || need="$need etcd-server"
command -v tmux >/dev/null || need="$need tmux"
command -v kubectl >/dev/null || need="$need kubernetes-client"
command -v h2load >/dev/null || need="$need nghttp2-client"
# shellcheck disable=SC2086
[ -z "$need" ] || apt_install $need
