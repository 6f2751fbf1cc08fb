#!/bin/sh
# make dev-remote: a key manager with a CA on a software token, and a node that enrols and serves through a proxy, all on this
# machine, shown to work with a round trip, then left running. Everything lies in one folder, which Ctrl-C removes.
set -eu
cd "$(dirname "$0")/.."
. scripts/apt.sh
[ -n "$(command -v softhsm2-util)" ] || apt_install softhsm2

bin=$PWD/.venv/bin
work=$(mktemp -d)
pids=
stop() {
  trap - INT TERM EXIT
  # shellcheck disable=SC2086
  [ -z "$pids" ] || kill $pids 2>/dev/null || true
  wait
  rm -rf "$work"
}
trap stop EXIT
trap 'stop; exit 0' INT TERM

export SOFTHSM2_CONF="$work/softhsm2.conf"
mkdir -m 700 "$work/tokens" "$work/manager" "$work/node"
echo "directories.tokendir = $work/tokens" > "$SOFTHSM2_CONF"
free_ports=$(PIN="$work/pin" "$bin/python" -c '
import os, pathlib, secrets, socket
from kmsd.hsm.host import module as modules
from kmsd.hsm.host.provision import ensure_token
pin = pathlib.Path(os.environ["PIN"])
pin.touch(0o600)
pin.write_text(secrets.token_urlsafe(24) + "\n")
module = modules.load(modules.module_path("softhsm", ""))
ensure_token(module, "dev-remote", secrets.token_urlsafe(24), pin.read_text().strip())
module.finalize()
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(each.getsockname()[1] for each in sockets))')
tcp=${free_ports% *} est=${free_ports#* }

# Its certificate is one of its own CA, and so are those of the nodes.
cat > "$work/manager.toml" <<EOF
[kms]
socket = "$work/manager/kms.sock"
[admin]
socket = "$work/manager/admin.sock"
[state]
dir = "$work/manager/state"
[token]
provider = "softhsm"
label = "dev-remote"
pin_file = "$work/pin"
[keys]
auto_create = true
[ca]
enabled = true
[est]
listen = "127.0.0.1:$est"
[server]
enabled = true
host = "127.0.0.1"
port = $tcp
tls_ca = "$work/manager/state/ca.pem"
tls_certificate = "$work/manager/state/est.crt"
tls_key = "$work/manager/state/est.key"
[[tenants]]
name = "cluster-a"
san = ["DNS:*.cluster-a.test"]
key_label = "kek-a"
EOF
cat > "$work/proxy.toml" <<EOF
[kms]
socket = "$work/node/kms.sock"
[admin]
socket = "$work/node/admin.sock"
[state]
dir = "$work/node/state"
[proxy]
upstreams = ["127.0.0.1:$tcp"]
tls_ca = "$work/node/tls/ca.crt"
tls_certificate = "$work/node/tls/tls.crt"
tls_key = "$work/node/tls/tls.key"
est_server = "https://127.0.0.1:$est"
EOF

level=${LOG_LEVEL:-error}
manager="$bin/kmsctl --target unix://$work/manager/admin.sock"
node="$bin/kmsctl --target unix://$work/node/admin.sock"
"$bin/kmsd" serve --config "$work/manager.toml" --log-level "$level" &
pids=$!
$manager health --wait --timeout 30 >/dev/null
$manager ca init >/dev/null
pin=sha256:$($manager ca show --pem | "$bin/python" -c '
import hashlib, sys
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
root = x509.load_pem_x509_certificates(sys.stdin.buffer.read())[0]
print(hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest())')
$manager enrol token node-1 --tenant cluster-a 2>/dev/null > "$work/token"
tries=0
until "$bin/kmsctl" enrol --server "https://127.0.0.1:$est" --ca-fingerprint "$pin" --token-file "$work/token" \
  --node node-1 --out "$work/node/tls" 2>"$work/enrol.log" >/dev/null; do
  tries=$((tries + 1))
  [ $tries -lt 20 ] || { cat "$work/enrol.log" >&2; exit 1; }
  sleep 0.5
done
"$bin/kmsd" proxy --config "$work/proxy.toml" --log-level "$level" &
pids="$pids $!"
$node health --wait --timeout 30 >/dev/null || { $node status >&2; exit 1; }

secret="a secret of cluster-a"
stored=$(printf %s "$secret" | "$bin/kmsctl" encrypt --socket "$work/node/kms.sock" -)
back=$(printf %s "$stored" | "$bin/kmsctl" decrypt --socket "$work/node/kms.sock" -)
[ "$back" = "$secret" ] || { echo "the round trip through the proxy failed" >&2; exit 1; }
cat <<EOF

node-1 of cluster-a has enrolled, and its proxy has had a secret encrypted and decrypted by the key manager.

Type next, in another terminal:
  .venv/bin/kmsctl --target unix://$work/manager/admin.sock status
  .venv/bin/kmsctl --target unix://$work/manager/admin.sock ca show
  .venv/bin/kmsctl --target unix://$work/node/admin.sock status
  .venv/bin/kmstui --target unix://$work/node/admin.sock
  .venv/bin/kmsctl --target unix://$work/manager/admin.sock ca revoke --node node-1 --yes
Ctrl-C stops both, and removes $work.
EOF
wait
