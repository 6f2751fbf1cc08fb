"""A probe of a token as a program of its own: a module is one per process, and some of them crash theirs.

    python -m tests.hsm.probing < JOB

JOB: JSON with module, label, pin and, where wanted, provider, aes, hmac (CKA_IDs as text), slow, elsewhere, login and
quick: what is chosen at each login, too.
Prints the report as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kmsd.hsm.doctor.findings import ProbePlan
from kmsd.hsm.doctor.probe import probe
from kmsd.hsm.host import calls, mechanism_selection
from kmsd.hsm.host import module as modules
from kmsd.hsm.host.trials import TrialPlace
from kmsd.hsm.other_process import OtherProcess
from kmsd.hsm.vendors import quirks


def main() -> int:
    job = json.load(sys.stdin)
    module = modules.load(job["module"])
    slot = next(each for each in module.slots() if each.token and each.token.label == job["label"])
    table = module.cryptoki.table
    session = calls.open_session(table, slot.slot_id)
    if job.get("login", True):
        module.cryptoki.login(session, job["pin"])
    assert slot.token is not None
    plan = ProbePlan(
        quirks.choose(job.get("provider", "auto"), module.path, slot.token.manufacturer),
        aes_id=job.get("aes", "").encode() or None,
        hmac_id=job.get("hmac", "").encode() or None,
        elsewhere=OtherProcess(job["module"], job["label"], job["pin"]) if job.get("elsewhere") else None,
        slow=job.get("slow", False),
    )
    answer: dict[str, Any] = {}
    if job.get("quick"):
        listed = frozenset(each.name for each in module.mechanisms(slot.slot_id))
        choice = mechanism_selection.choose(TrialPlace(table, slot.slot_id), listed, plan.quirks)
        answer["quick"] = {
            "gcm": "CKM_AES_GCM" in choice.mechanisms,
            "iv": choice.gcm_iv,
            "refused": choice.gcm_refused,
            "others": listed - choice.mechanisms <= {"CKM_AES_GCM"},
        }
    report = probe(module, slot, plan)
    answer |= {**dataclasses.asdict(report), "worst": report.worst, "left": len(module.cryptoki.find(session, {}))}
    module.finalize()
    print(json.dumps(answer))  # noqa: T201  its answer
    return 0


def run(
    module: str, label: str, pin: str, environment: Mapping[str, str], enter: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    """Probe in another process. enter: what to put before the command. Returns the report."""
    done = subprocess.run(
        [*enter, sys.executable, "-m", "tests.hsm.probing"],
        input=json.dumps({"module": module, "label": label, "pin": pin, **more}),
        cwd=Path(__file__).parents[2],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout)
    report["by_name"] = {check["name"]: check for check in report["checks"]}
    return report


if __name__ == "__main__":
    sys.exit(main())
