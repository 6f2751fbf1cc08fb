"""Keep the process's memory small, on a control-plane node."""

from __future__ import annotations

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8


def one_heap() -> None:
    """Use one heap for all threads (mallopt(3), where the C library is glibc). To be called before there are any.

    A heap of its own for each thread that calls the token, as is the custom, costs a megabyte or two; the interpreter
    lock lets most of them ask for memory one after the other anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
