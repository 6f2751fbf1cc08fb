"""The soak test of renewal, for half a minute: `make soak ARGS=renewal` runs it for ten."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.daemons import wait_for
from tests.enrol.replicas import use
from tests.enrol.soak import Site, failures, soak
from tests.remote.certificates import Issued
from tests.remote.conftest import Client

pytestmark = pytest.mark.processes


@pytest.mark.timeout(240)
def test_nodes_renew_under_load_over_a_roll_of_the_ca_and_no_call_fails(short_tmp: Path) -> None:
    # They renew when a third of their 60 seconds has gone by at the most.
    result = soak(short_tmp, 30.0, backdate=90, revocations=2, pause=0.05)
    assert failures(result, renewals=1) == [], result
    assert min(result.calls.values()) > 50


def answer_of(channel: grpc.Channel) -> str:
    try:
        return str(Client(channel).status().healthz)
    except grpc.RpcError:
        return ""


def test_two_key_managers_take_a_token_once_and_are_taken_after_a_roll_by_whoever_has_the_old_key(
    short_tmp: Path,
) -> None:
    with Site(short_tmp, 0) as site:
        manager, other = site.managers
        # A token that is used at both at once is good for one certificate. `make replicas` has eight, and 200 uses.
        used = use(site, 12)
        assert (used.answers["certificate"], used.certificates) == (1, [1, 1]), used
        assert set(used.answers) <= {"certificate", "PERMISSION_DENIED", "UNAVAILABLE"}, used
        issued = manager.enrol(short_tmp, "node-1")
        shown = manager.kmsd.folder / "state" / "est.crt"
        before = shown.read_bytes()
        with manager.channel(issued) as channel, other.channel(issued) as second:
            assert Client(channel).status().healthz == Client(second).status().healthz == "ok"
            manager.ctl("ca", "roll", "--yes")
            # At once where it was rolled; other key managers look each minute, and when they start.
            wait_for(lambda: shown.read_bytes() != before, 10)
            # It is told when it is made, and by each of the two ports when it is shown.
            serial = Issued(shown, shown).serial
            wait_for(lambda: manager.kmsd.log_text().count(serial) >= 3)
        with manager.channel(issued) as channel:
            assert wait_for(lambda: answer_of(channel), 20) == "ok"
