"""Help: every command's opens with examples, and every example works when it is pasted."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from sqlalchemy import delete

from kmsctl.app import program
from kmsctl.diagnostics import ExitCode
from kmsctl.output import OutputFormat
from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.cli import app as kmsd_app
from kmsd.errors import AlreadyExists
from kmsd.store.records import EnrolmentRequest, EnrolmentToken
from kmsd.store.schema import RequestRow
from kmsd.store.store import Store
from tests.ca import software
from tests.ctl.canned import Canned
from tests.ctl.conftest import Run
from tests.ctl.terminal import PROGRAMS, Terminal
from tests.daemons import Kmsd, wait_for
from tests.etcd import values
from tests.etcd.server import Server
from tests.remote.certificates import Authority
from tests.remote.conftest import free_port
from tests.tokens import SoftToken, make_token

PLUGINS = {
    "k8s-kms-plugin.yaml": "static-pod.yaml",
    "k8s-kms-plugin.service": "tpm.service",
    "encryption-config.yaml": "encryption-config.yaml",
}
"""Set-ups to migrate from, by the names that the examples give them."""
ROOT: Any = program()


def _commands(group: Any, name: str = "") -> Iterator[str]:
    yield name
    for word, command in getattr(group, "commands", {}).items():
        yield from _commands(command, f"{name} {word}".strip())


COMMANDS = list(_commands(ROOT))


def examples(run: Run, command: str) -> list[str]:
    result = run(*command.split(), "--help")
    assert (result.code, result.err) == (0, "")
    usage, blank, title, *rest = result.text.splitlines()
    assert usage.startswith(f"Usage: kmsctl {command}".rstrip())
    assert (blank, title) == ("", "  Examples:")
    return [line.strip() for line in rest[: rest.index("")]]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_opens_with_examples_of_that_very_command(run: Run, command: str) -> None:
    found = examples(run, command)
    assert found
    for example in found:
        assert f"kmsctl {command}".strip() in example


ALONE = re.compile(r"(?!(?:Its|Our|Of|For|Only|Just|As|At|Between|How)\b)[A-Z].*\.", re.DOTALL)
"""A text that can be read without its neighbour: it begins with what it is about, or what is done, and is whole."""


def _said(command: Any) -> Iterator[str]:
    yield next(part for part in command.help.split("\n\n") if "Examples:" not in part)
    if command.short_help:
        yield command.short_help
    yield from (text for each in command.params if (text := getattr(each, "help", "")))
    for inner in getattr(command, "commands", {}).values():
        yield from _said(inner)


@pytest.mark.parametrize("program", [ROOT, typer.main.get_command(kmsd_app)], ids=["kmsctl", "kmsd"])
def test_every_help_text_can_be_read_alone(program: Any) -> None:
    said = list(_said(program))
    assert len(said) > 10
    assert [text for text in said if not ALONE.fullmatch(text)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_in_the_examples_exist(run: Run, command: str) -> None:
    for line in examples(run, command):
        for stage in _stages(line):
            if stage[0] != "kmsctl":
                continue
            nouns = next(found for count in (4, 3, 2) if (found := " ".join(stage[1:count])) in COMMANDS)
            known = run(*nouns.split(), "--help").text
            for option in (word for word in stage if word.startswith("-") and len(word) > 1):
                assert option in known, line


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_the_program_stand_behind_every_command_too(command: str) -> None:
    place: Any = program()
    for word in command.split():
        place = place.commands[word]
    taken = {name for each in place.params for name in each.opts}
    assert {"--target", "--timeout", "--output", "-o", "--no-color", "--debug", "--version"} <= taken


def test_what_stands_behind_a_command_counts_as_before_it(run: Run, canned: Canned, directory: Path) -> None:
    nowhere = f"unix://{directory}/nowhere.sock"
    for line in (f"--target {nowhere} keys list", f"keys --target {nowhere} list", f"keys list --target {nowhere}"):
        assert run(*line.split()).code == 3
    for line in ("-o name keys list", "keys -o name list", "keys list -o name"):
        assert run(*line.split()).text.startswith("k8s-kek\n")
    assert "Traceback" in run("keys", "show", "nothing", "--debug").err
    assert "\x1b" not in run("status", "--no-color").text
    for line in (f"encrypt --target {nowhere} /dev/null", "decrypt -o json /dev/null"):
        assert run(*line.split()).code == 2
    assert run("audit", "verify", "--version").text.startswith("kmsctl ")


@pytest.mark.parametrize("command", [each for each in COMMANDS if each])
def test_help_explains_every_command_and_group(run: Run, command: str) -> None:
    assert run("help", *command.split()).text == run(*command.split(), "--help").text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("help key", "`kmsctl` has no command 'key'|did you mean keys?"),
        ("help keys nothing-like", "`kmsctl keys` has no command 'nothing-like'|it has list, show"),
        ("help status x", "`kmsctl status` has no commands of its own, got 'x'"),
        ("help keys -o json", "the help of a command is text, and has no format json"),
    ],
)
def test_help_for_what_there_is_not_is_2(run: Run, line: str, said: str) -> None:
    result = run(*line.split())
    assert (result.code, result.out) == (2, b"")
    for part in said.split("|"):
        assert part in result.err


@pytest.mark.parametrize("command", [each for each in COMMANDS if each])
def test_a_command_takes_the_formats_that_its_help_lists_and_no_other(run: Run, canned: Canned, command: str) -> None:
    found = re.search(r"-o, --output \[([a-z|]+)\]", run(*command.split(), "--help").text)
    if found is None:
        return
    for form in set(OutputFormat) - set(found[1].split("|")):
        refused = run(*command.split(), *_ARGUMENTS.get(command, ()), "-o", form)
        assert f"this command has no output format {form}" in refused.err, form
        assert ", ".join(found[1].split("|")) in refused.err


_ARGUMENTS = {
    **{f"keys {name}": ("k8s-kek",) for name in ("show", "test", "generate", "adopt", "destroy", "retire")},
    "keys relabel": ("k8s-kek", "other"),
    "keygen": ("k8s-kek",),
    "migrate plan": ("--command", "k8s-kms-plugin serve"),
    "help": ("exit-codes",),
    "encrypt": ("/dev/null",),
    "enrol": ("--server", "https://127.0.0.1:1", "--out", "/nowhere"),
    "enrol token": ("node-1", "--tenant", "cluster-a"),
    "enrol revoke-token": ("0123456789abcdef",),
    "enrol approve": ("0123456789abcdef",),
    "enrol deny": ("0123456789abcdef",),
    "ca import": ("/dev/null",),
    **{f"jwt {name}": ("sa-signer",) for name in ("show", "untrust", "retire")},
    **{f"jwt {name}": ("--pem", "/dev/null") for name in ("import", "trust")},
    "ca issue": ("/dev/null", "--node", "n", "--tenant", "t"),
}


def _stages(line: str) -> list[list[str]]:
    """The words of each command of a pipeline or list."""
    stages: list[list[str]] = [[]]
    for word in shlex.split(line):
        if word in ("|", "&&"):
            stages.append([])
        else:
            stages[-1].append(word)
    return stages


@dataclass
class Site:
    """A node as the examples take it for granted: kmsd with a few keys, files, an etcd that holds something."""

    kmsd: Kmsd
    etcd: Server
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        assert self.kmsd.token is not None
        environment = self.kmsd.token.environment
        return {
            **environment,
            "PATH": f"{PROGRAMS}:{environment['PATH']}",
            "KMSCTL_TARGET": str(self.kmsd.admin_socket),
            "KMSCTL_SOCKET": str(self.kmsd.socket),
            "ETCDCTL_ENDPOINTS": self.etcd.url,
        }

    def local(self, example: str) -> str:
        """With this site's addresses in the place of those in the examples."""
        return example.replace("https://127.0.0.1:2379", self.etcd.url).replace(
            "/run/cp-2.sock", str(self.kmsd.admin_socket)
        )


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("e")).start()
    server.put({"/registry/configmaps/default/plain": b"k8s\x00 not encrypted"})
    yield server
    server.stop()


def _start(tmp_path_factory: pytest.TempPathFactory, config: str = "") -> Kmsd:
    folder = tmp_path_factory.mktemp("k")
    (folder / "d").mkdir()
    token = make_token(folder / "hsm")
    config_file = folder / "kmsd.toml"
    shown = Authority(folder / "ca").issue("est", "DNS:localhost", server=True)
    config_file.write_text(
        f'[jwt]\nsocket = "{folder}/jwt.sock"\n'
        f'[est]\nlisten = "127.0.0.1:{free_port()}"\ntls_certificate = "{shown.certificate}"\n'
        f'tls_key = "{shown.key}"\n[[tenants]]\nname = "cluster-a"\nsan = ["DNS:*.a.test"]\nkey_label = "kek-a"\n'
        + config
    )
    kmsd = Kmsd(folder / "d", token, ("--auto-create", f"--config={config_file}"))
    try:
        return kmsd.start().wait_ok()
    except BaseException:
        kmsd.stop()
        raise


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    with _start(tmp_path_factory) as kmsd:
        yield kmsd


@pytest.fixture
def site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
    etcd: Server,
    command: str,
) -> Iterator[Site]:
    """For commands that change keys, with a kmsd of its own. This process stands there as a shell would."""
    with ExitStack() as own:
        if command.split(" ")[0] in ("keys", "keygen", "rotate"):
            kmsd = own.enter_context(_start(tmp_path_factory))
            _add_keys(kmsd, kmsd.soft, command)
        elif command.split(" ")[0] == "ca":
            kmsd = own.enter_context(_start(tmp_path_factory, _WITH_CA))
        else:
            kmsd = request.getfixturevalue("shared")
        made = Site(kmsd, etcd, tmp_path)
        monkeypatch.chdir(tmp_path)
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        _furnish(made, run)
        if command.split(" ")[0] in ("enrol", "store"):
            _fill_store(kmsd)
        if command.split(" ")[0] == "ca" and command != "ca init":
            _make_ca(made, run)
        if command.split(" ")[0] in ("jwt", "doctor"):
            _make_token_keys(made, run)
        if command == "jwt import":
            assert run("jwt", "retire", "sa-signer.pending").code == 0
        if command == "rotate":
            own.enter_context(_kube_apiserver(tmp_path / "admin.conf"))
        yield made


@contextlib.contextmanager
def _kube_apiserver(kubeconfig: Path) -> Iterator[None]:
    """Serve a kube-apiserver without any resource, as `kubectl proxy` would on this machine."""

    class Groups(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"kind": "APIGroupList", "groups": []}')

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Groups) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kubeconfig.write_text(
            "kind: Config\ncurrent-context: here\n"
            "contexts: [{name: here, context: {cluster: here}}]\n"
            f"clusters: [{{name: here, cluster: {{server: 'http://127.0.0.1:{server.server_port}'}}}}]\n"
        )
        yield
        server.shutdown()


_WITH_CA = "[ca]\nenabled = true\n"


def _make_ca(site: Site, run: Run) -> None:
    """A CA, its certificate where one above would put it, a request, and two nodes with certificates."""
    assert run("ca", "init").code == 0
    chain = run("ca", "show", "--pem").out
    for name in ("nodes-ca.crt", "root.crt", "nodes-ca-chain.pem"):
        (site.folder / name).write_bytes(chain)
    for node in ("node-1", "node-2"):
        (site.folder / f"{node}.csr").write_bytes(software.csr().public_bytes(Encoding.PEM))
        assert run("ca", "issue", f"{node}.csr", "--node", node, "--tenant", "cluster-a").code == 0
    (site.folder / "node-1.csr").write_bytes(software.csr().public_bytes(Encoding.PEM))


def _make_token_keys(site: Site, run: Run) -> None:
    """A key that signs service account tokens, another that is to sign next, and the files of a third."""
    assert run("keygen", "sa-signer", "--purpose", "jwt", "--if-not-exists").code == 0
    wait_for(lambda: site.kmsd.admin("GetJwt").state == "ready")
    site.kmsd.admin("PublishJwtKey", pb.PublishJwtKeyRequest())
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (site.folder / "sa.key").write_bytes(pem)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (site.folder / "sa.pub").write_bytes(public)


def _add_keys(kmsd: Kmsd, token: SoftToken, command: str) -> None:
    match command:
        case "keys adopt":
            token.import_aes("found-key", bytes(32), None)
            token.import_aes("other-key", bytes(range(32)), None)
            wait_for(lambda: len(kmsd.admin("ListKeys").keys) == 3)
        case "keys destroy" | "keys relabel" | "keys retire":
            kmsd.keygen("spare-kek")
            if command != "keys relabel":
                kmsd.keygen("old-kek")
        case "keys revert":
            kmsd.admin("RotateKey", pb.RotateKeyRequest())


def _fill_store(kmsd: Kmsd) -> None:
    """Have the store hold what the examples of enrolment name."""
    store = Store("", kmsd.folder / "state")
    token_id, now = "0123456789abcdef", int(time.time())
    with contextlib.suppress(AlreadyExists):
        store.tokens.add(EnrolmentToken(token_id, b"", b"", "node-1", "cluster-a", now + 600, 1, 1, "a test", now))
    with store._database.writing() as session:
        session.execute(delete(RequestRow))
    csr = software.csr(cn="node-1").public_bytes(Encoding.DER)
    store.requests.ask(EnrolmentRequest(token_id, token_id * 4, csr, "CN=node-1", "", "::1", now, now + 600))
    store.close()


def _furnish(site: Site, run: Run) -> None:
    writes = site.kmsd.v2("Status").key_id
    site.etcd.put({"/registry/secrets/default/kept": values.v2(writes, values.native(writes))})
    (site.folder / "seed.bin").write_bytes(bytes(range(32)))
    for name, source in PLUGINS.items():
        shutil.copy(Path(__file__).parent / "plugins" / source, site.folder / name)
    shutil.copy(Path(__file__).parents[1] / "vectors" / "kube-apiserver.yaml", site.folder)
    made = run("k8s", "manifest", "encryption-config", "--socket", str(site.kmsd.socket))
    (site.folder / "kmsd-v2.yaml").write_bytes(made.out)
    for name in ("hello.jwe", "seed.jwe"):
        made = run("encrypt", "seed.bin", "--out", name)
        assert made.code == 0, made.err


def _sh(site: Site, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", site.local(line)],
        cwd=site.folder,
        env=site.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _endless(example: str) -> bool:
    words = example.split()
    return "|" not in words and bool({"--watch", "--follow", "-f"} & set(words))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_works_when_it_is_pasted(run: Run, site: Site, command: str) -> None:
    for example in examples(run, command):
        if example == "kmsctl tui" or "enrol --server" in example:
            continue  # the next test's, and tests/enrol's
        if command == "ca init":
            run("keys", "destroy", "kmsd-ca", "--confirm", "kmsd-ca", "--yes")  # that of the example before
        if _endless(example):
            _watch(site, example)
            continue
        if example.startswith("kmsctl ") and not _SHELL.search(example):
            here = run(*shlex.split(site.local(example))[1:])
            assert here.code == 0, (example, here.out, here.err)
            assert "Traceback" not in here.err
            continue
        done = _sh(site, example)
        assert done.returncode == 0, (example, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr


_SHELL = re.compile(r"[|&;<>$`*?()]")
"""What a shell has to do with; all else needs no process of its own."""


def _watch(site: Site, example: str) -> None:
    """Until something is shown; then as with Ctrl-C."""
    watching = subprocess.Popen(
        ["sh", "-c", f"exec {site.local(example)}"],
        cwd=site.folder,
        env=site.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert watching.stdout is not None
        assert watching.stdout.read(1), example
        time.sleep(0.1)
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=30)
    finally:
        watching.kill()
    assert (watching.returncode, b"Traceback" in err) == (130, False), (example, err)


def test_the_tui_is_run_on_the_same_kmsd(shared: Kmsd, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal("kmsctl", "tui", KMSCTL_TARGET=str(shared.admin_socket))
    terminal.shows("Write key", "k8s-kek")
    terminal.press("q")
    assert terminal.exit_code() == 0


def test_the_tui_gets_the_target_that_was_typed(shared: Kmsd, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal("kmsctl", "--target", str(shared.admin_socket), "tui")
    terminal.shows("Write key", "k8s-kek")
    terminal.press("q")
    assert terminal.exit_code() == 0


def test_the_tui_says_that_it_needs_a_terminal(run: Run, spawn: Run) -> None:
    result = spawn("tui")
    assert result.code == 2
    assert "kmstui needs a terminal" in result.err


def test_h_is_help(run: Run) -> None:
    assert run("keygen", "-h").out == run("keygen", "--help").out


def test_keys_generate_is_keygen(run: Run) -> None:
    one, other = run("keygen", "--help").text, run("keys", "generate", "--help").text
    assert other.replace("keys generate", "keygen") == one


def test_a_missing_command_shows_help_on_stderr(run: Run) -> None:
    for argv in ([], ["keys"], ["audit"], ["config"], ["etcd"], ["migrate"], ["k8s"], ["k8s", "manifest"]):
        result = run(*argv)
        assert (result.code, result.out) == (2, b"")
        assert "Examples:" in result.err


def test_help_alone_is_the_help_of_kmsctl(run: Run) -> None:
    result = run("help")
    assert result.code == 0
    assert result.text.splitlines()[0] == "Usage: kmsctl [OPTIONS] COMMAND [ARGS]..."


def test_exit_codes_lists_them_all(run: Run) -> None:
    lines = run("help", "exit-codes").text.splitlines()[1:]
    assert [int(line.split()[0]) for line in lines] == [code.value for code in ExitCode]
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 5, 6, 7, 130]


def test_version_option(run: Run) -> None:
    result = run("--version")
    assert (result.code, result.out) == (0, b"kmsctl 0.1.0\n")


def test_the_server_version_is_missing_without_failure(run: Run) -> None:
    result = run("version")
    assert result.code == 0
    assert result.text == "kmsctl   0.1.0\nkmsd     -\n"
    assert "there is no socket DIR/admin.sock" in result.err
