"""Two entries of the configuration that are one token, or one library: named, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.tokens import MODULE, SoftToken

PROXY = "/usr/lib/x86_64-linux-gnu/p11-kit-proxy.so"
SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")

Start = Callable[..., Kmsd]


@pytest.fixture
def proxied(short_tmp: Path) -> Mapping[str, str]:
    """An environment in which p11-kit's proxy shows SoftHSM and nothing else."""
    modules = short_tmp / "xdg" / "pkcs11" / "modules"
    modules.mkdir(parents=True)
    (modules / "s.module").write_text(f"module: {MODULE}\n")
    (modules.parent / "pkcs11.conf").write_text("user-config: only\n")
    return {"XDG_CONFIG_HOME": str(short_tmp / "xdg"), "HOME": str(short_tmp)}


def _configured(token: SoftToken, *entries: tuple[str, str, str]) -> str:
    """A configuration of (name, module, which token) each. Returns the flag that names it."""
    file = token.folder / "kmsd.toml"
    file.write_text(
        "".join(
            f'[[tokens]]\nname = "{name}"\nmodule = "{module}"\n{which}\npin_file = "{token.pin_file}"\n'
            for name, module, which in entries
        )
    )
    return f"--config={file}"


def _works(kmsd: Kmsd) -> bool:
    sealed = kmsd.v2("Encrypt", SEED)
    request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id)
    return bool(kmsd.v2("Decrypt", request).plaintext == SEED.plaintext)


@pytest.mark.parametrize("how", ["name", "slot", "link", "proxy", "proxy first"])
def test_a_token_that_is_configured_twice_is_used_once_and_named(
    start_kmsd: Start, token: SoftToken, short_tmp: Path, proxied: Mapping[str, str], how: str
) -> None:
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    label = f'label = "{token.label}"'
    again = (MODULE, label)
    match how:
        case "slot":
            again = MODULE, f"slot = {_slot(start_kmsd)}"
        case "link":
            (short_tmp / "hsm.so").symlink_to(MODULE)
            again = str(short_tmp / "hsm.so"), label
        case "proxy" | "proxy first":
            again = PROXY, label
    entries = [("a", MODULE, label), ("b", *again)]
    if how == "proxy first":
        entries = [("a", PROXY, label), ("b", MODULE, label)]
    before = token.logins()
    flag = _configured(token, *entries)
    kmsd = start_kmsd(flag, default_flags=False, environment=proxied).wait_ok()
    wait_for(lambda: "'b' and 'a' of the configuration are one token" in kmsd.status().tokens[1].reason)
    (problem,) = [each for each in kmsd.status().problems if "are one token" in each.message]
    assert not problem.fatal
    assert "remove one of the two" in problem.hint
    assert any("are one token" in line.get("reason", "") for line in kmsd.log_lines())
    assert [key.state for key in kmsd.admin("ListKeys").keys] == [admin.KEY_STATE_WRITE]
    assert _works(kmsd)
    time.sleep(1)
    assert token.logins() == before + 1


def _slot(start_kmsd: Start) -> int:
    with start_kmsd(name="s") as kmsd:
        wait_for(lambda: kmsd.status().token.up)
        slot: int = kmsd.status().token.slot_id
        return slot


def test_a_wrong_pin_of_a_token_that_is_configured_twice_is_tried_once(start_kmsd: Start, token: SoftToken) -> None:
    token.pin_file.write_text("4321-wrong\n")
    before = token.logins()
    label = f'label = "{token.label}"'
    kmsd = start_kmsd(_configured(token, ("a", MODULE, label), ("b", MODULE, label)), default_flags=False)
    wait_for(lambda: "are one token" in kmsd.status().tokens[1].reason)
    wait_for(lambda: "refused the PIN" in kmsd.status().tokens[0].reason)
    time.sleep(1)
    assert token.logins() == before + 1


@pytest.mark.parametrize("order", [(PROXY, MODULE), (MODULE, PROXY)], ids=["proxy-first", "direct-first"])
def test_two_tokens_of_one_library_under_two_paths_serve_and_outlive_each_other(
    start_kmsd: Start, token: SoftToken, proxied: Mapping[str, str], order: tuple[str, str]
) -> None:
    """Each in a process of its own: what one finalises is not the other's."""
    token.init_token("tok-b")
    old = {"do": "import", "type": "aes", "label": "old", "value": bytes(32).hex(), "id": b"kek-a".hex()}
    token.objects(old)
    kek = {"do": "import", "type": "aes", "label": "k8s-kek", "value": bytes(32).hex(), "id": b"kek-b".hex()}
    token.objects(kek, token="tok-b")
    entries = ("a", order[0], f'label = "{token.label}"'), ("b", order[1], 'label = "tok-b"')
    environment = {**proxied, "KMSD_KEYS__REFRESH": "0.3"}
    kmsd = start_kmsd(_configured(token, *entries), default_flags=False, environment=environment).wait_ok()
    wait_for(lambda: all(each.token.up for each in kmsd.status().tokens))
    assert len(kmsd.hosts()) == 2
    for number in range(8):
        # The process of the token that does not write crashes, or is replaced in order and finalises the library.
        before = _host_of(kmsd, order[0])
        if number % 2:
            os.kill(before, signal.SIGKILL)
        else:
            token.destroy("old")  # keys that vanish make kmsd doubt what it sees
        for _ in range(10):
            assert _works(kmsd)
        wait_for(lambda before=before: before not in kmsd.hosts() and len(kmsd.hosts()) == 2)
        wait_for(lambda: all(each.token.up for each in kmsd.status().tokens))
        if not number % 2:
            token.objects(old)
            wait_for(lambda: kmsd.status().tokens[0].keys == 1)
    assert kmsd.process is not None
    assert kmsd.process.poll() is None


def _host_of(kmsd: Kmsd, module: str) -> int:
    """The process with this module. p11-kit's proxy loads SoftHSM as well."""
    proxies = {each: "libp11-kit" in Path(f"/proc/{each}/maps").read_text() for each in kmsd.hosts()}
    (host,) = [each for each, proxy in proxies.items() if proxy is (module == PROXY)]
    return host
