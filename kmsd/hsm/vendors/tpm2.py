"""Keys on a TPM 2.0: tpm2-pkcs11 makes none through PKCS#11, its own program tpm2_ptool does.

While it runs the module must be finalised in this process: without a resource manager the TPM has room for one of them
only, and the module sees new keys only after C_Initialize anyway. So `add_keys` is called in between, on the thread
that finalises and initialises the module.

The PIN goes through a pipe, never through an argument list or the environment: see `kmsd.hsm.vendors.ptool_runner`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from kmsd.errors import Denied, InvalidRequest, KmsdError, Misconfigured, Unavailable

_RUNNER: Final = Path(__file__).with_name("ptool_runner.py")
_SECONDS_EACH: Final = 60.0
_UNMANAGED: Final = re.compile(r"swtpm|mssim|device:/dev/tpm\d")
_NOT_PASSED_ON: Final = ("KMSD_", "KMSCTL_", "P11_", "PYTHON", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "VIRTUAL_ENV")
_ASK_SECONDS: Final = 5.0
_OWNED: Final = re.compile(r"0x81[0-7][0-9A-F]{5}", re.IGNORECASE)
"""Handles of persistent objects of the owner (TCG, Registry of Reserved TPM 2.0 Handles, 2.3)."""
_HANDLE: Final = re.compile(r"0x[0-9A-F]+", re.IGNORECASE)
_INSTALL: Final = "install it (Debian, Ubuntu: apt-get install libtpm2-pkcs11-tools), then try again"


@dataclass(frozen=True)
class NewKey:
    """A key to be made. cka_id: printable ASCII, as tpm2_ptool stores no other."""

    kind: Literal["aes", "hmac", "rsa", "ec"]
    label: str
    cka_id: bytes


@dataclass(frozen=True)
class TpmAbilities:
    """The abilities of a TPM that matter to kmsd, as the tpm2 tools tell.

    aes_bits: 256, 128, or 0 if it has no AES at all. hash_bits: of the HMAC, 512 or 256.
    encrypts: whether it has TPM2_EncryptDecrypt2, which makers may leave out; without it no AES key is of use.
    """

    aes_bits: int
    hash_bits: int
    encrypts: bool


def abilities(environment: Mapping[str, str] | None = None) -> TpmAbilities:
    """Ask the TPM. The module is finalised meanwhile, unless a resource manager is between. Raises KmsdError."""
    commands = _tool(environment, "tpm2_getcap", "commands")
    return TpmAbilities(
        aes_bits=next((bits for bits in (256, 128) if _takes(environment, f"aes{bits}cbc")), 0),
        hash_bits=512 if _takes(environment, "hmac:sha512") else 256,
        encrypts="TPM2_CC_EncryptDecrypt2" in commands,
    )


def add_keys(
    token: str,
    pin: str,
    keys: Sequence[NewKey],
    *,
    aes_bits: int = 256,
    hash_bits: int = 256,
    rsa_bits: int = 2048,
    ec_bits: int = 256,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Make keys on the token with this label, HMAC keys first: one that is left alone by a failure harms nobody.

    pin: the user PIN, known to be right, because a wrong one counts towards the TPM's lockout. aes_bits, hash_bits: as
    `abilities` says. environment: of kmsd unless given; TPM2_PKCS11_STORE and TPM2_PKCS11_TCTI in it name the store and
    the TPM.

    Raises InvalidRequest, Misconfigured, Denied, Unavailable. A failure may leave the first keys made.
    """
    ordered = sorted(keys, key=lambda key: key.kind != "hmac")
    algorithms = {
        "aes": f"aes{aes_bits}",
        "hmac": f"hmac:sha{hash_bits}",
        "rsa": f"rsa{rsa_bits}",
        "ec": f"ecc{ec_bits}",
    }
    commands = [_addkey(token, pin, key, algorithms[key.kind]) for key in ordered]
    python = _interpreter()
    variables = _environment(environment)
    job = {"commands": commands, "flush": is_unmanaged(variables)}
    made, code, said = _run_bounded([*python, str(_RUNNER)], json.dumps(job), variables, _SECONDS_EACH * len(keys))
    if code:
        raise _explain(said.replace(pin, "***") if pin else said, token, ordered[made:], ordered[:made])


def flush(environment: Mapping[str, str] | None = None) -> bool:
    """Throw out what a program that was killed has left in the TPM: loaded objects and sessions. Without it nobody can
    log in. Only where nothing manages the TPM's memory, so that the device is this program's alone; the module is
    finalised meanwhile. Returns whether there was anything to throw out. Raises KmsdError.
    """
    if managed(environment):
        return False
    left = False
    for kept, what in (("handles-transient", "--transient-object"), ("handles-loaded-session", "--loaded-session")):
        if _HANDLE.search(_tool(environment, "tpm2_getcap", kept, seconds=_ASK_SECONDS)):
            _tool(environment, "tpm2_flushcontext", what, seconds=_ASK_SECONDS)
            left = True
    return left


def ailment(token: str, environment: Mapping[str, str] | None = None, *, beside: bool = False) -> KmsdError | None:
    """Return why a TPM that answers does nothing with the keys of this token, where it can tell: the module passes
    every failure on as CKR_GENERAL_ERROR. None: it cannot tell.

    beside: the module is in use meanwhile; then a TPM without a resource manager is not asked.
    """
    if beside and not managed(environment):
        return None
    try:
        if re.search(r"inLockout:\s*1", _tool(environment, "tpm2_getcap", "properties-variable", seconds=_ASK_SECONDS)):
            return Unavailable(
                f"the TPM behind token {token!r} is locked after wrong PINs (dictionary attack lockout)",
                "stop what gives it wrong PINs; wait for its recovery time, or tpm2_dictionarylockout --clear-lockout",
            )
        handles = _tool(environment, "tpm2_getcap", "handles-persistent", seconds=_ASK_SECONDS)
    except (Misconfigured, Unavailable):
        return None
    if not _OWNED.search(handles):
        return Misconfigured(
            f"the TPM has no parent key for token {token!r}: it was cleared, or its store belongs to another TPM",
            "bring the store and its TPM together; what a cleared TPM's keys encrypted is lost: restore it from a "
            "backup, and make a new store and new keys",
        )
    return None


def managed(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether a resource manager shares out the memory of the TPM that the module and the tools mean."""
    return not is_unmanaged(_environment(environment))


def is_unmanaged(environment: Mapping[str, str]) -> bool:
    """Return whether nothing shares out the TPM's memory: a TCTI that is the device itself, not /dev/tpmrm0 or
    tpm2-abrmd."""
    return bool(_UNMANAGED.match(environment.get("TPM2TOOLS_TCTI", "")))


def _addkey(token: str, pin: str, key: NewKey, algorithm: str) -> list[str]:
    if not re.fullmatch(rb"[\x21-\x7e]+", key.cka_id):
        raise InvalidRequest(
            "a CKA_ID on a TPM must be printable ASCII without blanks", "leave it to kmsd to choose one"
        )
    return [
        "addkey",
        f"--algorithm={algorithm}",
        f"--label={token}",
        f"--userpin={pin}",
        f"--key-label={key.label}",
        f"--id={key.cka_id.decode('ascii')}",
    ]


def _interpreter() -> list[str]:
    """Return the Python that tpm2_ptool's first line names, which has its libraries; kmsd's own has not."""
    path = shutil.which("tpm2_ptool")
    if path is None:
        raise Misconfigured("PKCS#11 makes no keys on a TPM; tpm2_ptool does, and it is not installed", _INSTALL)
    with Path(path).open("rb") as file:
        first = file.readline(512).decode("utf-8", "replace").strip()
    if not first.startswith("#!") or "python" not in first:
        raise Misconfigured(f"{path} is no Python program as tpm2_ptool is known to be", _INSTALL)
    return [*shlex.split(first[2:]), "-I"]


def _environment(given: Mapping[str, str] | None) -> dict[str, str]:
    variables = {k: v for k, v in (given or os.environ).items() if not k.startswith(_NOT_PASSED_ON)}
    if "TPM2_PKCS11_TCTI" in variables:
        # The module and the tools have a variable each; they must mean one TPM.
        variables["TPM2TOOLS_TCTI"] = variables["TPM2_PKCS11_TCTI"]
    return variables


def _tool(environment: Mapping[str, str] | None, *command: str, seconds: float = _SECONDS_EACH) -> str:
    try:
        done = subprocess.run(
            command, env=_environment(environment), capture_output=True, text=True, timeout=seconds, check=False
        )
    except FileNotFoundError as error:
        raise Misconfigured(f"{command[0]} is not installed", "apt-get install tpm2-tools, then try again") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} did not end: the TPM does not answer", "check the TPM") from error
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {_last_line(done.stderr)}", "check the TPM and TPM2_PKCS11_TCTI")
    return done.stdout


def _takes(environment: Mapping[str, str] | None, parameters: str) -> bool:
    """Ask the TPM (TPM2_TestParms) whether a key of this kind can be made."""
    try:
        _tool(environment, "tpm2_testparms", parameters)
    except Unavailable:
        return False
    return True


def _run_bounded(command: list[str], job: str, environment: dict[str, str], seconds: float) -> tuple[int, int, str]:
    """Run the job; return how many of its commands went well, the exit code, and what was said on standard error."""
    # In a session of its own, so that the tools that it starts can be ended with it.
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, said = process.communicate(job, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise Unavailable("tpm2_ptool did not end: the TPM does not answer", "check the TPM, then try again") from error
    return output.count("\n"), process.returncode, said


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # The tools end with "Unable to run ...", which says nothing.
    lines = [line for line in lines if "Unable to run" not in line] or lines
    return lines[-1][:300] if lines else "it says nothing"


def _explain(said: str, token: str, not_made: Sequence[NewKey], made: Sequence[NewKey]) -> KmsdError:
    label = not_made[0].label if not_made else ""
    left = f"; {', '.join(repr(key.label) for key in made)} was made before" if made else ""
    what = f"tpm2_ptool made no key {label!r} on token {token!r}{left}"
    for pattern, kind, why, hint in _KNOWN:
        if re.search(pattern, said):
            return kind(f"{what}: {why}", hint)
    return Unavailable(f"{what}: {_last_line(said)}", "check the TPM and the store (TPM2_PKCS11_STORE)")


_KNOWN: Final[tuple[tuple[str, type[KmsdError], str, str], ...]] = (
    (
        *(r"0x98E|authorization HMAC check failed", Denied, "the TPM refused the PIN"),
        "the store belongs to another TPM, or the PIN was changed: kmsctl doctor, before it is tried again",
    ),
    (
        *(r"0x921|DA lockout", Denied, "the TPM is locked after wrong PINs"),
        "wait for its recovery time, or tpm2_dictionarylockout --clear-lockout",
    ),
    (
        *(r"No token labeled", Misconfigured, "its store has no such token"),
        "kmsd and its module must see one store: set TPM2_PKCS11_STORE for kmsd",
    ),
    (
        *(r"out of memory for object contexts|0x902", Unavailable, "the TPM has no room for another loaded object"),
        "use the resource manager: TPM2_PKCS11_TCTI=device:/dev/tpmrm0",
    ),
    (
        *(
            r"unable to open database|readonly database|database is locked",
            Misconfigured,
            "its store cannot be written",
        ),
        "kmsd's user must be able to write to the directory TPM2_PKCS11_STORE",
    ),
    (
        *(r"Could not load tcti|tcti", Unavailable, "the TPM cannot be reached"),
        "check the TPM, TPM2_PKCS11_TCTI, and kmsd's permissions (group tss)",
    ),
    (
        *(r"No module named|in a way that is not known", Misconfigured, "it does not run as it is known to"),
        "install libtpm2-pkcs11-tools 1.9 from the same source as libtpm2-pkcs11-1",
    ),
    (
        *(r"Unsupported algorithm|value is out of range|0x2C4", Misconfigured, "the TPM makes no key of this kind"),
        "kmsctl doctor shows what this TPM can do",
    ),
)
