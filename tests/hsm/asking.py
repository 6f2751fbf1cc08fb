"""A program that does things with a token one after another and says what came of each: a module is one per process.

    python -m tests.hsm.asking < JOB

JOB: JSON with module, label, pin and steps. A step is one of

    {"do": "list"}                                   the secret keys
    {"do": "encrypt", "id": ID}                      AES-CBC of 48 bytes with the AES key of this CKA_ID
    {"do": "sign", "id": ID, "size": N}              HMAC-SHA-256 of N bytes
    {"do": "random"}                                 16 bytes
    {"do": "relabel", "label": L, "to": M}
    {"do": "destroy", "label": L}
    {"do": "anew"}                                   C_Finalize, C_Initialize, log in
    {"do": "wait"}                                   until the other side says so

Prints a line of JSON for each.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import calls, cryptoki
from kmsd.hsm.host import module as modules

ROOT = Path(__file__).parents[2]


class _User:
    """Somebody who is logged in."""

    def __init__(self, path: str, label: str, pin: str) -> None:
        self.module = modules.load(path)
        self.label = label
        self.pin = pin
        self.log_in()

    def log_in(self) -> None:
        slots = [each for each in self.module.slots() if each.token and each.token.label == self.label]
        self.slot = slots[0].slot_id
        self.held = calls.open_session(self.module.cryptoki.table, self.slot, rw=True)
        self.module.cryptoki.login(self.held, self.pin)

    def do(self, step: dict[str, Any]) -> Any:
        answer: Callable[..., Any] = getattr(self, step.pop("do"))
        # Each in a session of its own: a failed operation may leave its session in the middle of it.
        session = calls.open_session(self.module.cryptoki.table, self.slot, rw=True)
        try:
            return answer(session, **step)
        finally:
            with contextlib.suppress(CkrError):
                calls.close_session(self.module.cryptoki.table, session)

    def _one(self, session: int, template: dict[int, bytes | int | bool]) -> int:
        (handle,) = self.module.cryptoki.find(session, {cryptoki.CKA_CLASS: cryptoki.CKO_SECRET_KEY, **template})
        return handle

    def list(self, session: int) -> Any:
        types = (cryptoki.CKA_LABEL, cryptoki.CKA_ID, cryptoki.CKA_KEY_TYPE)
        flags = (cryptoki.CKA_SENSITIVE, cryptoki.CKA_EXTRACTABLE)
        keys = []
        for handle in self.module.cryptoki.find(session, {cryptoki.CKA_CLASS: cryptoki.CKO_SECRET_KEY}):
            raw = self.module.cryptoki.attributes(session, handle, (*types, *flags))
            keys.append(
                {
                    "label": raw[cryptoki.CKA_LABEL].decode(),
                    "id": raw[cryptoki.CKA_ID].decode(),
                    "kind": "aes" if raw[cryptoki.CKA_KEY_TYPE][0] == 0x1F else "hmac",
                    "sensitive": raw[cryptoki.CKA_SENSITIVE] == b"\1",
                    "extractable": raw[cryptoki.CKA_EXTRACTABLE] == b"\1",
                }
            )
        return keys

    def encrypt(self, session: int, id: str) -> Any:  # noqa: A002  as the step calls it
        key = self._one(session, {cryptoki.CKA_ID: id.encode(), cryptoki.CKA_KEY_TYPE: 0x1F})
        table = self.module.cryptoki.table
        return {"bytes": len(calls.encrypt(table, session, key, cryptoki.CKM_AES_CBC, bytes(16), bytes(48)))}

    def sign(self, session: int, id: str, size: int = 100) -> Any:  # noqa: A002
        key = self._one(session, {cryptoki.CKA_ID: id.encode(), cryptoki.CKA_SIGN: True})
        table = self.module.cryptoki.table
        return {"bytes": len(calls.sign(table, session, key, cryptoki.CKM_SHA256_HMAC, bytes(size)))}

    def random(self, session: int) -> Any:
        return {"bytes": len(calls.random(self.module.cryptoki.table, session, 16))}

    def relabel(self, session: int, label: str, to: str) -> Any:
        handle = self._one(session, {cryptoki.CKA_LABEL: label.encode()})
        calls.set_attributes(self.module.cryptoki.table, session, handle, {cryptoki.CKA_LABEL: to.encode()})
        return {}

    def destroy(self, session: int, label: str) -> Any:
        calls.destroy_object(
            self.module.cryptoki.table, session, self._one(session, {cryptoki.CKA_LABEL: label.encode()})
        )
        return {}

    def anew(self) -> Any:
        self.module.finalize()
        self.module.initialize()
        self.log_in()
        return {}


def main() -> int:
    job = json.loads(sys.stdin.readline())
    user = _User(job["module"], job["label"], job["pin"])
    for step in job["steps"]:
        answer: Any
        match step["do"]:
            case "wait":
                print(json.dumps("waiting"), flush=True)  # noqa: T201  read by the test
                sys.stdin.readline()
                continue
            case "anew":
                do: Callable[[], Any] = user.anew
            case _:

                def do(step: dict[str, Any] = step) -> Any:
                    return user.do(step)

        try:
            answer = do()
        except CkrError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)  # noqa: T201
    with contextlib.suppress(CkrError):
        user.module.finalize()
    return 0


@dataclass
class Held:
    """The other process. answers: what it has said, all of it once it has ended."""

    process: subprocess.Popen[str]
    answers: list[Any] = field(default_factory=list)
    _told: bool = False

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def go_on(self) -> None:
        """End its waiting already."""
        assert self.process.stdin is not None
        if not self._told:
            self.process.stdin.write("go on\n")
            self.process.stdin.flush()
        self._told = True


def _start(
    module: str,
    label: str,
    pin: str,
    environment: Mapping[str, str],
    steps: Sequence[dict[str, Any]],
    enter: Sequence[str],
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*enter, sys.executable, "-m", "tests.hsm.asking"],
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"module": module, "label": label, "pin": pin, "steps": steps}) + "\n")
    process.stdin.flush()
    return process


@contextlib.contextmanager
def holding(
    module: str,
    label: str,
    pin: str,
    environment: Mapping[str, str],
    *steps: dict[str, Any],
    enter: Sequence[str] = (),
) -> Iterator[Held]:
    """Run steps with one "wait" among them; the body is run meanwhile, the rest of the steps after it."""
    process = _start(module, label, pin, environment, steps, enter)
    held = Held(process)
    assert process.stdout is not None
    try:
        while not held.answers or held.answers[-1] != "waiting":
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            held.answers.append(json.loads(line))
        yield held
        held.go_on()
        output, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        held.answers.extend(json.loads(line) for line in output.splitlines())
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ask(
    module: str,
    label: str,
    pin: str,
    environment: Mapping[str, str],
    *steps: dict[str, Any],
    enter: Sequence[str] = (),
) -> list[Any]:
    """Run steps in another process. Returns what came of each."""
    process = _start(module, label, pin, environment, steps, enter)
    try:
        output, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, f"{process.returncode}: {said}"
    return [json.loads(line) for line in output.splitlines()]


def slots(module: str, environment: Mapping[str, str]) -> list[str]:
    """Labels of the tokens that a module shows to a process that only looks."""
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import json, sys; from kmsd.hsm.host import module;"
            "print(json.dumps([s.token.label for s in module.load(sys.argv[1]).slots() if s.token]))",
            module,
        ],
        cwd=ROOT,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    labels: list[str] = json.loads(done.stdout)
    return labels


if __name__ == "__main__":
    sys.exit(main())
