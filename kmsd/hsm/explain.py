"""Failures of the token in words an operator can act on. The only place that turns them into KmsdErrors."""

from __future__ import annotations

from kmsd.errors import KmsdError, Misconfigured, Unavailable
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host.session import KeyAmbiguousError, KeyMissingError


def explain(error: CkrError | KeyMissingError | KeyAmbiguousError, token: str) -> KmsdError:
    """Return the failure in words. token: how it is called in a sentence, for example "token 'prod'"."""
    match error:
        case KeyMissingError():
            return Unavailable(f"the key is not to be found on {token}", "kmsctl keys list shows what is")
        case KeyAmbiguousError():
            return Misconfigured(
                f"several keys on {token} have the same CKA_ID",
                "kmsctl keys list shows their labels: give all but one another CKA_ID, with the token's own tool",
            )
        case CkrError():
            return _explain(error, token)


def _explain(error: CkrError, token: str) -> KmsdError:
    what = f"{token}: {error.function} failed with {error.name}"
    match error.name:
        case "CKR_TOKEN_WRITE_PROTECTED" | "CKR_SESSION_READ_ONLY":
            return Misconfigured(f"{token} is read-only", "make the key where the token can be written")
        case "CKR_MECHANISM_INVALID" | "CKR_FUNCTION_NOT_SUPPORTED":
            return Misconfigured(
                f"{token} cannot do this ({error.function}: {error.name})",
                "kmsctl slots shows the token; use one with AES-GCM and AES key generation",
            )
        case "CKR_KEY_FUNCTION_NOT_PERMITTED" | "CKR_KEY_TYPE_INCONSISTENT" | "CKR_KEY_SIZE_RANGE":
            return Misconfigured(
                what, "the key's attributes forbid it: make another under a free label, kmsctl keygen LABEL"
            )
        case "CKR_ATTRIBUTE_READ_ONLY" | "CKR_ACTION_PROHIBITED":
            return Misconfigured(
                f"{token} does not allow this ({error.function}: {error.name})",
                "the key is protected (CKA_MODIFIABLE, CKA_DESTROYABLE): change it with the token's own tools",
            )
        case "CKR_DEVICE_MEMORY" | "CKR_HOST_MEMORY":
            return Unavailable(what, "the token or the machine is out of memory")
        case _:
            return Unavailable(what, "check the token; the call may be repeated")
