"""One kmsd for all tests of the two KMS APIs that leave it as it is, on a token whose keys are known."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from tests.daemons import Kmsd
from tests.rpc.forged import SECRET
from tests.rpc.known import KEYS
from tests.rpc.refusals import DECRYPT_V2, ENCRYPT_V2, assert_silent
from tests.rpc.vectors import K8S_KMS_PLUGIN_KEYS
from tests.rpc.wire import field, fields
from tests.tokens import make_token


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """What runs on an event loop here runs on the one that kmsd has."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """Serves with the keys of `known` and those that wrote k8s-kms-plugin's vectors."""
    folder = tmp_path_factory.mktemp("k")
    token = make_token(folder / "hsm")
    token.objects(*(key.step for key in (*KEYS, *K8S_KMS_PLUGIN_KEYS)))
    (folder / "d").mkdir()
    with Kmsd(folder / "d", token).start() as kmsd:
        yield kmsd.wait_ok()


@pytest.fixture
def unharmed(served: Kmsd) -> Iterator[None]:
    """After every test here, the next request is served by the same process and nothing was shown."""
    process = served.process
    assert process is not None
    begin = len(served.log_text())
    yield
    written = fields(served.raw(ENCRYPT_V2, field(1, SECRET)))
    assert served.raw(DECRYPT_V2, field(1, written[1]) + field(3, written[2])) == field(1, SECRET)
    assert process.poll() is None
    log = served.log_text()[begin:]
    assert_silent(log, SECRET)
    assert "Traceback" not in log
    assert '"level": "error"' not in log
