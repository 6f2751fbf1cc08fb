"""Decode how kmsd and its tokens are."""

from __future__ import annotations

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.keys import optional_key
from kmsd.client.decode.plain import alike, time
from kmsd.client.decode.stats import filter_
from kmsd.client.model.status import (
    About,
    Certificate,
    Following,
    Listener,
    ModuleProcess,
    Peer,
    Probe,
    Problem,
    ServingState,
    Sessions,
    Status,
    TenantStatus,
    Token,
    TokenStatus,
    Upstream,
)

_STATES = {
    pb.SERVING_STATE_SERVING: ServingState.SERVING,
    pb.SERVING_STATE_DEGRADED: ServingState.DEGRADED,
    pb.SERVING_STATE_DOWN: ServingState.DOWN,
}


def status(status: pb.GetStatusResponse) -> Status:
    """Decode how kmsd and its tokens are."""
    return alike(
        Status,
        status,
        state=_STATES.get(status.state, ServingState.UNKNOWN),
        started=time(status.started_unix_ms),
        now=time(status.now_unix_ms),
        write_key=optional_key(status, "write_key"),
        outgoing_key=optional_key(status, "outgoing_key"),
        token=alike(Token, status.token),
        sessions=alike(Sessions, status.sessions),
        probe=alike(Probe, status.probe, last_success=time(status.probe.last_success_unix_ms)),
        listeners=tuple(alike(Listener, each) for each in status.listeners),
        problems=tuple(map(problem, status.problems)),
        tokens=tuple(map(_token_status, status.tokens)),
        following=_following(status.following),
        tenants=tuple(map(_tenant, status.tenants)),
        upstreams=tuple(map(_upstream, status.upstreams)),
        certificate=_certificate(status.certificate) if status.HasField("certificate") else None,
    )


def _tenant(tenant: pb.GetStatusResponse.TenantStatus) -> TenantStatus:
    return alike(
        TenantStatus,
        tenant,
        state=_STATES.get(tenant.state, ServingState.UNKNOWN),
        write_key=optional_key(tenant, "write_key"),
        following=_following(tenant.following),
        first_end=time(tenant.first_end_unix_ms),
        problems=tuple(map(problem, tenant.problems)),
    )


def peer(shown: pb.ListPeersResponse.Peer) -> Peer:
    """Decode a caller from another machine."""
    return alike(
        Peer,
        shown,
        not_before=time(shown.not_before_unix_ms),
        not_after=time(shown.not_after_unix_ms),
        last_seen=time(shown.last_seen_unix_ms),
    )


def _upstream(upstream: pb.GetStatusResponse.Upstream) -> Upstream:
    return alike(Upstream, upstream, since=time(upstream.since_unix_ms), answered=time(upstream.answered_unix_ms))


def _certificate(certificate: pb.GetStatusResponse.Certificate) -> Certificate:
    return alike(
        Certificate,
        certificate,
        not_before=time(certificate.not_before_unix_ms),
        not_after=time(certificate.not_after_unix_ms),
    )


def problem(shown: pb.Problem) -> Problem:
    """Decode a problem."""
    requests = filter_(shown.about.requests) if shown.about.HasField("requests") else None
    return alike(Problem, shown, about=alike(About, shown.about, requests=requests))


def _token_status(status: pb.GetStatusResponse.TokenStatus) -> TokenStatus:
    return alike(
        TokenStatus,
        status,
        token=alike(Token, status.token),
        sessions=alike(Sessions, status.sessions),
        process=alike(ModuleProcess, status.process, since=time(status.process.since_unix_ms)),
    )


def _following(following: pb.GetStatusResponse.Following) -> Following:
    return alike(
        Following,
        following,
        since=time(following.since_unix_ms),
        first_status=time(following.first_status_unix_ms),
        last_status=time(following.last_status_unix_ms),
        first_encrypt=time(following.first_encrypt_unix_ms),
        last_encrypt=time(following.last_encrypt_unix_ms),
    )
