"""Keep the process's memory small, on a control-plane node."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

_M_ARENA_MAX: Final = -8
_PR_SET_THP_DISABLE: Final = 41


def one_heap() -> None:
    """Use one heap for all threads (mallopt(3), where the C library is glibc). To be called before there are any.

    A heap of its own for each thread that calls the token, as is the custom, costs a megabyte or two; the interpreter
    lock lets most of them ask for memory one after the other anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def small_pages() -> None:
    """Forbid huge pages to this process and to those it starts (prctl(2)): h2corn's allocator reserves a gigabyte and
    uses a few hundred kilobytes of it here and there, each of which would become two megabytes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def settle() -> None:
    """Let no collection look any more at what the start has made, which stays for ever: modules, classes, settings.

    Looking at all of it takes 10 to 20 ms of CPU, in which no call is answered.
    """
    gc.collect()
    gc.freeze()
