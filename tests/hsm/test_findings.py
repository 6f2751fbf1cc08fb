"""What the findings of a probe come to, where no token at hand shows it."""

from __future__ import annotations

from kmsd.hsm.doctor.findings import Findings
from kmsd.hsm.doctor.probe import report
from kmsd.hsm.vendors.quirks import GENERIC


def test_a_token_with_rsa_alone_is_told_what_that_is_worth_and_how_to_use_it() -> None:
    found = Findings()
    found.able["oaep_sha256"] = True
    told = report(found, "/usr/lib/card.so", "card", GENERIC)
    assert (told.verdict.algorithm, told.verdict.enc) == ("rsa-oaep", "RSA-OAEP-256")
    (verdict,) = (check for check in told.checks if check.name == "verdict")
    assert verdict.outcome == "warning"
    assert "whoever has the public key can write" in verdict.fix
    assert "--algorithm rsa-oaep" in verdict.fix
    assert "kmsctl keygen LABEL --type rsa" in verdict.fix


def test_a_token_with_nothing_of_use_is_told_what_it_lacks() -> None:
    told = report(Findings(), "/usr/lib/card.so", "card", GENERIC)
    (verdict,) = (check for check in told.checks if check.name == "verdict")
    assert verdict.outcome == "failed"
    assert "use a token with AES-GCM" in verdict.fix
