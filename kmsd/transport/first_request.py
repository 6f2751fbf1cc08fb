"""Read what the first request of an HTTP/2 connection is addressed to, before anybody answers it.

By its `:authority` the door chooses the server that takes such requests. Knows frames and the compression of headers
(RFC 7541, by the library hpack), and no socket.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Final

from hpack import Decoder, HPACKError

from kmsd.transport import frames

_MOST: Final = 64 * 1024
"""Bytes of a connection within which the headers of its first request must have come."""
_MOST_HEADERS: Final = 16 * 1024
"""Bytes of the headers of the first request, once they are decoded, at the most."""


class FirstRequest:
    """A reader of a client's bytes from the beginning of a connection up to the headers of its first request.

    began: monotonic time at which the first of these headers came; inf while none has.
    """

    def __init__(self) -> None:
        self.began = inf
        self._place = len(frames.PREFACE)

    def authority(self, data: bytes) -> str | None:
        """Return the `:authority` of the first request.

        data: all that the client has sent so far; more of it at each call. Returns None while the request is not there
        yet, and "" for one without an authority, one that cannot be read, and a connection that begins with anything
        but settings.
        """
        if len(data) > _MOST:
            return ""
        block = b""
        place = self._place
        while len(data) - place >= frames.HEADER:
            frame = frames.frame_at(data, place)
            end = place + frames.HEADER + frame.length
            if frame.kind in (frames.HEADERS, frames.CONTINUATION):
                self.began = min(self.began, monotonic())
                if len(data) < end:
                    return None
                block += frames.fragment(frame, data[place + frames.HEADER : end])
                if frame.flags & frames.END_HEADERS:
                    return _authority(block)
            elif frame.kind not in (frames.SETTINGS, frames.WINDOW_UPDATE, frames.PRIORITY) or block:
                return ""
            place = end
            if not block:
                self._place = place
        return None


def _authority(block: bytes) -> str:
    """Return the `:authority` in a block of headers; "" for none."""
    try:
        headers = Decoder(max_header_list_size=_MOST_HEADERS).decode(block)
    except (HPACKError, UnicodeDecodeError):
        return ""
    return next((str(value) for name, value in headers if str(name) == ":authority"), "")
