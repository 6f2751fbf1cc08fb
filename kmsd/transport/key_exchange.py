"""A TLS context whose handshakes tell the group of the key exchange, which Python's ssl module does not.

The group is read in the ServerHello (RFC 8446 4.1.3, 4.2.8) on its way out.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

_GROUPS: Final = {
    0x0017: "secp256r1",
    0x0018: "secp384r1",
    0x0019: "secp521r1",
    0x001D: "x25519",
    0x001E: "x448",
    0x0100: "ffdhe2048",
    0x0101: "ffdhe3072",
    0x11EB: "SecP256r1MLKEM768",
    0x11EC: "X25519MLKEM768",
    0x11ED: "SecP384r1MLKEM1024",
}
"""Names in the registry "TLS Supported Groups" of the IANA."""
_HANDSHAKE: Final = 22
_SERVER_HELLO: Final = 2
_KEY_SHARE: Final = 51


class TellingHandshake(ssl.SSLObject):
    """A TLS connection. group: of the key exchange, as the TLS registry names it; empty until it is known."""

    group = ""
    outgoing: ssl.MemoryBIO | None = None

    def do_handshake(self) -> None:
        """Go on with the handshake, as `ssl.SSLObject.do_handshake`."""
        try:
            super().do_handshake()
        finally:
            out = self.outgoing
            if not self.group and out is not None and out.pending:
                # Nobody else reads it meanwhile: what was taken out is there again, in the same order.
                data = out.read()
                out.write(data)
                self.group = group_of(data)


class TellingContext(ssl.SSLContext):
    """A TLS context whose connections are `TellingHandshake`."""

    sslobject_class = TellingHandshake

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Make a connection, as `ssl.SSLContext.wrap_bio`."""
        made = super().wrap_bio(incoming, outgoing, *args, **kwargs)
        if isinstance(made, TellingHandshake):
            made.outgoing = outgoing
        return made


def group_of(records: bytes) -> str:
    """Return the group that a ServerHello names, which these TLS records begin with; empty if they do not."""
    try:
        if records[0] != _HANDSHAKE or records[5] != _SERVER_HELLO:
            return ""
        at = 5 + 4 + 2 + 32  # the record's head, the message's head, the version, the random value
        at += 1 + records[at] + 2 + 1  # the session's id, the cipher, the compression
        end = at + 2 + int.from_bytes(records[at : at + 2])
        at += 2
        while at + 4 <= min(end, len(records)):
            kind, size = int.from_bytes(records[at : at + 2]), int.from_bytes(records[at + 2 : at + 4])
            if kind == _KEY_SHARE:
                number = int.from_bytes(records[at + 4 : at + 6])
                return _GROUPS.get(number, f"0x{number:04x}")
            at += 4 + size
    except IndexError:
        pass
    return ""
