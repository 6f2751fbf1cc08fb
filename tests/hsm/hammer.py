"""Many threads inside one PKCS#11 module, as a program of its own: it may crash.

    python -m tests.hsm.hammer kmsd|plain|unlocked MODULE TOKEN-LABEL PIN-FILE KEY-ID-HEX

kmsd: loaded as kmsd does. plain: by python-pkcs11 itself. unlocked: as kmsd does, but for the one flag that
promises locking. The threads then do the same in each: open sessions, draw random bytes, encrypt, close.
"""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pkcs11
from pkcs11 import Attribute, DecryptMixin, EncryptMixin, Mechanism, ObjectClass

from kmsd.hsm.host import cryptoki, module
from kmsd.hsm.host.session import TokenSession

THREADS = 8
ROUNDS = 60


def through_kmsd(path: str, label: str, pin: str, key_id: bytes) -> Callable[[], None]:
    loaded = module.load(path)
    slot = next(each.slot_id for each in loaded.slots() if each.token and each.token.label == label)
    # Kept alive by the closure: the login ends with its last session.
    login = TokenSession(loaded, slot)
    loaded.cryptoki.login(login.handle, pin)

    def one_round() -> None:
        session = TokenSession(loaded, slot)
        assert len(session.random(16)) == 16
        iv, sealed = session.encrypt_gcm(key_id, 12, b"aad", b"plaintext")
        assert session.decrypt_gcm(key_id, iv, b"aad", sealed) == b"plaintext"
        session.close()
        assert login.handle

    return one_round


def through_library(path: str, label: str, pin: str, key_id: bytes) -> Callable[[], None]:
    token = pkcs11.lib(path).get_token(token_label=label)
    login = token.open(user_pin=pin)

    def one_round() -> None:
        session = token.open()
        assert len(session.generate_random(128)) == 16
        key = next(iter(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.ID: key_id})))
        assert isinstance(key, EncryptMixin)
        assert isinstance(key, DecryptMixin)
        iv = bytes(16)
        sealed = key.encrypt(b"plaintext", mechanism=Mechanism.AES_CBC_PAD, mechanism_param=iv)
        assert key.decrypt(sealed, mechanism=Mechanism.AES_CBC_PAD, mechanism_param=iv) == b"plaintext"
        session.close()
        assert login is not None

    return one_round


def main() -> int:
    how, path, label, pin_file, key_id = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pin = Path(pin_file).read_text().strip()
    if how == "unlocked":
        cryptoki.CKF_OS_LOCKING_OK = 0  # type: ignore[misc]
    start = through_library if how == "plain" else through_kmsd
    one_round = start(path, label, pin, bytes.fromhex(key_id))
    failures: list[BaseException] = []
    together = threading.Barrier(THREADS)

    def work() -> None:
        try:
            together.wait()
            for _ in range(ROUNDS):
                one_round()
        except Exception as error:  # noqa: BLE001  whatever a module does to a thread is what is looked for
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failures:
        print(type(error).__name__, error)  # noqa: T201  read by the test
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
