"""The findings of a probe of a token, and what follows from them. Pure: data, and one decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from kmsd.hsm.vendors.quirks import Foreign, Quirks

PROBE_LABEL: Final = "kmsd-probe-"
"""The beginning of the label of every object of a probe, followed by random hex. Whoever lists keys passes over such
labels."""

Outcome = Literal["ok", "warning", "failed", "not applicable"]
Algorithm = Literal["aes-gcm", "aes-cbc", "rsa-oaep", "none"]
Deed = Literal["make", "destroy", "find"]
Elsewhere = Callable[[Deed, str], bool]
"""A function that makes a probe's key with this label on the token, from another process, or destroys it; or tells
whether there is a private object with this CKA_ID, in hexadecimal. Raises OSError or ValueError."""


@dataclass(frozen=True)
class Check:
    """A check of a probe. name: a stable word for programs; title: for people; seen: what happened; fix: what to do, or
    ''."""

    name: str
    title: str
    outcome: Outcome
    seen: str
    fix: str = ""


@dataclass(frozen=True)
class Timing:
    """The speed of one operation. seconds: of one alone, the median of those tried. per_second: what `threads` threads
    did together."""

    operation: str
    seconds: float
    per_second: float
    threads: int


@dataclass(frozen=True)
class Abilities:
    """The operations that were found to work, whatever the token lists."""

    gcm_iv_sizes: tuple[int, ...] = ()
    """The lengths, in bytes, of the IVs that the caller may choose."""
    gcm_iv_by_token: bool = False
    """Whether AES-GCM works with an IV that the token chooses."""
    cbc: bool = False
    cbc_pad: bool = False
    ecb: bool = False
    """Whether AES-ECB works; it is tried only where CBC is to be built of it."""
    hmac_sha256: bool = False
    hmac_sha512: bool = False
    hmac_empty: bool = False
    """Whether the empty message has a MAC."""
    hmac_longest: int = 0
    """Bytes of the longest message that was taken, of those tried."""
    oaep_sha256: bool = False
    generate_aes: bool = False
    generate_hmac: bool = False
    relabel: bool = False
    sessions: int = 0
    """Number of sessions, of those asked for, that could be opened at once."""
    foreign_changes: Foreign = "unknown"


@dataclass(frozen=True)
class Verdict:
    """The way in which kmsd will write, and why. enc: as in the JWE header; '' with algorithm none."""

    algorithm: Algorithm
    enc: str
    why: str
    cbc_from_ecb: bool = False
    """Whether AES-CBC is built of single blocks, because the token offers no more."""


@dataclass(frozen=True)
class Report:
    """The result of a probe. provider, title: of the row of quirks. library: what the module says of itself."""

    provider: str
    title: str
    module: str
    library: str
    token: str
    checks: tuple[Check, ...]
    timings: tuple[Timing, ...]
    abilities: Abilities
    verdict: Verdict

    @property
    def worst(self) -> Outcome:
        """The outcome to report for them all."""
        outcomes = {check.outcome for check in self.checks}
        return "failed" if "failed" in outcomes else "warning" if "warning" in outcomes else "ok"


@dataclass(frozen=True)
class ProbePlan:
    """The questions of a probe, and what to ask them with.

    aes_id, hmac_id: CKA_ID of the operator's keys, used where the token makes none to try with.
    sessions: how many kmsd begins with. sessions_grown: how many they may become. opened: how many this process
    has open already.
    elsewhere: None: changes by other programs are not tried.
    slow: also what may take seconds, an RSA key pair, although AES works.
    """

    quirks: Quirks
    aes_id: bytes | None = None
    hmac_id: bytes | None = None
    sessions: int = 4
    sessions_grown: int = 4
    opened: int = 0
    elsewhere: Elsewhere | None = None
    slow: bool = False


@dataclass
class Findings:
    """The findings of checks while they run. able: fields of Abilities."""

    checks: list[Check] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    able: dict[str, bool | int | str | tuple[int, ...]] = field(default_factory=dict)

    def note(self, name: str, title: str, outcome: Outcome, seen: str, fix: str = "") -> None:
        """Add a check. fix is dropped where nothing is to be fixed."""
        self.checks.append(Check(name, title, outcome, seen, fix if outcome in {"failed", "warning"} else ""))

    def abilities(self) -> Abilities:
        """Return what was found to work."""
        return Abilities(**self.able)  # type: ignore[arg-type]  # each is noted under the name of its field


ONLY_RSA: Final = (
    "prefer a token with AES: whoever has the public key can write what kmsd decrypts; else set --algorithm rsa-oaep, "
    "and kmsctl keygen LABEL --type rsa"
)
NOTHING_FITS: Final = "use a token with AES-GCM, or with AES-CBC and HMAC; the checks above say what is missing"


def judge(able: Abilities, *, cbc_from_ecb: bool = False, gcm_listed: bool = False) -> Verdict:
    """Choose the strongest of what works: AES-GCM, then encrypt-then-MAC with AES-CBC, then RSA-OAEP.

    cbc_from_ecb: whether CBC may be built of single blocks (`Quirks.cbc_from_ecb`). gcm_listed: whether the token says
    that it does AES-GCM.
    """
    if 12 in able.gcm_iv_sizes:
        return Verdict("aes-gcm", "A256GCM", "AES-GCM works, with an IV of 12 bytes")
    if able.gcm_iv_by_token:
        return Verdict("aes-gcm", "A256GCM", "AES-GCM works, with an IV that the token chooses")
    without = "AES-GCM is listed and does not work" if gcm_listed else "there is no AES-GCM"
    built = cbc_from_ecb and able.ecb and not able.cbc
    if able.cbc or built:
        how = "AES-CBC, built of single blocks," if built else "AES-CBC"
        if able.hmac_sha512:
            return Verdict("aes-cbc", "A256CBC-HS512", f"{without}, but {how} and HMAC with SHA-512", built)
        if able.hmac_sha256:
            why = f"{without}, but {how} and HMAC with SHA-256; none with SHA-512"
            return Verdict("aes-cbc", "A256CBC-HS256", why, built)
    if able.oaep_sha256:
        return Verdict("rsa-oaep", "RSA-OAEP-256", "no usable AES: second best, as the content key leaves the token")
    missing = "HMAC" if able.cbc or built else "AES"
    why = f"neither AES-GCM, nor AES-CBC with HMAC, nor RSA-OAEP with SHA-256 works: {missing} is what is missing"
    return Verdict("none", "", why)
