"""kmsctl and kmstui by TLS: an operator and a viewer of a key manager on another machine, as at its admin socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kmsd.client import Denied, connect
from kmsd.client.clientconfig import Target
from kmsd.client.places import TlsOptions
from tests import forkserver
from tests.ctl.terminal import PROGRAMS, Terminal
from tests.daemons import KMSCTL, wait_for
from tests.remote.certificates import Authority, Issued
from tests.remote.conftest import Manager, free_port

OPERATOR, VIEWER = "DNS:operator.test", "DNS:watcher.test"
NAME = "manager.test"
"""What the certificate of the key manager is for."""
Done = subprocess.CompletedProcess[str]


def kmsctl(*words: str, **environment: str) -> Done:
    """Runs it without anything of this machine's configuration."""
    base = {name: text for name, text in os.environ.items() if not name.startswith("KMSCTL_")}
    done: Done = forkserver.run(
        [KMSCTL, *words],
        env={**base, "KMSCTL_CONFIG": "/dev/null", "COLUMNS": "100", **environment},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done


@dataclass(frozen=True)
class Caller:
    """Somebody with a certificate. name: that the other side must have; empty for its host."""

    target: str
    ca: Path
    shown: Issued
    name: str = NAME

    @property
    def tls(self) -> TlsOptions:
        return TlsOptions(str(self.ca), str(self.shown.certificate), str(self.shown.key), self.name)

    @property
    def options(self) -> list[str]:
        files = [f"--tls-ca={self.ca}", f"--tls-certificate={self.shown.certificate}", f"--tls-key={self.shown.key}"]
        named = [f"--tls-server-name={self.name}"] if self.name else []
        return [f"--target={self.target}", *files, *named]

    @property
    def environment(self) -> dict[str, str]:
        files = {"CA": self.ca, "CERTIFICATE": self.shown.certificate, "KEY": self.shown.key, "SERVER_NAME": self.name}
        return {"KMSCTL_TARGET": self.target, **{f"KMSCTL_TLS_{name}": str(value) for name, value in files.items()}}

    def __call__(self, *words: str) -> Done:
        return kmsctl(*words, *self.options)


@pytest.fixture
def operator(manager: Manager, ca: Authority) -> Caller:
    return Caller(f"tls://localhost:{manager.port}", ca.file, ca.issue("operator", OPERATOR))


def test_an_operator_does_by_tls_what_is_done_at_the_admin_socket(manager: Manager, operator: Caller) -> None:
    def does(line: str) -> str:
        done = operator(*line.split())
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    assert f"tls://127.0.0.1:{manager.port} (v2, v1beta1, admin)" in does("status")
    assert does("health") == "ok\n"
    assert "kek-a" in does("status --tenant cluster-a")
    made = json.loads(does("keygen spare -o json"))["key"]["key_id"]
    assert made in does("keys list -o wide")
    assert "encrypt" in does("keys test spare")
    assert "spare-2" in does(f"keys relabel {made} spare-2 --confirm spare")
    does(f"keys destroy {made} --yes --confirm spare-2")
    assert "generate" in does("rotate kek-a --yes")
    assert "cluster-a" in does("tenants")
    assert OPERATOR in does("peers")
    assert "GenerateKey" in does("stats")
    assert "RotateKey" in does("audit tail -n 20")
    assert "intact" in does("audit verify")
    assert "AES-GCM" in does("doctor")
    assert "kmsd-test" in does("slots")
    assert "CKM_AES_GCM" in does("mechanisms")
    assert "Status" in does("requests -n 5")
    assert does("log-level debug") == "debug\n"
    assert "server.port" in does("config view -o name")
    assert does("unlock") == "kmsd-test\n"
    assert '"server": "0' in does("version -o json")
    assert f"san={OPERATOR}" in str(manager.kmsd.audit_records())


def test_an_admin_by_tls_may_wait_longer_than_a_caller_of_the_kms_apis(
    make_manager: Callable[..., Manager], ca: Authority
) -> None:
    manager = make_manager(environment={"KMSD_KMS__REQUEST_TIMEOUT": "0.3"})
    caller = Caller(f"tls://localhost:{manager.port}", ca.file, ca.issue("operator", OPERATOR))
    assert caller("health", "--wait").returncode == 0
    # What it tries takes a second on SoftHSM.
    assert caller("doctor").returncode == 0


def test_options_stand_anywhere_and_variables_name_the_same(operator: Caller) -> None:
    assert kmsctl(*operator.options, "health").stdout == "ok\n"
    assert kmsctl("keys", "list", "-o", "name", **operator.environment).stdout.splitlines()[0] == "k8s-kek"
    # What is typed wins over the environment.
    refused = kmsctl("health", "--tls-server-name=other.test", **operator.environment)
    assert refused.returncode == 4
    assert "is not for 'other.test': it is for manager.test, 127.0.0.1" in refused.stderr
    # The environment is for targets that are reached by TLS, and whatever it says is for no other.
    assert (
        "there is no socket /nowhere.sock" in kmsctl("health", "--target=/nowhere.sock", **operator.environment).stderr
    )


def test_what_only_the_other_machine_can_do_says_so(operator: Caller, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"p" * 32)
    for line in (f"encrypt {plain}", f"decrypt {plain} --key-id x"):
        refused = kmsctl(*line.split(), **operator.environment)
        assert refused.returncode == 2
        assert f"the target is {operator.target}, which encrypts and decrypts for its tenants" in refused.stderr
    refused = operator("bench")
    assert refused.returncode == 2
    assert f"the KMS sockets of {operator.target} are on its own machine" in refused.stderr
    nowhere = kmsctl("encrypt", str(plain), "--socket=/nowhere.sock", **operator.environment)
    assert "there is no socket /nowhere.sock" in nowhere.stderr


def test_a_viewer_looks_and_changes_nothing_and_a_stranger_does_neither(operator: Caller, ca: Authority) -> None:
    viewer = replace(operator, shown=ca.issue("viewer", VIEWER))
    before = viewer("keys", "list", "-o", "json").stdout
    for line in ("rotate kek-a --yes", "keygen more", "log-level debug"):
        refused = viewer(*line.split())
        assert refused.returncode == 4
        assert f"{VIEWER!r} is a viewer, and this needs an operator" in refused.stderr
        assert 'hint: give it role = "operator" in [[admins]]' in refused.stderr
    assert [each["key_id"] for each in json.loads(viewer("keys", "list", "-o", "json").stdout)["keys"]] == [
        each["key_id"] for each in json.loads(before)["keys"]
    ]
    tenant = replace(operator, shown=ca.issue("tenant", "DNS:node-1.cluster-a.test"))("status")
    assert tenant.returncode == 4
    assert "'DNS:node-1.cluster-a.test', which no entry of [[admins]] has" in tenant.stderr


def _config(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    return {"KMSCTL_CONFIG": str(path)}


def test_targets_have_names_and_are_compared_whatever_they_are_reached_by(
    manager: Manager, operator: Caller, ca: Authority, tmp_path: Path
) -> None:
    # Paths are relative to the file.
    for name, issued in (("o", operator.shown), ("v", ca.issue("viewer", VIEWER))):
        (tmp_path / f"{name}.crt").write_bytes(issued.certificate.read_bytes())
        (tmp_path / f"{name}.key").touch(0o600)
        (tmp_path / f"{name}.key").write_bytes(issued.key.read_bytes())
    environment = _config(
        tmp_path / "config.toml",
        f"""
[tls]
ca = "{ca.file}"
certificate = "o.crt"
key = "o.key"
server_name = "{NAME}"

[[targets]]
name = "remote"
address = "{operator.target}"

[[targets]]
name = "viewed"
address = "tls://127.0.0.1:{manager.port}"
tls_certificate = "v.crt"
tls_key = "v.key"

[[targets]]
name = "local"
address = "unix://{manager.kmsd.admin_socket}"

[[targets]]
name = "gone"
address = "tls://127.0.0.1:{free_port()}"
""",
    )
    found = json.loads(kmsctl("targets", "-o", "json", **environment).stdout)
    assert (found["agreeing"], found["writing"]) == (3, 3)
    by_name = {each["name"]: each for each in found["targets"]}
    assert by_name["remote"]["address"] == operator.target
    assert by_name["local"]["address"] == f"unix://{manager.kmsd.admin_socket}"
    assert "nothing listens there" in by_name["gone"]["error"]
    wide = kmsctl("targets", "remote", "local", "viewed", "-o", "wide", **environment)
    assert (wide.returncode, wide.stdout.count(operator.target)) == (0, 1)
    assert kmsctl("log-level", "--target=remote", **environment).returncode == 0
    assert "is a viewer" in kmsctl("log-level", "debug", "--target=viewed", **environment).stderr
    # An address has the files of [tls], and what is typed wins over the file.
    assert kmsctl("health", f"--target={operator.target}", **environment).stdout == "ok\n"
    typed = kmsctl("log-level", "debug", *replace(operator, target="viewed").options, **environment)
    assert typed.stdout == "debug\n"
    shown = kmsctl("__complete", "zsh", "kmsctl", "status", "--target", "", **environment).stdout
    assert f"remote\t{operator.target}\n" in shown
    # It has 0.3 s to answer; on a machine that is busy, not every time.
    line = ("__complete", "zsh", "kmsctl", *operator.options, "keys", "show", "kek")
    assert "kek-a\twrite" in wait_for(lambda: kmsctl(*line, **environment).stdout)


def test_it_is_reached_by_ipv6(make_manager: Callable[..., Manager], ca: Authority) -> None:
    manager = make_manager("--host=::1")
    manager.kmsd.wait_ok()
    issued = ca.issue("operator", OPERATOR)
    target = f"tls://[::1]:{manager.port}"
    assert target in Caller(target, ca.file, issued)("status").stdout
    refused = Caller(target, ca.file, issued, name="")("status")
    assert refused.returncode == 4
    assert f"the certificate of {target} is not for '::1'" in refused.stderr


def test_a_client_goes_on_with_new_files_when_the_old_certificate_ends_to_be_taken(
    make_manager: Callable[..., Manager], ca: Authority, tmp_path: Path
) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text("")
    manager = make_manager(f"--tls-revoked={revoked}")
    caller = Caller(f"tls://127.0.0.1:{manager.port}", ca.file, ca.issue("rolling", OPERATOR))
    with connect(Target("rolling", caller.target, caller.tls), timeout=10) as kmsd:
        assert kmsd.get_status().host
        revoked.write_text(f"{caller.shown.serial}\n")

        def refused() -> bool:
            try:
                kmsd.get_status()
            except Denied as error:
                return "is revoked" in error.message
            return False

        wait_for(refused)
        # Half of the new files: the old ones stay in force, and are refused as before.
        key = caller.shown.key.read_bytes()
        ca.issue("rolling", OPERATOR)
        whole = caller.shown.key.read_bytes()
        caller.shown.key.write_bytes(key)
        assert refused()
        caller.shown.key.write_bytes(whole)
        assert kmsd.get_status().host


@pytest.fixture
def kmstui(short_tmp: Path, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts kmstui in a real terminal, with this configuration file."""
    folder = short_tmp / "tmux"
    folder.mkdir()
    opened: list[Terminal] = []

    def start(*options: str, config: str = "") -> Terminal:
        terminal = Terminal(folder, _config(tmp_path / "config.toml", config))
        opened.append(terminal)
        terminal.run(str(PROGRAMS / "kmstui"), "--interval=0.5", *options, columns=120, lines=35)
        return terminal

    yield start
    for terminal in opened:
        terminal.close()


def test_kmstui_watches_and_acts_by_tls_and_goes_on_when_its_certificate_is_replaced(
    make_manager: Callable[..., Manager], ca: Authority, kmstui: Callable[..., Terminal], tmp_path: Path
) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text("")
    manager = make_manager(f"--tls-revoked={revoked}")
    manager.kmsd.wait_ok()
    caller = Caller(f"tls://localhost:{manager.port}", ca.file, ca.issue("tui", OPERATOR))
    terminal = kmstui(*caller.options)
    terminal.shows(caller.target, "● SERVING")
    terminal.press("3")
    terminal.shows("Keys (3)", "n New")
    terminal.press("n")
    # The command can be pasted anywhere: it has the files.
    terminal.shows("New key", f"--target {caller.target}", "--tls-ca", "--tls-server-name")
    terminal.press("Escape")
    revoked.write_text(f"{caller.shown.serial}\n")
    # The rest of the sentence does not fit beside a long serial number.
    terminal.shows("NO ANSWER", "the certificate with serial")
    ca.issue("tui", OPERATOR)
    terminal.shows("● SERVING", without="the certificate with serial")
    terminal.press("4")
    terminal.shows("Requests/s", "GetStatus")
    terminal.press("q")
    assert terminal.exit_code() == 0


def test_kmstui_shows_targets_of_both_sorts_side_by_side_and_tells_a_viewer_what_it_may_not(
    manager: Manager, ca: Authority, kmstui: Callable[..., Terminal]
) -> None:
    viewer = ca.issue("viewer", VIEWER)
    terminal = kmstui(
        config=f"""
[tls]
ca = "{ca.file}"
certificate = "{viewer.certificate}"
key = "{viewer.key}"

[[targets]]
name = "remote"
address = "tls://127.0.0.1:{manager.port}"

[[targets]]
name = "local"
address = "{manager.kmsd.admin_socket}"

[[targets]]
name = "gone"
address = "tls://127.0.0.1:{free_port()}"
"""
    )
    terminal.shows("remote", "● SERVING")
    terminal.press("3")
    terminal.shows("Keys (3)", "n New")
    terminal.press("n")
    terminal.shows("New key", "kmsctl --target remote keygen")
    terminal.type("spare")
    terminal.press("Enter")
    terminal.shows(f"'{VIEWER}' is a viewer, and this needs an operator")
    terminal.press("Escape")
    terminal.shows("Keys (3)", without="New key")
    terminal.press("8")
    terminal.shows("Fleet", "remote", "local", "gone", "nothing listens there")
    terminal.press("t")
    terminal.shows("remote", "local", "gone")
    terminal.press("Down", "Enter")
    terminal.shows("local", "● SERVING")
    terminal.press("q")
    assert terminal.exit_code() == 0


@pytest.mark.parametrize(
    ("how", "words"), [(signal.SIGTERM, "kmsd is stopping"), (signal.SIGKILL, "cannot reach tls:")]
)
def test_what_follows_a_key_manager_ends_when_it_goes_and_health_waits_until_it_is_back(
    manager: Manager, operator: Caller, how: signal.Signals, words: str
) -> None:
    with (
        subprocess.Popen(
            [KMSCTL, "stats", "--watch", *operator.options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as following,
        ThreadPoolExecutor() as pool,
    ):
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["seconds"] is not None
        manager.kmsd.stop(how)
        _, said = following.communicate(timeout=30)
        assert following.returncode == 3
        assert words in said
        assert "retry: the same command may succeed later" in said
        waiting = pool.submit(operator, "health", "--wait", "--timeout=40s")
        manager.kmsd.start()
        assert waiting.result(50).stdout == "ok\n"


def test_a_rotation_is_followed_by_tls_and_can_be_resumed_anywhere(operator: Caller) -> None:
    with subprocess.Popen(
        [KMSCTL, "rotate", "kek-a", "--watch", "--yes", *operator.options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        for line in watching.stdout:
            if "kube-apiservers follow" in line:
                break
        watching.send_signal(signal.SIGINT)
        said = watching.communicate(timeout=30)[1]
    assert watching.returncode == 130
    assert "rotate kek-a --watch " + " ".join(operator.options).replace("=", " ") + "` resumes" in said
