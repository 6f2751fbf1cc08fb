"""A program that makes or destroys one key of a probe's own on a token, or looks for a key: another process, as seen
from kmsd.

    python -P -m kmsd.hsm.other_process < JOB

JOB is JSON on standard input: module (path), token (label), pin, do ("make", "destroy" or "find") and label (to find: a
CKA_ID in hexadecimal; the answer is "found" or "absent"). So the PIN is in no argument list and in no environment. What
is made or destroyed is a key that `kmsd.hsm.doctor.checks` may name: nothing else is touched.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

from kmsd.errors import KmsdError
from kmsd.hsm.ckr import PIN_ERRORS, CkrError
from kmsd.hsm.doctor.checks import probe_key
from kmsd.hsm.doctor.findings import PROBE_LABEL, Deed
from kmsd.hsm.host import calls, cryptoki
from kmsd.hsm.host import module as modules

_SECONDS: Final = 30.0


class OtherProcess:
    """A process of ours beside kmsd, on the same token.

    module: path. token: label of the token. pin: to log in with; None: none.
    pin_refused: whether it was told that the PIN is wrong.
    """

    def __init__(self, module: str, token: str, pin: str | None) -> None:
        self.pin = pin
        self.pin_refused = False
        self._job = {"module": module, "token": token, "pin": pin}

    def __call__(self, do: Deed, label: str) -> bool:
        """Make or destroy a probe's key with this label; or return whether there is a private object with this CKA_ID,
        in hexadecimal. Raises OSError or ValueError."""
        try:
            done = subprocess.run(
                # -P: a file in the working directory is not ours to run.
                [sys.executable, "-P", "-m", "kmsd.hsm.other_process"],
                input=json.dumps({**self._job, "do": do, "label": label}),
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError("the other process did not end") from error
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or ["the other process failed"]
            self.pin_refused = self.pin_refused or any(name in said[0] for name in PIN_ERRORS)
            raise ValueError(said[0])
        return done.stdout.strip() == "found"


def main() -> int:
    """Do the job on standard input, and say how it went."""
    job = json.load(sys.stdin)
    label = str(job["label"])
    if job["do"] != "find" and not label.startswith(PROBE_LABEL):
        return _complain(f"{label!r} is not a label of a probe")
    try:
        module = modules.load(job["module"])
        try:
            _work(module, job["token"], job["pin"], job["do"], label)
        finally:
            module.finalize()
    except (CkrError, KmsdError) as error:
        return _complain(str(error))
    return 0


def _work(module: modules.Module, token: str, pin: str | None, do: str, label: str) -> None:
    table = module.cryptoki.table
    slots = [slot.slot_id for slot in module.slots() if slot.token and slot.token.label == token]
    if len(slots) != 1:
        raise CkrError(f"{len(slots)} tokens labelled {token!r} are there", "C_GetSlotList")
    session = calls.open_session(table, slots[0], rw=do != "find")
    if pin is not None:
        calls.log_in(module.cryptoki, session, pin)
    if do == "find":
        there = module.cryptoki.find(
            session,
            {cryptoki.CKA_TOKEN: True, cryptoki.CKA_PRIVATE: True, cryptoki.CKA_ID: bytes.fromhex(label)},
            most=1,
        )
        sys.stdout.write("found\n" if there else "absent\n")
        return
    if do == "make":
        calls.generate_key(table, session, cryptoki.CKM_AES_KEY_GEN, probe_key(label))
        return
    for handle in module.cryptoki.find(session, {cryptoki.CKA_LABEL: label.encode()}):
        calls.destroy_object(table, session, handle)


def _complain(what: str) -> int:
    sys.stderr.write(what + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
