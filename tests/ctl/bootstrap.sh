#!/bin/sh
# Brings a node to a kmsd that serves, however often it is run, and wherever an earlier run stopped.
# Arguments: those of `kmsd serve`. Environment: KMSCTL_TARGET, KMSCTL_SOCKET; STATE, a folder for log and pid.
set -eu

answers() { # Exit code 3 alone means that no kmsd is there.
    code=0
    kmsctl status -o name >/dev/null 2>&1 || code=$?
    [ "$code" -ne 3 ]
}

if ! answers; then
    kmsd serve "$@" >>"$STATE/log" 2>&1 </dev/null &
    echo $! >"$STATE/pid"
fi

kmsctl keygen k8s-kek --if-not-exists --wait -o name
kmsctl health --wait --timeout 60s
kmsctl mechanisms -o name | grep -qx CKM_AES_GCM
kmsctl keys test k8s-kek --rounds 3 -o name

# Again after this script stopped half-way: a spare key that another run relabelled is left as it is.
if ! kmsctl keys show recovery -o name 2>/dev/null; then
    kmsctl keygen recovery.new --if-not-exists -o name >/dev/null
    kmsctl keys relabel recovery.new recovery -o name 2>/dev/null
fi

[ "$(printf ping | kmsctl encrypt | kmsctl decrypt)" = ping ]
[ "$(printf ping | kmsctl encrypt --api v1beta1 | kmsctl decrypt --api v1beta1)" = ping ]
[ "$(printf ping | kmsctl encrypt | kmsctl inspect -o name)" = native ]
kmsctl audit verify -o name
