"""Nothing of a plaintext, a ciphertext or a PIN is in what kmsd writes down or tells of itself."""

from __future__ import annotations

import base64
import secrets
from functools import partial

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.admin.calls import ask, decrypt, encrypt, failure, fresh, keys, stats, watching
from tests.daemons import Kmsd
from tests.rpc.refusals import assert_silent
from tests.tokens import PIN, SO_PIN


def test_nothing_secret_is_logged_recorded_counted_or_told(served: Kmsd) -> None:
    """At debug, with every call recorded, and with everything that can be asked."""
    plaintext = secrets.token_hex(16).encode()
    sealed = encrypt(served, plaintext)
    assert decrypt(served, sealed) == plaintext
    v1 = served.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=plaintext))
    served.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=v1.cipher))
    segments = sealed.ciphertext.split(b".")
    damaged = b".".join([*segments[:3], segments[3][::-1], segments[4]])
    for ciphertext, key_id in ((damaged, sealed.key_id), (sealed.ciphertext, "another"), (plaintext, sealed.key_id)):
        request = v2.DecryptRequest(ciphertext=ciphertext, key_id=key_id, uid="u")
        assert failure(partial(served.v2, "Decrypt", request)).code == "INVALID_ARGUMENT"
    failure(lambda: served.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext * 40)))
    for data in (sealed.ciphertext, damaged, plaintext, base64.b64encode(sealed.ciphertext)):
        ask(served, "InspectCiphertext", data=data)
    ask(served, "TestKey", key="k8s-kek", rounds=2)
    ask(served, "GenerateKey", label=fresh())
    shown = [str(ask(served, method)) for method in ("GetStatus", "GetConfig", "ListSlots", "ListMechanisms")]
    shown += [str(stats(served)), *map(str, keys(served))]
    for method, fields in (
        ("WatchRequests", {"backlog": 1000, "admin": True}),
        ("WatchAudit", {"backlog": 10_000}),
    ):
        with watching(served, method, **fields) as frames:
            shown += map(str, frames.all())
    kept = [path.read_text() for path in (served.folder / "state").iterdir()]
    assert any(sealed.key_id in each for each in kept), "what is searched is there"
    assert "InspectCiphertext" in served.log_text()
    opened = [base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in segments[2:]]
    v1_segments = v1.cipher.split(b".")[2:]
    hidden = [plaintext, sealed.ciphertext, v1.cipher, damaged, *segments[2:], *v1_segments, *opened]
    for text in (served.log_text(), *kept, *shown):
        assert_silent(text, *hidden, PIN.encode(), SO_PIN.encode())
