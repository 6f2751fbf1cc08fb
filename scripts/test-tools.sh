#!/bin/sh
# What the tests use besides Python packages: tokens of several kinds and their tools, etcd,
# PostgreSQL, kubectl, promtool, tmux, curl, a C compiler.
set -eu
cd "$(dirname "$0")/.."
. scripts/apt.sh
PATH=$PATH:/usr/sbin
need=
command -v softhsm2-util >/dev/null || need="$need softhsm2"
command -v etcd >/dev/null || need="$need etcd-server"
command -v etcdctl >/dev/null || need="$need etcd-client"
command -v tmux >/dev/null || need="$need tmux"
command -v zsh >/dev/null || need="$need zsh"
command -v fish >/dev/null || need="$need fish"
command -v kubectl >/dev/null || need="$need kubernetes-client"
command -v h2load >/dev/null || need="$need nghttp2-client"
command -v psql >/dev/null && [ -n "$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null)" ] || need="$need postgresql"
command -v mandoc >/dev/null || need="$need mandoc"
command -v jq >/dev/null || need="$need jq"
command -v sqlite3 >/dev/null || need="$need sqlite3"
command -v hexdump >/dev/null || need="$need bsdextrautils"
command -v curl >/dev/null || need="$need curl"
# Checks metrics and rules.
command -v promtool >/dev/null || need="$need prometheus"
command -v openssl >/dev/null || need="$need openssl"
command -v pkcs11-tool >/dev/null || need="$need opensc"
# A TPM in software, and its PKCS#11 module; the resource manager on a D-Bus of its own.
command -v swtpm >/dev/null || need="$need swtpm"
command -v tpm2_getcap >/dev/null || need="$need tpm2-tools"
command -v tpm2_ptool >/dev/null || need="$need libtpm2-pkcs11-tools"
command -v tpm2-abrmd >/dev/null || need="$need tpm2-abrmd libtss2-tcti-tabrmd0"
command -v dbus-daemon >/dev/null || need="$need dbus-daemon"
# systemd-analyze and systemd-tmpfiles, which need no running systemd.
command -v systemd-analyze >/dev/null || need="$need systemd"
# Tokens over a socket, and those of openCryptoki.
command -v p11-kit >/dev/null || need="$need p11-kit"
command -v pkcsslotd >/dev/null || need="$need opencryptoki"
module() {
  for folder in /usr/lib/*/pkcs11 /usr/lib/pkcs11 /usr/lib64/pkcs11; do
    [ ! -e "$folder/$1" ] || return 0
  done
  return 1
}
module libtpm2_pkcs11.so || need="$need libtpm2-pkcs11-1"
module p11-kit-client.so || need="$need p11-kit-modules"
# A client of EST that is not ours, and its plugin for elliptic curves.
[ -e /usr/lib/ipsec/plugins/libstrongswan-openssl.so ] || need="$need libstrongswan-standard-plugins"
command -v pki >/dev/null || need="$need strongswan-pki"
# For the module that misbehaves on demand.
command -v gcc >/dev/null || need="$need gcc libc6-dev"
# shellcheck disable=SC2086
[ -z "$need" ] || apt_install $need
