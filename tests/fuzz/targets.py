"""What reads bytes of strangers, each as a function of bytes that raises only if it is wrong.

Refusing in words is right; any other exception, and a property that does not hold, is a finding.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kmsd.ca import chain, request
from kmsd.errors import KmsdError
from kmsd.est import csrattrs, tokens, wire
from kmsd.est import server as est
from kmsd.formats import ciphertext, jwe, k8s_kms_plugin
from kmsd.jwt import claims, public_key
from kmsd.transport import frames
from kmsd.transport.first_request import FirstRequest
from kmsd.transport.key_exchange import group_of
from kmsd.transport.peers import peer_of

_NAMES: Final = ("DNS:node-1.cluster-a.test",)
_DER: Final = serialization.Encoding.DER


@dataclass(frozen=True)
class Target:
    """run: what is fuzzed. seeds: makes what it begins with, all of which is right. longest: bytes of an input."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    longest: int = 4096


def _claims(data: bytes) -> None:
    """Claims as they come, and as what somebody made base64url of."""
    for text in (data.decode("latin-1"), base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")):
        with contextlib.suppress(KmsdError):
            claims.check(text, claims.Rules((), 3600), 0.0)


def _key_file(data: bytes) -> None:
    with contextlib.suppress(KmsdError):
        for key in public_key.from_pem(data):
            assert public_key.from_der(key.der).kid == key.kid


def _public_pem() -> bytes:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _body(data: bytes) -> None:
    for read in (wire.decode, wire.request_in, wire.certificates_in):
        with contextlib.suppress(KmsdError):
            read(data)


def _request(data: bytes) -> None:
    """A request whose signature is not looked at, or none would be read to its end."""
    with contextlib.suppress(KmsdError):
        wire.request_in(data)
    try:
        csr = request.parse(data)
    except KmsdError:
        return
    with contextlib.suppress(KmsdError):
        request.key_type(request.public_key(csr))
    with contextlib.suppress(KmsdError):
        request.check_asked(csr, "node-1", _NAMES)


def _wishes(data: bytes) -> None:
    with contextlib.suppress(KmsdError):
        csrattrs.key_type(data)


def _authorization(data: bytes) -> None:
    header = data.decode("utf-8", "surrogateescape")  # as aiohttp has it
    with contextlib.suppress(KmsdError):
        shown = est.basic(header)
        if shown is not None:
            tokens.parts(shown[1].strip())


def _ca_chain(data: bytes) -> None:
    with contextlib.suppress(KmsdError):
        chain.parse(data)


def _certificate(data: bytes) -> None:
    """A certificate of a caller: TLS has taken its signature, and its content may be anything."""
    with contextlib.suppress(ValueError):
        peer_of(data, "127.0.0.1:1", "TLSv1.3", "", "")


def _jwe(data: bytes) -> None:
    ciphertext.identify(data)
    with contextlib.suppress(jwe.JweError):
        k8s_kms_plugin.parse_cbc(data)
    try:
        read = jwe.parse(data)
    except jwe.JweError:
        return
    sealed, key = read.ciphertext + read.tag, read.encrypted_key
    assert jwe.assemble(read.header, read.iv, sealed, len(read.tag), key) == data, "there are two texts for one JWE"


def _frames(data: bytes) -> None:
    """The same connection in pieces of one size, which the first byte is, and as a whole."""
    if not data:
        return
    size, data = data[0] or 1, data[1:]
    whole, pieces = frames.Boundaries(), frames.Boundaries()
    ended: set[int] = set()
    ended_too: set[int] = set()
    last = whole.follow(data, ended)
    assert -1 <= last <= len(data)
    for at in range(0, len(data), size):
        assert -1 <= pieces.follow(data[at : at + size], ended_too) <= size
    assert (whole.whole, ended) == (pieces.whole, ended_too), "where the bytes were cut makes a difference"


def _first_request(data: bytes) -> None:
    if not data:
        return
    size, data = data[0] or 1, frames.PREFACE + data[1:]
    found, reader = FirstRequest().authority(data), FirstRequest()
    for end in range(size, len(data) + size, size):
        in_pieces = reader.authority(data[:end])
        if in_pieces is not None:
            break
    assert in_pieces == found, "where the bytes were cut makes a difference"


def _server_hello(data: bytes) -> None:
    group_of(data)


@cache
def _requests() -> tuple[bytes, ...]:
    key = ec.generate_private_key(ec.SECP256R1())
    plain = x509.CertificateSigningRequestBuilder().subject_name(_name("node-1"))
    names = x509.SubjectAlternativeName([x509.DNSName("node-1.cluster-a.test"), x509.RFC822Name("a@b.test")])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    purposes = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
    full = (
        plain.add_extension(names, critical=False)
        .add_extension(usage, critical=True)
        .add_extension(purposes, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"word")
    )
    return tuple(each.sign(key, hashes.SHA256()).public_bytes(_DER) for each in (plain, full))


@cache
def _certificates() -> tuple[x509.Certificate, ...]:
    from tests.ca import software

    authority = software.authority()
    leaf = authority.issue(software.csr(software.ec_key(), "node-1"), "node-1", "cluster-a")
    return leaf, *authority.chain


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _bodies() -> Sequence[bytes]:
    return [*map(wire.encode, _requests()), *_requests(), wire.certs_only(_certificates())]


def _jwes() -> Sequence[bytes]:
    head = [jwe.header("0190", enc) for enc in ("A256GCM", "A256CBC-HS512")]
    head += [jwe.header("0190", "A256GCM", alg=jwe.WRAPPED), jwe.header("0190", "A128CBC-HS256", hkid="0191")]
    size = jwe.encode((5).to_bytes(8, "big")).decode()
    old = jwe.encode(f'{{"alg":"A256CBC","typ":"JWT","cty":"JWT","_thales_aad":"{size}","enc":"A256CBC"}}'.encode())
    return [
        *(jwe.assemble(each, bytes(12), bytes(40)) for each in head[:2]),
        jwe.assemble(head[2], bytes(12), bytes(40), 16, bytes(256)),
        jwe.assemble(head[3], bytes(16), bytes(48)),
        jwe.assemble(k8s_kms_plugin.header("k8s-kek"), bytes(16), bytes(40)),
        jwe.assemble(old, bytes(16), bytes(48), 32),
    ]


def _connections() -> Sequence[bytes]:
    """The frames that a client begins with, behind the size of the pieces."""
    headers = bytes.fromhex("418aa0e41d139d09b8f01e07838684")  # :authority and three pseudo-headers, by RFC 7541 C
    begin = frames.settings(100) + len(headers).to_bytes(3, "big") + b"\x01\x04" + (1).to_bytes(4, "big") + headers
    data = (5).to_bytes(3, "big") + b"\x00\x01" + (1).to_bytes(4, "big") + b"hello"
    return [b"\x07" + begin, b"\xff" + begin + data, b"\x01" + frames.goaway(frames.Reason.NO_ERROR, "x") + data]


def _hellos() -> Sequence[bytes]:
    shares = bytes.fromhex("002b00020304003300060 01d00020000".replace(" ", ""))
    hello = b"\x03\x03" + bytes(32) + b"\x20" + bytes(32) + b"\x13\x01\x00" + len(shares).to_bytes(2, "big") + shares
    message = b"\x02" + len(hello).to_bytes(3, "big") + hello
    return [b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message]


TARGETS: Final[dict[str, Target]] = {
    "est-body": Target(_body, _bodies),
    "pkcs10": Target(_request, _requests),
    "csrattrs": Target(_wishes, lambda: [csrattrs.wanted(each) for each in ("ec-p256", "rsa-3072")], 1024),
    "authorization": Target(
        _authorization, lambda: [b"Basic " + base64.b64encode(f"node-1:{tokens.make()[0]}".encode())], 512
    ),
    "ca-chain": Target(
        _ca_chain, lambda: [b"".join(each.public_bytes(serialization.Encoding.PEM) for each in _certificates())], 8192
    ),
    "certificate": Target(_certificate, lambda: [each.public_bytes(_DER) for each in _certificates()]),
    "claims": Target(_claims, lambda: [b'{"iss":"a","sub":"system:serviceaccount:a:b","aud":["c"],"iat":0,"exp":9}']),
    "key-file": Target(_key_file, lambda: [_public_pem()]),
    "ciphertext": Target(_jwe, _jwes),
    "frames": Target(_frames, _connections, 1024),
    "first-request": Target(_first_request, _connections, 1024),
    "server-hello": Target(_server_hello, _hellos, 512),
}
