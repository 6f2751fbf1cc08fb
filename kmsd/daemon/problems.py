"""What is wrong with the whole daemon, gathered from its parts for GetStatus: the fatal first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kmsd import state
from kmsd.audit.trail import Audit
from kmsd.config.settings import Server
from kmsd.config.tcp import not_served
from kmsd.daemon.background_tasks import Upkeep
from kmsd.errors import DeadlineExceeded, KmsdError
from kmsd.hsm.connection import Hsm, PoolView
from kmsd.keys.keyring import Keyring
from kmsd.keys.lifecycle import Lifecycle
from kmsd.observe.health import Health
from kmsd.observe.stats import Stats
from kmsd.problem import About, Calls, Problem
from kmsd.service.foreign import Foreign

_MANY_ENCRYPTS: Final = 2**30
"""A quarter of the invocations that one AES-GCM key with random IVs may see (NIST SP 800-38D, 8.3: 2^32)."""
_REMEMBER_FIX: Final = "let kmsd write in state.dir, and correct the PIN before kmsd is restarted"


@dataclass(frozen=True)
class Problems:
    tokens: Mapping[str, Hsm]
    keyring: Keyring
    lifecycle: Lifecycle
    foreign: Foreign
    upkeep: Upkeep
    health: Health
    audit: Audit
    stats: Stats
    server: Server
    state_dir: Path
    unreachable: Callable[[], KmsdError | None]
    verdict: Callable[[], str]

    def now(self) -> list[Problem]:
        write = self.keyring.inventory.write
        keyring = self.keyring
        found = [*keyring.inventory.problems, *keyring.problems, *self.lifecycle.problems, *self.foreign.problems]
        found.extend(self.upkeep.problems)
        for name, hsm in self.tokens.items():
            if not hsm.available:
                fatal, about = write is None or write.place == name, About(name, calls=Calls(code=hsm.error.code))
                found.insert(0, Problem(hsm.error.message, hsm.error.hint, fatal, about=about))
            found.extend(_pin_warnings(name, hsm))
            if hsm.guard.problem:
                found.append(Problem(hsm.guard.problem, _REMEMBER_FIX, fatal=False, about=About(name)))
        error = self.health.view().error
        if error is not None and write is not None and not any(problem.fatal for problem in found):
            about = About(write.place, write.key_id, write.label, calls=Calls(code=error.code))
            found.insert(0, Problem(error.message, error.hint, fatal=True, about=about))
        unreachable = self.unreachable()
        if unreachable is not None:
            about = About(setting="kms.socket")
            found.insert(0, Problem(unreachable.message, unreachable.hint, fatal=True, about=about))
        if verdict := self.verdict():
            found.insert(0, Problem(f"only a restart can help: {verdict}", "kmsd is ending by itself", fatal=True))
        found.extend(self._warnings())
        return found

    def _warnings(self) -> Iterator[Problem]:
        stuck = pool_of(self.tokens).stuck
        if stuck:
            at = next(name for name, hsm in self.tokens.items() if hsm.pool_view().stuck)
            yield Problem(
                f"{stuck} sessions are stuck inside the PKCS#11 module",
                "check the token and the network to it: kmsctl doctor",
                fatal=False,
                about=About(at, calls=Calls(code=DeadlineExceeded.code)),
            )
        if (doubt := state.doubt(self.state_dir)) is not None:
            yield Problem(doubt.message, doubt.hint, fatal=False, about=About(setting="state.dir"))
        for trouble in self.audit.troubles:
            about = About(audit=True, tampered=trouble == self.audit.tampering.trouble)
            yield Problem(trouble.message, trouble.hint, fatal=False, about=about)
        if (tcp := not_served(self.server)) is not None:
            yield Problem(*tcp, fatal=False, about=About(setting="server.enabled"))
        write = self.keyring.inventory.write
        # Under an RSA key each value has an AES key of its own.
        if write is None or write.token.kind != "aes":
            return
        encrypts = self.stats.key_use(write.key_id).encrypts
        if encrypts >= _MANY_ENCRYPTS:
            yield Problem(
                f"the write key has encrypted {encrypts:,} times since kmsd started; with random IVs an "
                "AES-GCM key may do so 2^32 times in all",
                "rotate soon: kmsctl rotate",
                fatal=False,
                about=About(write.place, write.key_id, write.label),
            )


def _pin_warnings(name: str, hsm: Hsm) -> Iterator[Problem]:
    if hsm.connected is not None:
        token = hsm.connected.token
        for text in token.pin_warnings:
            yield Problem(f"token {token.label!r}: {text}", "kmsctl slots shows it", fatal=False, about=About(name))


def pool_of(tokens: Mapping[str, Hsm]) -> PoolView:
    """The sessions of all tokens together."""
    views = [hsm.pool_view() for hsm in tokens.values()]
    return PoolView(
        configured=sum(view.configured for view in views),
        open=sum(view.open for view in views),
        busy=sum(view.busy for view in views),
        stuck=sum(view.stuck for view in views),
        queued=sum(view.queued for view in views),
    )
