"""Each alert fires for the fault that it is for, and no other does, by what a real kmsd told at /metrics meanwhile.

A fault is brought about, /metrics is read before, meanwhile and after, and promtool has the rules judge a history made
of these: what was told is taken to last. Time is moved, so that an hour, or ninety days, need not pass. One number
cannot be brought about, 2^30 encryptions, and is put into what was told.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.metrics.catalogue import METRICS
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import KMSD, Kmsd, wait_for
from tests.observe.scraping import fresh
from tests.remote.certificates import Authority
from tests.remote.conftest import free_port
from tests.rpc.vectors import CBC, K8S_KMS_PLUGIN_KEYS
from tests.tokens import make_token

MONITORING = Path(__file__).parents[2] / "k8s" / "monitoring"
RULES = MONITORING / "rules.yml"
JUDGED = frozenset(re.sub("_bucket$", "", name) for name in re.findall(r"\bkmsd_\w+", RULES.read_text()))
"""Names of metrics that a rule looks at."""
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
QUICK = {
    "KMSD_HEALTH__INTERVAL": "0.3",
    "KMSD_KMS__REQUEST_TIMEOUT": "3",
    "KMSD_KEYS__REFRESH": "0.5",
    "KMSD_TOKEN__SESSIONS": "1",
    "KMSD_TOKEN__QUEUE": "2",
}
BEGIN, END = 15, 75
"""Minutes from which a fault lasts, and from which it is over."""
Told = dict[str, float]
"""Values by series, as promtool writes them."""
TIMES = re.compile(r"^kmsd_(\w+_timestamp_seconds|certificate_\w+_seconds)\b")


@dataclass(frozen=True)
class Heard:
    """What /metrics told, and when (Unix seconds)."""

    series: Told
    at: float


@dataclass
class Scraped:
    """A kmsd whose /metrics is read."""

    kmsd: Kmsd
    port: int
    instance: str = "a"

    def hear(self) -> Heard:
        """Read /metrics."""
        text = fresh(self.port)
        series: Told = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if re.sub("_bucket$", "", sample.name) not in JUDGED:
                    continue
                labels = {**sample.labels, "instance": self.instance, "job": "kmsd"}
                inside = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
                series[f"{sample.name}{{{inside}}}"] = sample.value
        return Heard(series, time.time())


@dataclass(frozen=True)
class Case:
    """A history, and the alerts that fire meanwhile. before, during, after: what was told. fires: names of alerts.
    goes_on: beginning of the names of what is counted on, as much in each minute; all else happened once."""

    name: str
    before: Told
    during: Told
    after: Told
    fires: frozenset[str]
    goes_on: str = "nothing"

    def test(self) -> dict[str, Any]:
        """The case as promtool wants it."""
        names = sorted({*self.before, *self.during, *self.after})
        rows = [{"series": name, "values": self._values(name)} for name in names]
        return {
            "name": self.name,
            "interval": "1m",
            "input_series": rows,
            "promql_expr_test": [_firing(BEGIN - 1, ()), _firing(END - 1, self.fires), _firing(END + 75, ())],
        }

    def _values(self, name: str) -> str:
        before, during, after = (told.get(name) for told in (self.before, self.during, self.after))
        lasts = END - BEGIN
        if name.partition("{")[0].endswith(("_total", "_bucket", "_count", "_sum")):
            # A fault goes on as it began: each minute as much as was told.
            risen = (during or 0) - (before or 0)
            if before is None:
                return f"_x{BEGIN - 1} {during or 0}x{lasts + 80}"
            if not name.startswith(self.goes_on):
                return f"{before or 0}x{BEGIN - 1} {(before or 0) + risen}x{lasts + 80}"
            whole = (before or 0) + risen * lasts
            return f"{before or 0}x{BEGIN - 1} {(before or 0) + risen}+{risen}x{lasts - 1} {whole}x80"
        parts = ((before, BEGIN), (during, lasts), (after, 80))
        return " ".join(f"_x{minutes}" if value is None else f"{value}x{minutes - 1}" for value, minutes in parts)


def _firing(minute: int, names: Any) -> dict[str, Any]:
    return {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)],
    }


def shown(heard: Heard, *, later: float = 0.0) -> Told:
    """What was told, with its times as if it had been told at the beginning of promtool's time, or so much later."""
    return {
        name: value - heard.at - later if TIMES.match(name) and value else value for name, value in heard.series.items()
    }


def judged(folder: Path, cases: list[Case]) -> str:
    """What promtool says of the cases; empty if each is as expected."""
    folder.mkdir(exist_ok=True)
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [case.test() for case in cases],
    }
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False, width=1000))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Scraped]]:
    """Starts a kmsd whose /metrics is read; all are stopped at the end."""
    running: list[Kmsd] = []

    def start(token: Any, *flags: str, instance: str = "a", environment: Mapping[str, str], **fields: Any) -> Scraped:
        port = free_port()
        its = {**QUICK, **environment, "KMSD_OBSERVE__LISTEN": f"127.0.0.1:{port}"}
        kmsd = Kmsd(tmp_path_factory.mktemp("k"), token, flags, its, **fields).start()
        running.append(kmsd)
        return Scraped(kmsd, port, instance)

    yield start
    for kmsd in running:
        kmsd.stop()


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> ChaosToken:
    token = make_chaos(tmp_path_factory.mktemp("k") / "hsm")
    token.behind.objects(*(key.step for key in K8S_KMS_PLUGIN_KEYS))
    return token


@pytest.fixture(scope="module")
def scraped(recorder: Callable[..., Scraped], chaos: ChaosToken, tmp_path_factory: pytest.TempPathFactory) -> Scraped:
    """A kmsd on a token that misbehaves when told to; it shows a certificate, and reads what nothing protects."""
    ca = Authority(tmp_path_factory.mktemp("ca"))
    shown = ca.issue("manager", "DNS:manager.test", server=True)
    environment = {
        **chaos.environment,
        "KMSD_LEGACY__ALLOW_UNAUTHENTICATED": "true",
        "KMSD_LEGACY__KEY": "k8s-dek",
    }
    scraped = recorder(
        chaos, *chaos.flags, "--auto-create", "--enable-server", "--host=127.0.0.1", f"--port={free_port()}",
        f"--tls-ca={ca.file}", f"--tls-certificate={shown.certificate}", f"--tls-key={shown.key}",
        environment=environment, default_flags=False,
    )  # fmt: skip
    scraped.kmsd.wait_ok().v2("Encrypt", SEED)
    return scraped


def _until_ill(kmsd: Kmsd, before: str) -> None:
    """Wait for a round trip that fails after this log."""
    wait_for(lambda: kmsd.log_text().count("kmsd is not healthy") > before.count("kmsd is not healthy"))


def _lists(kmsd: Kmsd) -> bool:
    """Whether the token shows its keys."""
    with contextlib.suppress(grpc.RpcError):
        return bool(kmsd.admin("ListKeys").keys)
    return False


Fault = Callable[[Kmsd, ChaosToken], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _away(kmsd: Kmsd, chaos: ChaosToken) -> Iterator[None]:
    before = kmsd.log_text()
    with chaos.told("C_Login rv=0x30"):
        for pid in kmsd.hosts():
            os.kill(pid, signal.SIGKILL)
        _until_ill(kmsd, before)
        yield
    kmsd.wait_ok()


@contextlib.contextmanager
def _wrong_results(kmsd: Kmsd, chaos: ChaosToken) -> Iterator[None]:
    before = kmsd.log_text()
    with chaos.told("C_Decrypt flip"):
        _until_ill(kmsd, before)
        yield
    kmsd.wait_ok()


@contextlib.contextmanager
def _unknown_key(kmsd: Kmsd, chaos: ChaosToken) -> Iterator[None]:
    sealed = kmsd.v2("Encrypt", SEED)
    header, rest = sealed.ciphertext.split(b".", 1)
    other = base64.urlsafe_b64decode(header + b"==").replace(sealed.key_id.encode(), b"0" * len(sealed.key_id))
    strange = base64.urlsafe_b64encode(other).rstrip(b"=") + b"." + rest
    with pytest.raises(grpc.RpcError) as refused:
        kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=strange, key_id="0" * len(sealed.key_id)))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    yield


@contextlib.contextmanager
def _too_much(kmsd: Kmsd, chaos: ChaosToken) -> Iterator[None]:
    def ask() -> None:
        with contextlib.suppress(grpc.RpcError):
            kmsd.v2("Encrypt", SEED)

    with chaos.told("C_Encrypt delay=0.05"):
        callers = [threading.Thread(target=ask) for _ in range(12)]
        for each in callers:
            each.start()
        for each in callers:
            each.join()
    yield


@contextlib.contextmanager
def _slow(kmsd: Kmsd, chaos: ChaosToken) -> Iterator[None]:
    with chaos.told("C_Encrypt delay=1.3"):
        kmsd.v2("Encrypt", SEED)
    yield
    kmsd.wait_ok()


@contextlib.contextmanager
def _unprotected(kmsd: Kmsd, chaos: ChaosToken) -> Iterator[None]:
    kmsd.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=CBC[0].ciphertext))
    yield


@contextlib.contextmanager
def _crashes(kmsd: Kmsd, chaos: ChaosToken) -> Iterator[None]:
    for _ in range(4):
        (host,) = wait_for(kmsd.hosts)
        os.kill(host, signal.SIGKILL)
        wait_for(lambda gone=host: kmsd.hosts() and gone not in kmsd.hosts() and _lists(kmsd))
    wait_for(lambda: kmsd.status().healthz == "ok")
    yield


@contextlib.contextmanager
def _disturbed(kmsd: Kmsd, chaos: ChaosToken) -> Iterator[None]:
    file = kmsd.folder / "state" / "audit.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    wait_for(lambda: any(each.about.tampered for each in kmsd.status().problems))
    yield
    kmsd.admin("AcknowledgeAudit")


@contextlib.contextmanager
def _unwritable(kmsd: Kmsd, chaos: ChaosToken) -> Iterator[None]:
    assert kmsd.process is not None
    pid, (_, hard) = kmsd.process.pid, resource.prlimit(kmsd.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))  # as a disk that is full
    with contextlib.suppress(grpc.RpcError):
        kmsd.keygen("k8s-kek")  # taken: a record all the same
    wait_for(lambda: any(each.about.audit for each in kmsd.status().problems))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    with contextlib.suppress(grpc.RpcError):
        kmsd.keygen("k8s-kek")
    wait_for(lambda: not any(each.about.audit for each in kmsd.status().problems))


@contextlib.contextmanager
def _not_followed(kmsd: Kmsd, chaos: ChaosToken) -> Iterator[None]:
    kmsd.admin("RotateKey")
    kmsd.wait_ok()
    yield
    kmsd.v2("Encrypt", SEED)


FAULTS: dict[str, tuple[Any, ...]] = {
    "the token is away": (_away, "nothing", "KmsdHsmAway", "KmsdNotHealthy"),
    "the token decrypts wrongly": (_wrong_results, "nothing", "KmsdNotHealthy"),
    "a value names a key that is nowhere": (_unknown_key, "kmsd_rpc_requests", "KmsdUnknownKey"),
    "more is asked than the token can do": (_too_much, "kmsd_hsm_queue_refused", "KmsdQueueFull"),
    "the token is slow": (_slow, "kmsd_rpc_duration", "KmsdSlow"),
    "values that nothing protects are read": (_unprotected, "kmsd_legacy", "KmsdUnauthenticatedReads"),
    "the module crashes": (_crashes, "kmsd_hsm_hosts", "KmsdHostRestarts"),
    "the audit cannot be written": (_unwritable, "nothing", "KmsdAuditLost"),
    "a rotation that nobody follows": (_not_followed, "nothing", "KmsdRotationNotFollowed"),
    "the audit is cut": (_disturbed, "nothing", "KmsdAuditDisturbed"),
}
"""Each fault: how it is brought about, what goes on being counted while it lasts, and the alerts that it fires."""


def test_each_fault_fires_its_alerts_and_no_other(scraped: Scraped, chaos: ChaosToken, tmp_path: Path) -> None:
    cases, before = [], scraped.hear()
    for name, (fault, goes_on, *fires) in FAULTS.items():
        with fault(scraped.kmsd, chaos):
            during = scraped.hear()
        after = scraped.hear()
        cases.append(Case(name, shown(before), shown(during), shown(after), frozenset(fires), goes_on))
        before = after
    assert judged(tmp_path, cases) == ""


def test_what_time_and_other_nodes_bring_fires_its_alerts_and_no_other(
    scraped: Scraped,
    chaos: ChaosToken,
    recorder: Callable[..., Scraped],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    heard = scraped.hear()
    now = shown(heard)
    ends = value_of(now, "kmsd_certificate_expiry_seconds")
    begins = value_of(now, "kmsd_certificate_start_seconds")
    nearly = shown(heard, later=ends - min(14 * 86400, (ends - begins) / 4) + 60)
    old = shown(heard, later=91 * 86400)
    worn = {name: 0.3 for name in now if name.startswith("kmsd_write_key_gcm_budget_ratio")}

    # A node that has not seen a rotation yet, beside one that has.
    rotated = {name: value for name, value in now.items() if not name.startswith("kmsd_write_key_followed")}
    scraped.kmsd.admin("RotateKey")
    scraped.kmsd.wait_ok().v2("Encrypt", SEED)
    late = {name.replace('"a"', '"b"'): value for name, value in shown(scraped.hear()).items()}

    # A kmsd with a wrong PIN, whose round trips are far apart: so their age is seen to grow.
    wrong = make_token(tmp_path_factory.mktemp("k") / "hsm")
    wrong.pin_file.write_text("0000\n")
    refused = recorder(wrong, instance="c", environment={"KMSD_HEALTH__INTERVAL": "30"})
    wait_for(lambda: "refused the PIN" in refused.kmsd.status().healthz)
    first, second = refused.hear(), refused.hear()
    age = value_of(second.series, "kmsd_health_check_age_seconds")
    assert age > value_of(first.series, "kmsd_health_check_age_seconds")
    stale = {name: age + 120 for name in now if name.startswith("kmsd_health_check_age_seconds")}

    nobody = f"127.0.0.1:{free_port()}"
    ca = Authority(tmp_path_factory.mktemp("ca"))
    caller = ca.issue("p", "DNS:p.test")
    proxy = recorder(
        chaos, f"--upstream={nobody}", f"--tls-ca={ca.file}", f"--tls-certificate={caller.certificate}",
        f"--tls-key={caller.key}", instance="p", environment={}, command=(KMSD, "proxy"), default_flags=False,
    )  # fmt: skip
    alone = shown(proxy.hear())

    up, down = ({'up{instance="a",job="kmsd"}': value} for value in (1.0, 0.0))
    cases = [
        Case(
            "a certificate ends", now, only(now, nearly, "kmsd_certificate_"), now, frozenset({"KmsdCertificateEnds"})
        ),
        Case(
            "the write key is old", now, only(now, old, "kmsd_write_key_created"), now, frozenset({"KmsdWriteKeyOld"})
        ),
        Case("the write key is worn", now, {**now, **worn}, now, frozenset({"KmsdGcmBudget"})),
        Case("round trips are old", now, {**now, **stale}, now, frozenset({"KmsdHealthOld"})),
        Case("nodes disagree", now, {**rotated, **late}, now, frozenset({"KmsdNodesDisagree"})),
        Case(
            "a wrong PIN",
            now,
            {**now, **shown(second)},
            now,
            frozenset({"KmsdHsmAway", "KmsdNotHealthy", "KmsdWrongPin"}),
        ),
        Case("no key manager", now, {**now, **alone}, now, frozenset({"KmsdUpstreamAway", "KmsdNotHealthy"})),
        Case("no kmsd", up, down, up, frozenset({"KmsdDown"})),
    ]
    assert judged(tmp_path, cases) == ""
    tried = {name for _, _, *fires in FAULTS.values() for name in fires} | {
        name for case in cases for name in case.fires
    }
    assert tried == {rule["alert"] for rule in ALERTS}, "an alert without a fault that fires it"


def value_of(told: Told, name: str) -> float:
    """The value of the one series of a metric."""
    (value,) = [value for series, value in told.items() if series.partition("{")[0] == name]
    return value


def only(told: Told, other: Told, beginning: str) -> Told:
    """What was told, with the series whose names begin so from another time."""
    return {**told, **{name: value for name, value in other.items() if name.startswith(beginning)}}


def test_the_operator_gets_the_same_alerts_and_each_has_its_page() -> None:
    operators = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert (operators["kind"], operators["spec"]) == ("PrometheusRule", yaml.safe_load(RULES.read_text()))
    page = (MONITORING.parents[1] / "docs" / "alerts.md").read_text()
    headings = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert headings == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"\bkmsd_\w+", rule["expr"])} <= {
            metric.name for metric in METRICS
        }
