"""Fixed data and a fixed clock: what the pictures show. No server, no token; the screens are the real ones."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from kmsd.client import Status, Unreachable
from kmsd.client.clientconfig import Thresholds
from kmstui.app import Kmstui
from kmstui.remember import Remembered
from kmstui.view import ObservedChange, Peer, Reading, Tail, View
from tests.tui.scenes import enrolment, remote
from tests.tui.scenes.beside import AWAY, DIAGNOSIS, EAST, INSPECTED, fleet
from tests.tui.scenes.calls import flow, quiet, requests
from tests.tui.scenes.daemon import BUSY, CONFIG, DEGRADED, EMPTY, KEYS, MECHANISMS, SLOTS
from tests.tui.scenes.records import audit
from tests.tui.scenes.remote import A_BEFORE, CALLERS, MANAGER, PROXY, A, B
from tests.tui.scenes.when import MOMENT, STEADY, TARGET, TARGETS, before


def _read(value: object) -> Reading:  # type: ignore[type-arg]
    return Reading(value, STEADY - 0.4)


def _view(status: Status, **fields: object) -> View:
    base = View(
        TARGET,
        2.0,
        (TARGET,),
        due=STEADY + 1.6,
        status=_read(status),
        keys=_read(KEYS),
        slots=_read(SLOTS),
        mechanisms=MappingProxyType({"main": _read(MECHANISMS), "spare": _read(MECHANISMS[:4])}),
        config=_read(CONFIG),
        traffic=flow(),
        requests=requests(),
        audit=audit(),
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def _peer(target: str, status: Status) -> Peer:
    return Peer(target, _read(status))


def empty() -> View:
    """A fresh token without keys, and nobody calls."""
    return _view(
        EMPTY,
        keys=_read(()),
        slots=_read(SLOTS[:1]),
        traffic=quiet(),
        requests=Tail(following=True),
        audit=Tail((audit().items[0],), following=True),
    )


def busy() -> View:
    """Two minutes after a rotation, under load; three nodes."""
    followed = replace(BUSY.following, first_encrypt=before(minutes=1, seconds=21))
    waits = replace(BUSY.following, first_encrypt=None, last_encrypt=None, first_status=before(seconds=58))
    peers = (_peer(TARGETS[1], replace(BUSY, following=followed)), _peer(TARGETS[2], replace(BUSY, following=waits)))
    return _view(
        BUSY,
        targets=TARGETS,
        nodes=TARGETS,
        peers=peers,
        fleet=fleet(),
        diagnosis=Reading(DIAGNOSIS, STEADY - 90),
        inspected=INSPECTED,
    )


def degraded() -> View:
    second = replace(KEYS[2], label="k8s-kek")
    flaws = (
        ObservedChange(before(minutes=9), "state", "SERVING → DOWN: the token does not answer", bad=True),
        ObservedChange(before(minutes=8, seconds=55), "state", "DOWN → DEGRADED"),
    )
    return _view(
        DEGRADED,
        keys=_read((*KEYS[:2], second, *KEYS[3:])),
        traffic=flow(errors=300),
        requests=replace(requests(errors=True), dropped=1_240),
        sightings=flaws,
        targets=(*TARGETS, EAST, AWAY),
        nodes=(TARGET,),
        fleet=fleet(odd=True),
        limits=Thresholds(p99=0.001, errors=0.01, gcm_budget=0.5),
        config=_read(
            replace(CONFIG, warnings=("keys.refresh is longer than health.interval: a new key is seen late",))
        ),
    )


def disconnected() -> View:
    gone = Unreachable(
        "kmsd does not run: nothing listens on /run/kmsd/cp-1.sock",
        "start it with `systemctl start kmsd`, or `kmsd serve`, or `kmsd dev` to try it out",
        "UNAVAILABLE",
        retryable=True,
    )
    view = busy()
    aged = {
        name: replace(getattr(view, name), taken=STEADY - 23)
        for name in ("status", "keys", "slots", "config", "traffic")
    }
    shown = replace(view, **aged)
    seen = (ObservedChange(before(seconds=21), "lost kmsd", gone.message, bad=True),)
    return replace(shown, status=shown.status.failed(gone), due=STEADY + 3, sightings=seen)


def manager() -> View:
    """A key manager whose tenants are not all well."""
    return _view(MANAGER, keys=_read((A, A_BEFORE, B, *KEYS)), callers=CALLERS, fleet=fleet())


def enrols() -> View:
    """A key manager that is a CA and enrols nodes."""
    return replace(
        manager(),
        config=_read(enrolment.CONFIGURED),
        ca=_read(enrolment.CA),
        enrolment_requests=_read(enrolment.REQUESTS),
        enrolment_tokens=_read(enrolment.TOKENS),
    )


def proxy() -> View:
    """A proxy of two key managers, of which one is away."""
    nothing = {"keys": Reading(), "slots": Reading(), "mechanisms": MappingProxyType({})}
    return _view(PROXY, **nothing)


def mixed() -> View:
    """Local kmsd, a key manager and a proxy side by side."""
    return replace(degraded(), targets=(*TARGETS, EAST, AWAY, "node-1"), fleet=remote.mixed())


SCENES = {
    "empty": empty,
    "busy": busy,
    "degraded": degraded,
    "disconnected": disconnected,
    "manager": manager,
    "enrols": enrols,
    "proxy": proxy,
    "mixed": mixed,
}


class Still(Kmstui):
    """Shows one View for ever."""

    def __init__(self, view: View, screen: str = "", theme: str = "") -> None:
        super().__init__(view.targets, clock=lambda: MOMENT)
        self.store.view = view
        self.memory = Remembered(screen, theme)
        self.theme = theme or self.theme

    def begin(self) -> None:
        self._draw()
