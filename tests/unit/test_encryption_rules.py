"""EncryptionConfigurations are judged as kube-apiserver judges them.

The cases follow those of validation_encryption_test.go and config_test.go of k8s.io/apiserver.
"""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes import encryption_rules, yamltext
from kmsctl.kubernetes.encryption_rules import Provider
from tests.e2e.encryption_config import ConfigError, Kms, providers_of_secrets

K8S = Path(__file__).parents[2] / "k8s"
V2 = {"kms": {"apiVersion": "v2", "name": "kmsd", "endpoint": "unix:///run/kmsd/kms.sock"}}
V1 = {"kms": {"name": "old", "endpoint": "unix:///run/kmsd/kms.sock"}}
KEY = base64.b64encode(bytes(32)).decode()


def document(*rules: tuple[list[Any], list[Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": resources, "providers": providers} for resources, providers in rules],
    }


def kms(**changes: Any) -> dict[str, Any]:
    found = copy.deepcopy(V2)
    found["kms"] |= changes
    return found


def places(found: object, *, reload: bool = False) -> list[str]:
    return [each.where for each in encryption_rules.read(found, reload=reload).faults]


@pytest.mark.parametrize("path", sorted(K8S.glob("encryption-config/*.yaml")), ids=lambda path: path.name)
def test_what_ships_has_no_fault(path: Path) -> None:
    reading = encryption_rules.read(yaml.safe_load(path.read_text()))
    assert reading.faults == ()
    assert reading.kms
    before = {"/var/run/kms/plugin.sock"} if path.name == "from-k8s-kms-plugin-reading.yaml" else set()
    assert {each.socket for each in reading.kms} == {"/run/kmsd/kms.sock"} | before


@pytest.mark.parametrize(
    "rules",
    [
        [(["secrets"], [V2, {"identity": {}}])],
        [(["secrets"], [V1]), (["configmaps"], [V1])],  # names of v1 may occur again
        [(["secrets"], [kms(timeout="1m30s")])],
        [(["secrets"], [kms(timeout="1.5s")])],
        [(["secrets"], [{"kms": V1["kms"] | {"cachesize": -1}}])],
        [(["secrets"], [{"kms": V1["kms"] | {"name": "a:b"}}])],
        [(["secrets"], [{"aescbc": {"keys": [{"name": "k", "secret": KEY}]}}, {"identity": {}}])],
        [(["events"], [{"identity": {}}]), (["secrets", "pandas.awesome.bears.example"], [V2]), (["*.*"], [V1])],
        [(["*.", "*.apps"], [V2])],
    ],
)
def test_what_kube_apiserver_takes_has_no_fault(rules: list[tuple[list[Any], list[Any]]]) -> None:
    assert places(document(*rules)) == []


P0 = "resources[0].providers[0]"


@pytest.mark.parametrize(
    ("rules", "where"),
    [
        ([], "resources"),
        ([([], [V2])], "resources[0].resources"),
        ([(["secrets"], [])], "resources[0].providers"),
        ([(["secrets"], [{}])], P0),
        ([(["secrets"], [{"identity": None}])], P0),
        ([(["secrets"], [V2 | {"identity": {}}])], P0),
        ([(["secrets"], [{"aesgmc": {}}])], P0),
        ([(["secrets"], [{"identity": {"name": "x"}}])], f"{P0}.identity"),
        ([(["secrets"], [kms(name="")])], f"{P0}.kms.name"),
        ([(["secrets"], [kms(name="a:b")])], f"{P0}.kms.name"),
        ([(["secrets"], [V2]), (["configmaps"], [V2])], "resources[1].providers[0].kms.name"),
        (
            [(["secrets"], [V2, {"kms": V1["kms"] | {"name": "x"}}, kms(name="x")])],
            "resources[0].providers[2].kms.name",
        ),
        ([(["secrets"], [kms(apiVersion="v3")])], f"{P0}.kms.apiVersion"),
        ([(["secrets"], [kms(cachesize=1000)])], f"{P0}.kms.cachesize"),
        ([(["secrets"], [{"kms": V1["kms"] | {"cachesize": 0}}])], f"{P0}.kms.cachesize"),
        ([(["secrets"], [kms(timeout="0s")])], f"{P0}.kms.timeout"),
        ([(["secrets"], [kms(timeout="-3s")])], f"{P0}.kms.timeout"),
        ([(["secrets"], [kms(timeout=3)])], f"{P0}.kms.timeout"),
        ([(["secrets"], [kms(timeout="3")])], f"{P0}.kms.timeout"),
        ([(["secrets"], [kms(endpoint="")])], f"{P0}.kms.endpoint"),
        ([(["secrets"], [kms(endpoint="tcp://127.0.0.1:1")])], f"{P0}.kms.endpoint"),
        ([(["secrets"], [kms(endpoint="/run/kmsd/kms.sock")])], f"{P0}.kms.endpoint"),
        ([(["secrets"], [kms(cacheSize=1)])], f"{P0}.kms"),  # strict: names count as they are written
        ([(["secrets"], [{"aescbc": {"keys": []}}])], f"{P0}.aescbc.keys"),
        ([(["secrets"], [{"aescbc": {"keys": [{"name": "", "secret": KEY}]}}])], f"{P0}.aescbc.keys[0].name"),
        ([(["secrets"], [{"aesgcm": {"keys": [{"name": "k", "secret": "?"}]}}])], f"{P0}.aesgcm.keys[0].secret"),
        (
            [(["secrets"], [{"secretbox": {"keys": [{"name": "k", "secret": KEY[:24]}]}}])],
            f"{P0}.secretbox.keys[0].secret",
        ),
        ([(["Secrets"], [V2])], "resources[0].resources[0]"),
        ([(["*"], [V2])], "resources[0].resources[0]"),
        ([(["apiserveripinfo"], [V2])], "resources[0].resources[0]"),
        ([(["events.events.k8s.io"], [V2])], "resources[0].resources[0]"),
        ([(["deployments.extensions"], [V2])], "resources[0].resources[0]"),
        ([(["secrets.*"], [V2])], "resources[0].resources[0]"),
        ([(["secrets", "secrets"], [V2])], "resources[0].resources"),
        ([(["secrets", "*."], [V2])], "resources[0].resources"),
        ([(["*.*", "*.apps"], [V2])], "resources[0].resources"),
        ([(["*."], [V2]), (["secrets"], [V1])], "resources[1].resources"),
        ([(["*.*"], [V2]), (["*.apps"], [V1])], "resources[1].resources"),
    ],
)
def test_what_kube_apiserver_refuses_is_found_where_it_stands(
    rules: list[tuple[list[Any], list[Any]]], where: str
) -> None:
    reading = encryption_rules.read(document(*rules))
    assert [each.where for each in reading.faults] == [where]
    assert all(each.text and each.fix for each in reading.faults)
    assert KEY not in str(reading)


def test_names_of_v1_are_unique_where_the_file_is_read_anew() -> None:
    twice = document((["secrets"], [V1]), (["configmaps"], [V1]))
    assert places(twice, reload=True) == ["resources[1].providers[0].kms.name"]


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        "text",
        {},
        {"kind": "EncryptionConfiguration", "apiVersion": "v1"},
        {"kind": "Secret", "apiVersion": "v1"},
    ],
)
def test_what_is_no_configuration_is_said_to_be_none(found: object) -> None:
    assert places(found) == [""]


def test_unknown_fields_and_names_that_stand_twice_are_refused() -> None:
    assert places(document((["secrets"], [V2])) | {"metadata": {}}) == [""]
    with pytest.raises(UsageError, match=r"a name stands twice in one mapping, line 2"):
        yamltext.load("kind: a\nkind: b\n", "it", strict=True)


@pytest.mark.parametrize(
    ("endpoint", "socket"),
    [
        ("unix:///run/kmsd/kms.sock", "/run/kmsd/kms.sock"),
        ("unix:/run/kmsd/kms.sock", "/run/kmsd/kms.sock"),
        ("unix://run/kmsd/kms.sock", "/kmsd/kms.sock"),  # "run" is a host
        ("unix:///@kmsd", "@kmsd"),
    ],
)
def test_the_socket_is_what_kube_apiserver_dials(endpoint: str, socket: str) -> None:
    (provider,) = encryption_rules.read(document((["secrets"], [kms(endpoint=endpoint)]))).kms
    assert provider.socket == socket


def test_what_is_left_out_has_kube_apiservers_defaults() -> None:
    (provider,) = encryption_rules.read(document((["secrets"], [V1]))).kms
    assert (provider.api, provider.timeout, provider.prefix) == ("v1", 3.0, "k8s:enc:kms:v1:old:")


def test_the_rule_for_a_resource_goes_before_those_for_its_group_and_for_everything() -> None:
    rules = document((["secrets"], [V2]), (["*."], [V1]), (["*.*"], [{"identity": {}}]))
    reading = encryption_rules.read(rules)
    assert reading.faults == ()
    kinds = {name: [each.name or each.kind for each in reading.of(name)] for name in ("secrets", "pods", "jobs.batch")}
    assert kinds == {"secrets": ["kmsd"], "pods": ["old"], "jobs.batch": ["identity"]}


names: st.SearchStrategy[Any] = st.sampled_from(["kmsd", "old", "", "a:b"])
texts: st.SearchStrategy[Any] = st.sampled_from(
    ["3s", "0s", "3", "1m", "unix:///run/a.sock", "unix://", "tcp://a", "v1", "v2", "v3", ""]
)
values: st.SearchStrategy[Any] = st.one_of(names, texts, st.integers(-2, 5), st.none())
providers: st.SearchStrategy[Any] = st.one_of(
    st.just({"identity": {}}),
    st.fixed_dictionaries(
        {},
        optional={
            "kms": st.fixed_dictionaries(
                {"name": names, "endpoint": texts},
                optional={"apiVersion": texts, "timeout": texts, "cachesize": st.integers(-2, 2), "other": values},
            )
        },
    ),
)


@given(st.lists(st.lists(providers, max_size=3), min_size=1, max_size=3))
def test_it_agrees_with_the_tests_own_kube_apiserver(rules: list[list[Any]]) -> None:
    found = document(*(([name], each) for name, each in zip(("secrets", "configmaps", "pods"), rules, strict=False)))
    reading = encryption_rules.read(found)
    try:
        taken = providers_of_secrets(found)
    except ConfigError:
        return  # it knows less of names that occur twice, and is strict about an empty socket
    if not reading.faults:
        ours = [(each.name, each.api, each.timeout) for each in reading.rules[0].providers if each.kind == "kms"]
        assert ours == [(each.name, each.api, each.timeout) for each in taken if isinstance(each, Kms)]


@given(st.recursive(values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)))
def test_no_document_breaks_it(found: object) -> None:
    for each in (
        found,
        {"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": found},
    ):
        assert encryption_rules.read(each).faults
    whole = document((["secrets"], [{"kms": found}]))
    encryption_rules.read(whole)


def test_a_provider_that_two_rules_name_is_asked_once() -> None:
    reading = encryption_rules.read(document((["secrets"], [V1]), (["configmaps"], [V1])))
    assert reading.kms == (Provider("kms", "old", "v1", V1["kms"]["endpoint"], "/run/kmsd/kms.sock"),)
