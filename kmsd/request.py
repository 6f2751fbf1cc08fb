"""The request that is being answered, for those below who are not told of it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

uid: Final[ContextVar[str]] = ContextVar("uid", default="")
"""The uid that kube-apiserver gave the request that this task answers; empty if it gave none."""
on_own_account: ContextVar[bool] = ContextVar("on_own_account", default=False)
"""Whether no kube-apiserver is behind the call that is under way: a proxy passes that on."""
