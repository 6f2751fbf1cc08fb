"""A process with a PKCS#11 module in it, for tests that call single functions of kmsd on a real token.

The test's own process never loads a module. Here a function goes over as its name and its arguments; it is called
with a session of the token, or with an `Hsm`, which has a host process do it, and its result or its exception comes
back. Calls into the module are counted on the way through, and still made: an `Hsm` gets the module that writes down
what is called, with the right one behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pickle
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple

from kmsd.hsm.address import TokenAddress
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host import calls, cryptoki, module
from kmsd.hsm.host.session import TokenSession
from kmsd.hsm.vendors import quirks
from tests import chaos
from tests.tokens import Token

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_COUNTED = {
    "encrypt_init": "C_EncryptInit",
    "decrypt_init": "C_DecryptInit",
    "decrypt": "C_Decrypt",
    "sign_init": "C_SignInit",
    "sign": "C_Sign",
}


class Inside(AbstractContextManager["Inside"]):
    """The process. enter: what to put before a command that is to use the token."""

    def __init__(self, token: Token, path: str, enter: Sequence[str] = ()) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self._process = subprocess.Popen(
            [*enter, sys.executable, "-m", "tests.hsm.inside", path, token.label, str(token.pin_file)],
            cwd=Path(__file__).parents[2],
            env={
                **token.environment,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "CHAOS_MODULE": path,
                "CHAOS_FILE": str(self._folder / "chaos"),
                "CHAOS_LOG": str(self._folder / "calls"),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, fn: Callable[[TokenSession, *Ts], T], *args: *Ts) -> T:
        """fn(session, *args), on a thread of the token's."""
        answer: T = self._ask("session", fn, args)
        return answer

    def served(self, fn: Callable[[Hsm, *Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        """fn(hsm, *args), on the event loop. A process serves one of the two kinds."""
        answer: T = self._ask("hsm", fn, args)
        return answer

    def counted(self) -> Counter[str]:
        """How often each function of the module was called since the last look."""
        log = self._folder / "calls"
        served = Counter(log.read_text().split()) if log.exists() else Counter[str]()
        log.unlink(missing_ok=True)
        counts: Counter[str] = self._ask("counts", None, ())
        return counts + Counter({name: count for name, count in served.items() if name in _COUNTED.values()})

    def _ask(self, how: str, fn: object, args: tuple[object, ...]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((how, fn, args), self._process.stdin)
        self._process.stdin.flush()
        good, answer = pickle.load(self._process.stdout)  # noqa: S301  from our own child
        if good:
            return answer
        raise CkrError(*answer) if isinstance(answer, tuple) else answer

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self


def create(session: TokenSession, template: Mapping[int, bytes | int | bool]) -> int:
    return calls.create_object(session.cryptoki.table, session.handle, template)


def import_rsa(session: TokenSession, cka_id: bytes, numbers: tuple[int, ...], private: bool, public: bool) -> None:
    """numbers: n, e, d, p, q, dp, dq, qi (RFC 8017, A.1.2), of which a public key needs two."""
    c = cryptoki
    big = [number.to_bytes((number.bit_length() + 7) // 8, "big") for number in numbers]
    common: dict[int, bytes | int | bool] = {
        c.CKA_KEY_TYPE: c.CKK_RSA,
        c.CKA_TOKEN: True,
        c.CKA_ID: cka_id,
        c.CKA_LABEL: b"rsa",
    }
    if private:
        secret = dict(zip((c.CKA_MODULUS, c.CKA_PUBLIC_EXPONENT, *range(0x123, 0x129)), big, strict=True))
        flags = {c.CKA_PRIVATE: True, c.CKA_SENSITIVE: True, c.CKA_EXTRACTABLE: False, c.CKA_DECRYPT: True}
        create(session, {c.CKA_CLASS: c.CKO_PRIVATE_KEY, **common, **flags, **secret})
    if public:
        known = dict(zip((c.CKA_MODULUS, c.CKA_PUBLIC_EXPONENT), big[:2], strict=True))
        create(session, {c.CKA_CLASS: c.CKO_PUBLIC_KEY, **common, c.CKA_ENCRYPT: True, **known})


def import_secret(session: TokenSession, cka_id: bytes, value: bytes, kind: str) -> None:
    """kind: "aes" or "hmac"."""
    c = cryptoki
    aes = kind == "aes"
    uses = (c.CKA_ENCRYPT, c.CKA_DECRYPT) if aes else (c.CKA_SIGN, c.CKA_VERIFY)
    template: dict[int, bytes | int | bool] = {
        c.CKA_CLASS: c.CKO_SECRET_KEY,
        c.CKA_KEY_TYPE: 0x1F if aes else 0x10,
        c.CKA_TOKEN: True,
        c.CKA_PRIVATE: True,
        c.CKA_SENSITIVE: True,
        c.CKA_EXTRACTABLE: False,
        c.CKA_ID: cka_id,
        c.CKA_LABEL: kind.encode(),
        **dict.fromkeys(uses, True),
    }
    create(session, {**template, 0x11: value})


class _Child:
    def __init__(self, path: str, label: str, pin: str) -> None:
        self.path, self.label, self.pin = path, label, pin
        self.counts: Counter[str] = Counter()
        self.runner = asyncio.Runner()
        self.login: TokenSession | None = None
        self.session: TokenSession | None = None
        self.hsm: Hsm | None = None

    @functools.cached_property
    def loaded(self) -> module.Module:
        """The module, in this process. Not loaded where a host has it: a device may have room for one of them."""
        loaded = module.load(self.path)
        for attribute, name in _COUNTED.items():
            setattr(loaded.cryptoki, attribute, self._counting(getattr(loaded.cryptoki, attribute), name))
        return loaded

    def _counting(self, function: Callable[..., int], name: str) -> Callable[..., int]:
        def counted(*arguments: object) -> int:
            self.counts[name] += 1
            return function(*arguments)

        return counted

    def do(self, how: str, fn: Any, args: tuple[object, ...]) -> object:
        match how:
            case "counts":
                counts, self.counts = self.counts, Counter()
                return counts
            case "session":
                return self._with_session(fn, args)
            case _:
                return self.runner.run(self._served(fn, args))

    def _with_session(self, fn: Any, args: tuple[object, ...]) -> object:
        if self.login is None:
            self.login = self._open()
            self.loaded.cryptoki.login(self.login.handle, self.pin)
        self.session = self.session or self._open()
        try:
            return fn(self.session, *args)
        except CkrError:
            # As kmsd's workers do: a failed operation may leave its session in the middle of it.
            self.session.close()
            self.session = None
            raise

    def _open(self) -> TokenSession:
        slot = next(each.slot_id for each in self.loaded.slots() if each.token and each.token.label == self.label)
        return TokenSession(self.loaded, slot, rw=True)

    async def _served(self, fn: Any, args: tuple[object, ...]) -> object:
        if self.hsm is None:
            provider = quirks.choose("auto", self.path).name
            address = TokenAddress(str(chaos.build()), provider, self.label, None, 2, 100, 10.0, 5.0)
            self.hsm = Hsm(address, lambda: self.pin, lambda: None)
            await self.hsm.start()
            # What a login tries is not what a test asks for.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.environ["CHAOS_LOG"])  # noqa: PTH108
        return await fn(self.hsm, *args)

    def close(self) -> None:
        if self.hsm is not None:
            self.runner.run(self.hsm.close())
        if "loaded" in vars(self):
            self.loaded.finalize()


def main() -> None:
    path, label, pin_file = sys.argv[1:]
    child = _Child(path, label, Path(pin_file).read_text().strip())
    while True:
        try:
            how, fn, args = pickle.load(sys.stdin.buffer)  # noqa: S301  from the test
        except EOFError:
            break
        try:
            answer = True, child.do(how, fn, args)
        except CkrError as error:
            answer = False, (error.name, error.function)
        except Exception as error:  # noqa: BLE001  whatever it is, the test is to see it
            answer = False, error
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    child.close()


if __name__ == "__main__":
    main()
