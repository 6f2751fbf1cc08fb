"""Read what k8s-kms-plugin and its successor wrote with AES-CBC, with keys on the token.

The plugin's own format authenticates nothing: whoever can write to etcd may have altered it, and what can be checked
here shows damage, not intent. Whether it may be read at all, and with which key, the caller has decided.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from kmsd.crypto.gcm import TagMismatch
from kmsd.errors import Misconfigured
from kmsd.formats.k8s_kms_plugin import LegacyCbc
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host.session import KeyAmbiguousError, KeyMissingError, TokenSession
from kmsd.hsm.operation import Operation, operation

if TYPE_CHECKING:
    from kmsd.hsm.connection import Hsm


async def decrypt(hsm: Hsm, enc_cka_id: bytes, mac_cka_id: bytes | None, sealed: LegacyCbc, timeout: float) -> bytes:
    """Return the plaintext. mac_cka_id: the HMAC key; it may be missing for what is not authenticated anyway.

    Raises TagMismatch if the tag or the padding does not fit, and KmsdError.
    """
    if mac_cka_id is None and sealed.authenticated:
        raise Misconfigured(
            "the ciphertext is authenticated with an HMAC key, and none is configured",
            "name the HMAC key of k8s-kms-plugin with --p11-hmac-label",
        )
    try:
        return await hsm.submit(decrypt_here, enc_cka_id, mac_cka_id, sealed, timeout=timeout)
    except (CkrError, KeyMissingError, KeyAmbiguousError) as error:
        raise hsm.explain(error) from error


@operation(Operation.DECRYPT_CBC_LEGACY)
def decrypt_here(session: TokenSession, enc_cka_id: bytes, mac_cka_id: bytes | None, sealed: LegacyCbc) -> bytes:
    """Do the work of `decrypt` on a thread of the token. The tag is compared before anything is decrypted."""
    if mac_cka_id is not None and not hmac.compare_digest(
        session.hmac(mac_cka_id, "SHA256", sealed.mac_input), sealed.tag
    ):
        raise TagMismatch
    plaintext = sealed.plaintext(session.decrypt_cbc(enc_cka_id, sealed.iv, sealed.blocks))
    if plaintext is None:
        raise TagMismatch
    return plaintext
