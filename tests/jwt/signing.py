"""What stands in for kube-apiserver before a signer of service account tokens: it goes by the same rules."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from google.protobuf.message import Message
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from kmsd.api.externaljwt.v1 import api_pb2 as pb
from tests.daemons import Kmsd

ISSUER = "https://kubernetes.default.svc"
SUBJECT = "system:serviceaccount:default:builder"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def claims(**changed: Any) -> str:
    """The claims of a token of one hour; None takes one out."""
    now = int(time.time())
    whole = {
        "aud": [ISSUER],
        "exp": now + 3600,
        "iat": now,
        "iss": ISSUER,
        "jti": "0f0b4b0e-0000-4000-8000-000000000000",
        "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "builder", "uid": "u"}},
        "nbf": now,
        "sub": SUBJECT,
        **changed,
    }
    return b64(json.dumps({name: value for name, value in whole.items() if value is not None}).encode())


@dataclass
class Apiserver:
    """A caller of the signer. known: the published keys by kid, as it fetched them last."""

    channel: grpc.Channel
    known: dict[str, pb.Key] = field(default_factory=dict)
    stamp: int = 0
    changes: int = 0

    def call(self, method: str, request: Message, timeout: float = 10.0) -> Any:
        names = {"Sign": "SignJWT", "FetchKeys": "FetchKeys", "Metadata": "Metadata"}
        call: grpc.UnaryUnaryMultiCallable[Message, Any] = self.channel.unary_unary(
            f"/v1.ExternalJWTSigner/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(pb, f"{names[method]}Response").FromString,
        )
        return call(request, timeout=timeout)

    def fetch(self) -> pb.FetchKeysResponse:
        """Fetch the keys, and refuse what kube-apiserver refuses."""
        answer: pb.FetchKeysResponse = self.call("FetchKeys", pb.FetchKeysRequest())
        assert answer.refresh_hint_seconds > 0
        assert len(answer.keys) > 0
        assert all(0 < len(key.key_id) <= 1024 for key in answer.keys)
        for key in answer.keys:
            load_der_public_key(key.key)
        stamp = answer.data_timestamp.ToNanoseconds()
        assert stamp >= self.stamp > -1, "the time of the keys went backwards"
        before = [(each.key_id, each.exclude_from_oidc_discovery) for each in self.known.values()]
        now = [(each.key_id, each.exclude_from_oidc_discovery) for each in answer.keys]
        assert (before == now) == (stamp == self.stamp) or not self.known, "another time, or another set, but not both"
        self.changes += stamp != self.stamp
        self.stamp, self.known = stamp, {key.key_id: key for key in answer.keys}
        return answer

    def token(self, **changed: Any) -> str:
        """Have a token signed, and refuse what kube-apiserver refuses."""
        text = claims(**changed)
        answer = self.call("Sign", pb.SignJWTRequest(claims=text))
        header = json.loads(base64.urlsafe_b64decode(answer.header + "=" * (-len(answer.header) % 4)))
        assert header.keys() == {"alg", "kid", "typ"}
        assert header["typ"] == "JWT"
        assert 0 < len(header["kid"]) <= 1024
        assert header["alg"] in ("RS256", "ES256", "ES384", "ES512")
        assert "=" not in answer.header + answer.signature
        if header["kid"] in self.known:
            assert not self.known[header["kid"]].exclude_from_oidc_discovery
        return f"{answer.header}.{text}.{answer.signature}"

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token whose signature is right, by a key that is published: fetched if it is not known."""
        head = token.split(".")[0]
        kid = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]
        if kid not in self.known:
            self.fetch()
        public = load_der_public_key(self.known[kid].key)
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        key = RSAKey.import_key(pem) if b"RS256" in base64.urlsafe_b64decode(head + "==") else ECKey.import_key(pem)
        found = jws.deserialize_compact(token, key, algorithms=["RS256", "ES256", "ES384", "ES512"])
        return dict(json.loads(found.payload))


def socket_of(kmsd: Kmsd) -> Path:
    return kmsd.folder / "jwt" / "jwt.sock"


def settings(folder: Path, **changed: str) -> dict[str, str]:
    """The environment of a kmsd that signs."""
    return {
        "KMSD_JWT__SOCKET": str(folder / "jwt" / "jwt.sock"),
        "KMSD_JWT__REFRESH_HINT": "1",
        "KMSD_KEYS__REFRESH": "0.5",
        **{f"KMSD_JWT__{name.upper()}": value for name, value in changed.items()},
    }


def apiserver(kmsd: Kmsd) -> Apiserver:
    return Apiserver(kmsd.channel(socket_of(kmsd)))


def openssl_verify(folder: Path, token: str, pem: str) -> None:
    """Have openssl check a signature: it takes ECDSA as DER."""
    head, body, signature = token.split(".")
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    alg = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["alg"]
    if alg.startswith("ES"):
        half = len(raw) // 2
        assert half == {"ES256": 32, "ES384": 48, "ES512": 66}[alg]
        raw = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    for name, data in (("key", pem.encode()), ("sig", raw), ("data", f"{head}.{body}".encode())):
        (folder / name).write_bytes(data)
    command = ["openssl", "dgst", f"-sha{alg[2:]}", "-verify", "key", "-signature", "sig", "data"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "Verified OK\n", done.stderr
