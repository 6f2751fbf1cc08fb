"""kmsd on every kind of token that is at hand: what serves on one must serve on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import KMSD, Kmsd
from tests.opencryptoki import make_opencryptoki
from tests.p11kit import make_p11kit
from tests.tokens import make_token
from tests.tpm import make_tpm

ENVIRONMENT = {"KMSD_KEYS__REFRESH": "0.5", "KMSD_HEALTH__INTERVAL": "0.5", "KMSD_TOKEN__SESSIONS": "2"}


@dataclass
class Served:
    """A token, and how a kmsd is started on it. encs: what it may write with. slow: a call takes milliseconds.
    remembers: the module goes on with what it has in memory while its files are away."""

    name: str
    token: Any
    encs: tuple[str, ...]
    flags: tuple[str, ...] = ()
    enter: tuple[str, ...] = ()
    slow: bool = False
    remembers: bool = False

    @property
    def pair(self) -> bool:
        return self.encs[0].startswith(("A256CBC", "A128CBC"))

    def start(self, folder: Path, *flags: str) -> Kmsd:
        return Kmsd(
            folder,
            self.token,
            (*self.flags, *flags),
            environment=ENVIRONMENT,
            default_flags=False,
            command=(*self.enter, KMSD, "serve"),
        ).start()


def softhsm_gcm(folder: Path) -> Served:
    token = make_token(folder)
    flags = ("--provider=softhsm", f"--p11-label={token.label}", f"--p11-pin-file={token.pin_file}")
    return Served("softhsm-gcm", token, ("A256GCM",), flags)


def softhsm_cbc(folder: Path) -> Served:
    served = softhsm_gcm(folder)
    # SoftHSM takes no HMAC-SHA-512 key of 256 bits.
    return Served("softhsm-cbc", served.token, ("A256CBC-HS256",), (*served.flags, "--algorithm=aes-cbc"))


def tpm_cbc(folder: Path) -> Served:
    tpm = make_tpm(folder, managed=True)
    # An HMAC key of a TPM is for one hash: this one for SHA-256, those that kmsd makes for SHA-512 where there is that.
    tpm.add_pair("k8s-kek", "k8s-kek.hmac", "01900000-0000-7000-8000-000000000001")
    return Served("tpm-cbc", tpm, ("A256CBC-HS256", "A256CBC-HS512"), tpm.flags, slow=True)


def p11kit(folder: Path) -> Served:
    token = make_p11kit(folder)
    # Which of them depends on the version of p11-kit: before 0.25 it relays no AES-GCM.
    return Served("p11-kit", token, ("A256GCM", "A256CBC-HS256"), token.flags)


def opencryptoki(folder: Path) -> Served:
    token = make_opencryptoki(folder)
    flags = (*token.flags, "--algorithm=aes-cbc")
    return Served("opencryptoki-cbc", token, ("A256CBC-HS512",), flags, token.enter)


def opencryptoki_rsa(folder: Path) -> Served:
    token = make_opencryptoki(folder)
    flags = (*token.flags, "--algorithm=rsa-oaep")
    return Served("opencryptoki-rsa", token, ("A256GCM",), flags, token.enter, remembers=True)


KINDS: dict[str, Callable[[Path], Served]] = {
    "softhsm-gcm": softhsm_gcm,
    "softhsm-cbc": softhsm_cbc,
    "tpm-cbc": tpm_cbc,
    "p11-kit": p11kit,
    "opencryptoki-cbc": opencryptoki,
    "opencryptoki-rsa": opencryptoki_rsa,
}


@pytest.fixture(scope="module", params=list(KINDS))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One token of each kind."""
    made = KINDS[request.param](tmp_path_factory.mktemp("t") / "token")
    yield made
    stop = getattr(made.token, "stop", None)
    if stop is not None:
        stop()


@pytest.fixture(scope="module")
def kmsd(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """One kmsd on it, for all tests of a module: to start one takes as long as most of them."""
    with served.start(tmp_path_factory.mktemp("d"), "--auto-create") as running:
        yield running.wait_ok(60.0)  # how long an RSA key takes is a matter of luck
