"""kmsctl migrate plan: what it reads out of set-ups, and what kmsd and kube-apiserver make of its answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes.encryption_rules import API_VERSION, KIND
from kmsctl.migrate import encryption_config, k8s_kms_plugin, migration, setups
from kmsctl.migrate.k8s_kms_plugin import K8sKmsPlugin
from tests.ctl.conftest import Run
from tests.e2e.encryption_config import ConfigError, Kms, providers_of_secrets

PLUGINS = Path(__file__).parent / "plugins"
PIN = "Sesam-7431"
"""In all of the files and commands here, and in nothing that is printed."""
SETUPS = ("sample.yaml", "static-pod.yaml", "luna.yaml", "tpm.service", "credential.service")
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
COMMAND = f"k8s-kms-plugin serve --p11-lib {MODULE} --p11-label mylabel --p11-key-label aes0"


def read(setup: setups.Setup) -> K8sKmsPlugin:
    return k8s_kms_plugin.read(setup.arguments, setup.environment, setup.elsewhere)


def command(text: str) -> K8sKmsPlugin:
    return read(setups.from_command(text))


def file(name: str) -> K8sKmsPlugin:
    return read(setups.parse((PLUGINS / name).read_text()))


def planned(run: Run, *argv: str, stdin: bytes = b"") -> dict[str, Any]:
    result = run("migrate", "plan", *argv, "-o", "json", stdin=stdin)
    assert result.code == 0, result.err
    assert PIN not in result.text + result.err
    document: dict[str, Any] = json.loads(result.out)
    return document


def test_the_sample_of_the_plugin_is_read_with_its_defaults() -> None:
    assert file("sample.yaml") == K8sKmsPlugin(
        module=MODULE,
        token_label="default",
        pin_given=True,
        key_label="k8s-dek",
        algorithm="aes-gcm",
        socket="/tmp/run/hsm-plugin-server.sock",
    )


def test_a_static_pod_is_read_with_its_variables_in_place() -> None:
    assert file("static-pod.yaml") == K8sKmsPlugin(
        module=MODULE,
        token_label="prod",
        slot=None,  # the label wins, unlike in kmsd
        pin_given=True,
        key_label="prod-kek",
        socket="/var/run/kms/plugin.sock",
        auto_create=True,
        left_out=("output",),
    )


def test_a_script_in_a_template_is_read() -> None:
    assert file("luna.yaml") == K8sKmsPlugin(
        module="/usr/safenet/lunaclient/libs/64/libCryptoki2.so",
        provider="luna",
        slot=0,
        pin_file="/run/secrets/hsm/pin",
        key_label="k8s kek",
        socket="/run/kms/kms.sock",
        port="31401",
        tls_ca="/certs/ca.crt",
    )


def test_a_unit_is_read_with_continuations_specifiers_and_quotes() -> None:
    assert file("tpm.service") == K8sKmsPlugin(
        module="/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
        token_label="node tpm",
        pin_given=True,
        key_label="cbc0",
        hmac_label="hmac0",
        algorithm="aes-cbc",
        socket="/run/kms/plugin.sock",
    )
    assert file("credential.service").pin_file == "hsm-pin"  # which kmsd looks for in $CREDENTIALS_DIRECTORY


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (COMMAND, K8sKmsPlugin(MODULE, token_label="mylabel", key_label="aes0")),
        (f"k8s-kms-plugin --p11-lib {MODULE} serve", K8sKmsPlugin(MODULE, slot=0)),
        (
            f"./k8s-kms-plugin serve -p .keys --p11-lib={MODULE}",
            K8sKmsPlugin(MODULE, slot=0, left_out=("native-path",)),
        ),
        (f"P11_LIB={MODULE} P11_SLOT=7 k8s-kms-plugin serve --p11-slot 3 --p11-lib /x", K8sKmsPlugin(MODULE, slot=7)),
        (f"P11_TOKEN= k8s-kms-plugin serve --p11-lib {MODULE} --p11-label a", K8sKmsPlugin(MODULE, token_label="a")),
        (f"export P11_LIB={MODULE}; sudo -E k8s-kms-plugin serve > log 2>&1", K8sKmsPlugin(MODULE, slot=0)),
        (f"M={MODULE}\nk8s-kms-plugin serve \\\n  --p11-lib $M\nsleep 2s", K8sKmsPlugin(MODULE, slot=0)),
        (
            f"docker run -e P11_LIB={MODULE} --env=P11_TOKEN=t -v /run:/run thales/k8s-kms-plugin:1.2 serve",
            K8sKmsPlugin(MODULE, token_label="t"),
        ),
        (f"{COMMAND} --p11-key-label last", K8sKmsPlugin(MODULE, token_label="mylabel", key_label="last")),
        (f"{COMMAND} --p11-pin {PIN}", K8sKmsPlugin(MODULE, token_label="mylabel", key_label="aes0", pin_given=True)),
        (f"{COMMAND} --disable-socket", K8sKmsPlugin(MODULE, token_label="mylabel", key_label="aes0", socket="")),
        (
            f'{COMMAND} --socket "/run/$(id -u)/a"',
            K8sKmsPlugin(MODULE, token_label="mylabel", key_label="aes0", socket=""),
        ),
        (f"{COMMAND} --enable-server=false", K8sKmsPlugin(MODULE, token_label="mylabel", key_label="aes0")),
    ],
)
def test_a_command_is_read_as_the_plugin_and_the_shell_do(text: str, found: K8sKmsPlugin) -> None:
    assert command(text) == found


BAD_COMMANDS = {
    "": "give either a FILE or --command",
    "kube-apiserver --v=2": "does not run k8s-kms-plugin",
    "k8s-kms-plugin serve --p11-label 'x": "a quote in the command has no end",
    f"{COMMAND} --p11-pn={PIN}": "k8s-kms-plugin has no flag --p11-pn",
    f"{COMMAND} -P{PIN}": "k8s-kms-plugin has no flag -P",
    f"{COMMAND} {PIN}": "a word of the command is neither a flag of k8s-kms-plugin nor the value of one",
    f"{COMMAND} --p11-pin": "--p11-pin has no value",
    f"{COMMAND} --auto-create=maybe": "--auto-create must be true or false, got 'maybe'",
    f"{COMMAND} --algorithm rsa": "k8s-kms-plugin has no --algorithm rsa",
    f"{COMMAND} --provider ekms": "the keys of --provider ekms are on no PKCS#11 token",
    f"{COMMAND} --p11-label $TOKEN": "what --p11-label is cannot be seen here",
    f"k8s-kms-plugin serve --p11-lib {MODULE} --p11-slot four": "--p11-slot, P11_SLOT) must be a number, got 'four'",
    "k8s-kms-plugin serve --p11-label x": "no PKCS#11 module is named",
    "k8s-kms-plugin test --loop=true": "k8s-kms-plugin has no flag --loop",
    "k8s-kms-plugin generate-kek": "`k8s-kms-plugin generate-kek` serves no kube-apiserver",
}


@pytest.mark.parametrize("text", BAD_COMMANDS)
def test_a_command_that_makes_no_sense_is_refused_in_one_line(run: Run, text: str) -> None:
    result = run("migrate", "plan", "--command", text)
    assert (result.code, result.out) == (2, b"")
    first, *rest = result.err.splitlines()
    assert first.startswith("kmsctl: error: ")
    assert BAD_COMMANDS[text] in first
    assert [line[:6] for line in rest] == ["hint: "]
    assert PIN not in result.err


BAD_FILES = {
    b"": "neither a pod manifest nor a unit",
    b"\xff\xfe\x00": "is not text in UTF-8",
    b"just words": "neither a pod manifest nor a unit",
    b"- a\n- b": "neither a pod manifest nor a unit",
    b"kind: Pod\nspec: {containers: [{name: a, image: nginx}]}": "no container in the manifest runs k8s-kms-plugin",
    b"kind: Pod\nspec:\n  containers:\n   - env: [{name: P11_PIN, value: *Sesam-7431}]": "not YAML, line 4, column 35",
    b"kind: Pod\n\tspec: Sesam-7431": "not YAML, line 2, column 1",
    b"[" * 5000: "not YAML",
    b"a: \x07": "not YAML",
    b"[Unit]\nDescription=x": "no ExecStart of the unit runs k8s-kms-plugin",
    b"[Service]\nExecStart=/bin/k8s-kms-plugin serve 'Sesam-7431": "a quote in the unit has no end",
    b"[Service]\nEnvironmentFile=/x\nExecStart=/bin/k8s-kms-plugin serve": "no PKCS#11 module is named",
    b"[Service]\nExecStart=/bin/k8s-kms-plugin serve --p11-lib ${LIB}": "what --p11-lib is cannot be seen here",
    b"x" * (1 << 20) + b"y": "holds more than",
}


@pytest.mark.parametrize("data", BAD_FILES, ids=lambda data: BAD_FILES[data])
def test_a_file_that_makes_no_sense_is_refused_in_one_line(run: Run, data: bytes) -> None:
    result = run("migrate", "plan", "-", stdin=data)
    assert (result.code, result.out) == (2, b"")
    errors = [line for line in result.err.splitlines() if line.startswith("kmsctl: error: ")]
    assert len(errors) == 1
    assert BAD_FILES[data] in errors[0]
    assert PIN not in result.err
    assert len(result.err) < 500


def test_two_plugins_are_planned_one_by_one(run: Run) -> None:
    twice = (PLUGINS / "static-pod.yaml").read_text() + "\n---\n" + (PLUGINS / "luna.yaml").read_text()
    result = run("migrate", "plan", "-", stdin=twice.encode())
    assert result.code == 2
    assert "2 containers run k8s-kms-plugin: kms-plugin/kms, kms-luna/plugin" in result.err


def test_a_list_of_manifests_is_looked_through(run: Run) -> None:
    items = list(yaml.safe_load_all((PLUGINS / "luna.yaml").read_text()))
    listed = json.dumps({"kind": "List", "items": items}).encode()
    assert planned(run, "-", stdin=listed)["found"]["provider"] == "luna"


@pytest.mark.parametrize("usage", [["x", "--command", COMMAND], ["/nonexistent"], ["--command", COMMAND, "-o", "wide"]])
def test_wrong_usage_is_refused(run: Run, usage: list[str]) -> None:
    result = run("migrate", "plan", *usage)
    assert (result.code, result.out) == (2, b"")


@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_a_plan_reads_the_same_forever(run: Run, snapshot: SnapshotAssertion, name: str, form: str) -> None:
    given = ["--encryption-config", str(PLUGINS / "encryption-config.yaml")] if name != "sample.yaml" else []
    result = run("migrate", "plan", str(PLUGINS / name), *given, "-o", form)
    assert result.code == 0
    assert PIN not in result.text
    assert (result.text, result.err) == snapshot


def test_json_and_yaml_say_the_same(run: Run) -> None:
    name = str(PLUGINS / "tpm.service")
    assert planned(run, name) == yaml.safe_load(run("migrate", "plan", name, "-o", "yaml").out)


@pytest.mark.parametrize("name", SETUPS)
def test_kmsd_takes_the_configuration_and_finds_in_it_what_the_plugin_has(run: Run, tmp_path: Path, name: str) -> None:
    result = run("migrate", "plan", str(PLUGINS / name), "--only", "config")
    path = tmp_path / "kmsd.toml"
    path.write_bytes(result.out)
    program = f"from kmsd.cli import main; main(['check-config', '--config', {str(path)!r}])"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("KMSD_", "P11_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = file(name)
    label = "k8s-kek" if found.cbc else found.key_label
    assert f'keys.label = "{label}"' in done.stdout
    document = tomllib.loads(path.read_text())
    assert document["token"]["module"] == found.module
    assert document["keys"]["algorithm"] == ("auto" if found.cbc else found.algorithm)
    assert ("legacy" in document) == found.cbc
    assert "pin" not in document["token"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_label_survives_in_the_configuration(label: str) -> None:
    text = migration.config_text(K8sKmsPlugin(MODULE, key_label=label))
    assert tomllib.loads(text)["keys"]["label"] == label
    assert all(each.isprintable() or each == "\n" for each in text)


def test_aes_cbc_comes_with_its_warning_and_without_a_write_format(run: Run) -> None:
    made = planned(run, str(PLUGINS / "tpm.service"))
    assert tomllib.loads(made["config"])["legacy"] == {"allow_unauthenticated": True, "key": "cbc0"}
    assert any("authenticates nothing" in note for note in made["notes"])
    assert "write_format" not in json.dumps(made)
    assert made["environment"] == {
        "TPM2_PKCS11_STORE": "/var/lib/kms/tpm2",
        "TPM2_PKCS11_TCTI": "device:/dev/tpmrm0",
    }


CBC_COMMAND = f"{COMMAND} --algorithm aes-cbc"


def test_a_key_that_reads_what_nothing_protects_never_writes(run: Run) -> None:
    made = planned(run, str(PLUGINS / "tpm.service"))
    config = tomllib.loads(made["config"])
    assert config["keys"] == {"label": "k8s-kek", "hmac_label": "hmac0", "algorithm": "auto"}
    titles = [step["title"] for step in made["steps"]]
    making = titles.index("Make the key that kmsd writes with, 'k8s-kek'")
    assert making < titles.index("Let every kube-apiserver read what kmsd will write")
    assert "kmsctl keygen k8s-kek --if-not-exists --type pair" in made["steps"][making]["commands"]
    assert any("kmsd writes with a new key, 'k8s-kek', from the beginning" in note for note in made["notes"])
    other = planned(run, "--command", CBC_COMMAND)
    (keygen,) = [each for step in other["steps"] for each in step["commands"] if "keygen" in each]
    assert keygen.startswith(
        "kmsctl keygen k8s-kek --if-not-exists   # with --type pair where the token has no AES-GCM"
    )


@pytest.mark.parametrize(
    ("key", "hmac", "new"),
    [
        ("k8s-kek", "k8s-hmac", "kmsd-kek"),
        ("aes0", "k8s-kek.hmac", "kmsd-kek"),
        ("kmsd-kek", "k8s-kek", "kmsd-kek-2"),
        ("aes0", "hmac0", "k8s-kek"),
    ],
)
def test_the_new_key_has_a_label_that_none_of_the_plugins_has(run: Run, key: str, hmac: str, new: str) -> None:
    made = planned(run, "--command", f"{CBC_COMMAND} --p11-key-label {key} --p11-hmac-label {hmac}")
    config = tomllib.loads(made["config"])
    assert (config["keys"]["label"], config["legacy"]["key"]) == (new, key)
    assert any(f"keygen {new} " in each for step in made["steps"] for each in step["commands"])


def test_aes_gcm_goes_back_by_the_plugins_own_format(run: Run) -> None:
    made = planned(run, str(PLUGINS / "static-pod.yaml"))
    assert 'write_format = "k8s-kms-plugin"' in made["way_back"][0]["text"]
    assert "legacy" not in made["config"]


SERVER = f"{COMMAND} --enable-server --host 10.0.0.5 --port 31400 --tls-certificate /certs/tls.crt"


def test_callers_by_tcp_become_a_tenant_with_certificates_in_an_order_that_leaves_none_without(run: Run) -> None:
    made = planned(run, "--command", SERVER)
    config = tomllib.loads(made["config"])
    assert config["server"] == {
        "enabled": True,
        "host": "10.0.0.5",
        "port": 31401,  # k8s-kms-plugin has the other one until it goes
        "tls_ca": "/etc/kmsd/tls/ca.crt",
        "tls_certificate": "/certs/tls.crt",
        "tls_key": "/etc/kmsd/tls/tls.key",
    }
    (tenant,) = config["tenants"]
    assert tenant["key_label"] == config["keys"]["label"] == "aes0"
    titles = [step["title"].partition(" ")[0] + " " + step["title"].rpartition(" ")[2] for step in made["steps"]]
    order = ("Issue TCP", "Start node", "Start TCP", "Let write", "See left", "Close 31400", "Retire k8s-kms-plugin")
    places = [titles.index(each) for each in order]
    assert places == sorted(places)
    assert "Give the nodes their old way again" in [step["title"] for step in made["way_back"]]
    assert made["found"]["tcp_port"] == "31400"
    assert not any("left out" in note for note in made["notes"])
    assert any("without TLS" in note for note in made["notes"])


def test_what_is_said_of_tcp_is_left_out_where_nobody_listens(run: Run) -> None:
    made = planned(run, "--command", SERVER.replace("--enable-server", "--enable-server=false"))
    assert not {"server", "tenants"} & tomllib.loads(made["config"]).keys()
    assert any("--host, --port, --tls-certificate: left out" in note for note in made["notes"])
    assert made["found"]["tcp_port"] is None


def test_nothing_that_nobody_protects_is_promised_to_callers_by_tcp(run: Run) -> None:
    made = planned(run, "--command", f"{SERVER} --algorithm aes-cbc")
    assert any("never for a tenant" in note for note in made["notes"])


def test_a_pin_on_the_command_line_is_warned_about(run: Run) -> None:
    result = run("migrate", "plan", "--command", f"{COMMAND} --p11-pin {PIN}")
    assert result.code == 0
    assert "warning: the PIN is in this command line" in result.err
    assert PIN not in result.text + result.err


def with_config(run: Run, plugin: str, config: str) -> dict[str, Any]:
    return planned(run, str(PLUGINS / plugin), "--encryption-config", str(PLUGINS / config))


def test_kube_apiserver_takes_both_files_and_the_old_provider_keeps_its_name(run: Run) -> None:
    made = with_config(run, "luna.yaml", "encryption-config.yaml")["encryption_config"]
    old, new = "thales kms provider", "/run/kmsd/kms.sock"
    reading = [each for each in providers_of_secrets(made["reading"]) if isinstance(each, Kms)]
    writing = [each for each in providers_of_secrets(made["writing"]) if isinstance(each, Kms)]
    assert [(each.name, each.api, str(each.socket)) for each in reading] == [
        (old, "v1", "/run/kms/kms.sock"),
        ("kmsd", "v2", new),
    ]
    assert [(each.name, each.api, str(each.socket)) for each in writing] == [("kmsd", "v2", new), (old, "v1", new)]
    assert [(each.timeout, each.cache_size) for each in writing[1:]] == [(10.0, 100)]


def test_keys_of_other_providers_are_withheld_and_names_stay_unique(run: Run) -> None:
    made = with_config(run, "static-pod.yaml", "encryption-config-mixed.yaml")
    assert "U2VzYW0" not in json.dumps(made)
    reading, writing = made["encryption_config"]["reading"], made["encryption_config"]["writing"]
    assert reading["resources"][0]["providers"][0] == {
        "aescbc": {"keys": [{"name": "key1", "secret": encryption_config.WITHHELD}]}
    }
    names = [[next(iter(each.values())).get("name") for each in rule["providers"]] for rule in writing["resources"]]
    assert names == [["kmsd-2", None, "kmsd", None], ["kmsd-3", "kmsd"], [None, "elsewhere"]]
    assert [next(iter(each)) for each in reading["resources"][0]["providers"]] == ["aescbc", "kms", "kms", "identity"]
    commands = [each for step in made["steps"] for each in step["commands"] if "replace" in each]
    assert [each.split()[2] for each in commands] == ["secrets", "configmaps"]
    assert any("not repeated" in note for note in made["notes"])


def test_without_kube_apiservers_file_its_provider_is_filled_in_by_hand(run: Run) -> None:
    made = planned(run, str(PLUGINS / "sample.yaml"))
    assert made["found"]["kms_provider"] is None
    with pytest.raises(ConfigError):  # rather than a file with which nothing old can be read
        providers_of_secrets(made["encryption_config"]["writing"])


OURS = b"apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
BAD_CONFIGS = {
    b"kind: Pod": "no EncryptionConfiguration",
    b"": "no EncryptionConfiguration",
    b"kind: EncryptionConfiguration": "no EncryptionConfiguration of apiserver.config.k8s.io/v1",
    OURS: "resources of the EncryptionConfiguration must be a list of",
    OURS + b"resources: [{resources: [a], providers: [x]}]": "rules at most, each with resources and providers",
    OURS + b"resources: [{resources: [a], providers: [{identity: {}}]}]": "no KMS provider",
    OURS + b"resources: [{resources: [a], providers: [{kms: {name: a, endpoint: x}}, "
    b"{kms: {name: b, endpoint: y}}]}]": "several KMS providers (a, b)",
    b"a: *Sesam-7431": "not YAML, line 1",
}


@pytest.mark.parametrize("data", BAD_CONFIGS, ids=lambda data: BAD_CONFIGS[data])
def test_a_wrong_encryption_configuration_is_refused_in_one_line(run: Run, data: bytes) -> None:
    result = run("migrate", "plan", "--command", COMMAND, "--encryption-config", "-", stdin=data)
    assert (result.code, result.out) == (2, b"")
    assert BAD_CONFIGS[data] in result.err.splitlines()[0]
    assert PIN not in result.err


def test_only_one_part_can_be_written_to_a_file(run: Run) -> None:
    writing = run("migrate", "plan", "--command", COMMAND, "--only", "writing")
    reading = run("migrate", "plan", "--command", COMMAND, "--only", "reading")
    made = planned(run, "--command", COMMAND)
    assert yaml.safe_load(writing.out) == made["encryption_config"]["writing"]
    assert yaml.safe_load(reading.out) == made["encryption_config"]["reading"]
    assert run("migrate", "plan", "--command", COMMAND, "--only", "config", "-o", "json").code == 2


@given(st.text(max_size=300))
def test_whatever_is_read_the_answer_is_a_plan_or_a_refusal(text: str) -> None:
    for maker in (setups.parse, setups.from_command, lambda each: setups.from_command(f"k8s-kms-plugin {each}")):
        refused: UsageError | None = None
        try:
            found = maker(text)
            k8s_kms_plugin.read(found.arguments, found.environment, found.elsewhere)
        except UsageError as error:
            refused = error
        assert refused is None or "\n" not in refused.message


KEYSEALER = """[Unit]
Description=KMS plugin
[Service]
Environment=K8S_KMS_PLUGIN_SERVE_P11_LIB=/usr/lib64/libsofthsm2.so K8S_KMS_PLUGIN_SERVE_SOCKET=/run/kms/kms.sock
Environment=K8S_KMS_PLUGIN_SERVE_P11_PIN=Sesam-7431 K8S_KMS_PLUGIN_SERVE_P11_LABEL=loses
ExecStart=/usr/bin/k8s-kms-plugin --log-format json serve --p11-label prod --p11-key-id d73f --algorithm-family aes-cbc
"""
DOCKER = """[Service]
Environment=P11_LIB=/of/docker.so
ExecStartPre=-/usr/bin/docker rm -f k8s-kms-plugin
ExecStart=/usr/bin/docker run --rm --name k8s-kms-plugin --network host \\
  -e P11_LIB=/usr/lib/softhsm/libsofthsm2.so -e P11_TOKEN=prod -e P11_PIN_FILE=/pin --env-file /etc/kms.env \\
  -v /srv/kms:/run/kms registry.example/k8s-kms-plugin:2023.1 serve --socket /run/kms/kms.sock --p11-key-label kek
"""
ON_A_SOCKET = f"{COMMAND} --socket /run/kms/kms.sock"


def test_the_successors_variables_and_flags_are_read_as_it_reads_them() -> None:
    found = read(setups.parse(KEYSEALER.replace("--p11-key-id", "--p11-key-label=kek --p11-key-id")))
    assert (found.module, found.socket, found.pin_given) == ("/usr/lib64/libsofthsm2.so", "/run/kms/kms.sock", True)
    assert (found.token_label, found.key_label, found.algorithm) == ("prod", "kek", "aes-cbc")
    assert found.left_out == ("log-format", "p11-key-id")


def test_a_key_that_is_named_by_its_id_alone_is_refused_with_what_to_add(run: Run) -> None:
    result = run("migrate", "plan", "-", stdin=KEYSEALER.encode())
    assert (result.code, result.out) == (2, b"")
    assert "--p11-key-id" in result.err
    assert "add --p11-key-label" in result.err
    assert PIN not in result.err


def test_a_container_that_a_unit_runs_is_read_with_what_is_passed_into_it() -> None:
    setup = setups.parse(DOCKER)
    found = read(setup)
    assert (found.module, found.token_label, found.key_label) == (MODULE, "prod", "kek")
    assert (found.socket, found.pin_file) == ("/run/kms/kms.sock", "/pin")
    assert (setup.elsewhere, setup.mounts) == ("--env-file", (("/run/kms", "/srv/kms"),))
    assert read(setups.from_command(DOCKER.split("ExecStart=")[1])).token_label == "prod"


def kms(name: str, resource: str, *, more: str = "", endpoint: str = "unix:///run/kms/kms.sock") -> str:
    return (
        f"- resources: [{resource}]\n  providers:\n"
        f"  - kms: {{name: {name}, endpoint: '{endpoint}', timeout: 3s{more}}}\n  - identity: {{}}\n"
    )


HEAD = "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n"
SHARED = (
    f"{HEAD}- resources: [secrets]\n  providers: &p\n  - kms: {{name: a, endpoint: 'unix:///run/kms/kms.sock'}}\n"
    "  - identity: {}\n- resources: [configmaps]\n  providers: *p\n"
)
TABS = json.dumps(yaml.safe_load(HEAD + kms("a", "secrets")), indent="\t")
LEGACY = HEAD.replace("EncryptionConfiguration", "EncryptionConfig").replace("apiserver.config.k8s.io/", "")
PLANNED = {
    "a provider of v2": (HEAD + kms("a", "secrets", more=", apiVersion: v2"), "a", 1),
    "the kind of before 1.13": (LEGACY + kms("a", "secrets"), "a", 1),
    "two names on one socket": (HEAD + kms("a", "secrets") + kms("b", "configmaps"), "a, b", 2),
    "another name elsewhere": (HEAD + kms("a", "secrets") + kms("b", "pods", endpoint="unix:///other"), "a", 1),
    "an alias": (SHARED, "a", 2),
    "JSON with tabs": (TABS, "a", 1),
    "one slash more": (HEAD + kms("a", "secrets", endpoint="unix:////run/kms/kms.sock"), "a", 1),
}


@pytest.mark.parametrize("form", PLANNED)
def test_what_kube_apiserver_takes_is_planned_for_and_what_comes_out_it_takes_too(
    run: Run, form: str, tmp_path: Path
) -> None:
    text, names, rules = PLANNED[form]
    (tmp_path / "ec.yaml").write_text(text)
    given = ("--command", ON_A_SOCKET, "--encryption-config", str(tmp_path / "ec.yaml"))
    plan = planned(run, *given)
    assert plan["found"]["kms_provider"] == names
    for part, first in (("reading", "a"), ("writing", "kmsd")):
        document = plan["encryption_config"][part]
        assert (document["kind"], document["apiVersion"]) == (KIND, API_VERSION)
        (tmp_path / "out.yaml").write_text(yaml.safe_dump(document))
        assert first in str(document["resources"][0]["providers"][0])
        every = [item["kms"] for rule in document["resources"] for item in rule["providers"] if "kms" in item]
        made = [each["name"] for each in every if each.get("apiVersion") == "v2"]
        assert len(set(made)) == len(made) >= rules
        assert "&" not in run("migrate", "plan", *given, "--only", part).text
    # Neither the way back nor the end speaks of v1 where there is none.
    assert ("KMSv1" in json.dumps(plan["steps"])) == (form != "a provider of v2")
    assert ("by KMS v1" in json.dumps(plan["way_back"])) == (form != "a provider of v2")


REFUSED = {
    "an empty first document": (f"# ours\n---\n---\n{HEAD}{kms('a', 'secrets')}", "first document"),
    "an empty provider": (HEAD + kms("a", "secrets").replace("identity: {}", "identity:"), "`identity: {}`"),
    "a name of v2 twice": (
        HEAD + kms("a", "secrets", more=", apiVersion: v2") + kms("a", "configmaps", more=", apiVersion: v2"),
        "names of v2 are unique",
    ),
    "no provider of KMS": (HEAD + "- resources: [secrets]\n  providers: [{identity: {}}]\n", "has no KMS provider"),
    "an alias in an alias in an alias": (
        "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))]),
        "must have 100000 values at most",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_kube_apiserver_refuses_is_refused_with_a_sentence_that_is_true(
    run: Run, form: str, tmp_path: Path
) -> None:
    text, words = REFUSED[form]
    (tmp_path / "ec.yaml").write_text(text)
    result = run("migrate", "plan", "--command", ON_A_SOCKET, "--encryption-config", str(tmp_path / "ec.yaml"))
    assert (result.code, result.out) == (2, b"")
    assert words in result.err
