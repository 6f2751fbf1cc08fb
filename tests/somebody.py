"""A process of another user that calls the admin API. Says on stdout how the call ended.

usage: python -m tests.somebody UID GID SOCKET CLAIM
"""

from __future__ import annotations

import os
import sys

import grpc

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.metadata import CALLER
from tests.raw import unary


def call(path: str, claim: str) -> str:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        test = unary(channel, "/kmsd.admin.v1.Admin/TestKey")
        request = admin.TestKeyRequest(key="k8s-kek", rounds=1).SerializeToString()
        try:
            test(request, timeout=20, metadata=((CALLER, claim.encode()),))
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"
    return "OK"


if __name__ == "__main__":
    call("/nowhere", "")  # loads what another user may not be able to read
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[1]))
    sys.stdout.write(call(*sys.argv[3:]))
