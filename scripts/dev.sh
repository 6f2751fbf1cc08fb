#!/bin/sh
# make dev: a kmsd on a software token of its own, shown to work with both APIs, then left running.
set -eu
cd "$(dirname "$0")/.."
. scripts/apt.sh
[ -n "$(command -v softhsm2-util)" ] || apt_install softhsm2

bin=.venv/bin
eval "$($bin/python -c 'import shlex
from kmsd import paths
print("kms=" + shlex.quote(str(paths.dev_kms_socket())), "admin=" + shlex.quote(str(paths.dev_admin_socket())))')"

$bin/kmsd dev --log-level "${LOG_LEVEL:-warning}" &
kmsd=$!
stop() {
  trap - INT TERM EXIT
  kill $kmsd 2>/dev/null || true
  wait $kmsd 2>/dev/null || true
}
trap stop EXIT
trap 'stop; exit 0' INT TERM
# Not to the terminal: kmsd writes there meanwhile.
said=$($bin/kmsctl --target "unix://$admin" health --wait --timeout 30 2>&1) || { echo "$said" >&2; exit 1; }
echo "$said"
# Another kmsd dev may be the one that answers; ours has said so and ended.
kill -0 $kmsd 2>/dev/null || exit 1
echo
for api in v2 v1beta1; do
  secret="a secret over KMS $api"
  stored=$(printf %s "$secret" | $bin/kmsctl encrypt --api $api --socket "$kms" -)
  back=$(printf %s "$stored" | $bin/kmsctl decrypt --api $api --socket "$kms" -)
  printf '%-8s encrypts to %.60s...\n%-8s decrypts to %s\n' "$api" "$stored" "$api" "$back"
  [ "$back" = "$secret" ] || { echo "the round trip over $api failed" >&2; exit 1; }
done
echo
echo "kmsd goes on serving; Ctrl-C stops it."
wait $kmsd
