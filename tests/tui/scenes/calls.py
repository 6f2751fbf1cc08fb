"""What is asked of a kmsd: the last 15 minutes, statistics as they come in, and calls one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from kmsd.client import (
    CallCount,
    KeyUse,
    Latency,
    Request,
    Second,
    StatsFrame,
)
from kmstui import traffic
from kmstui.view import Numbered, Tail
from tests.tui.scenes.daemon import KEYS, OLD, SESSIONS, WRITE
from tests.tui.scenes.when import NOW, STARTED, STEADY, before


def seconds(load: Callable[[int], float], errors: Callable[[int], int] = lambda _: 0) -> tuple[Second, ...]:
    """The last 15 minutes; load: requests in the second that many seconds ago."""
    made = []
    for back in range(899, -1, -1):
        count = max(0, round(load(back)))
        wobble = 1 + 0.25 * math.sin(back / 7) + 0.1 * math.sin(back / 1.7)
        p50, p99 = 0.55 * wobble, (1.4 + count / 1500) * wobble
        wrong = min(count, errors(back))
        timing = (p50, p99, p99 * 1.8) if count else (0.0, 0.0, 0.0)
        made.append(
            Second(NOW - timedelta(seconds=back), count, wrong, count // 40, count - count // 40 - wrong, *timing)
        )
    return tuple(made)


def wave(back: int) -> float:
    hill = 3200 * math.exp(-(((back - 600) / 70) ** 2)) + 1900 * math.exp(-(((back - 120) / 90) ** 2))
    return 240 + hill + 90 * math.sin(back / 3.1) + 40 * math.sin(back / 1.3)


def frame(time: datetime, scale: float, errors: int) -> StatsFrame:
    def many(number: float) -> int:
        return round(number * scale)

    return StatsFrame(
        time=time,
        seconds=(),
        calls=(
            CallCount("v2", "Status", "OK", many(1_800)),
            CallCount("v2", "Encrypt", "OK", many(2_686)),
            CallCount("v2", "Decrypt", "OK", many(1_391_618)),
            CallCount("v2", "Decrypt", "INVALID_ARGUMENT", errors),
            CallCount("v2", "Decrypt", "UNAVAILABLE", errors * 3),
            CallCount("v1beta1", "Version", "OK", 12),
            CallCount("v1beta1", "Decrypt", "OK", many(41_204)),
        ),
        latencies=(
            Latency("v2", "Status", many(1_800), 900.0, 0.08, 0.1, 0.3, 0.9),
            Latency("v2", "Encrypt", many(2_686), 2_800.0, 0.62, 0.95, 2.1, 14.0),
            Latency("v2", "Decrypt", many(1_391_618) + 4 * errors, 834_970.0, 0.58, 0.9, 1.9, 48.0),
            Latency("v1beta1", "Version", 12, 1.0, 0.05, 0.07, 0.1, 0.1),
            Latency("v1beta1", "Decrypt", many(41_204), 32_000.0, 0.71, 1.1, 2.4, 12.0),
        ),
        operations=(
            Latency("", "decrypt", many(1_432_822), 800_000.0, 0.41, 0.6, 1.2, 40.0),
            Latency("", "encrypt", many(2_686), 1_600.0, 0.44, 0.66, 1.3, 9.0),
            Latency("", "generate random", many(2_686), 300.0, 0.11, 0.14, 0.3, 1.0),
            Latency("", "find", 10_812, 21_000.0, 1.9, 2.4, 4.1, 20.0),
        ),
        keys=(
            KeyUse(WRITE.key_id, WRITE.key_id_sha256, many(1_284), many(96_410), before(seconds=1)),
            KeyUse(OLD.key_id, OLD.key_id_sha256, 1_402, many(1_283_008), before(seconds=2)),
            KeyUse(KEYS[2].key_id, KEYS[2].key_id_sha256, 0, 12_380, before(days=3)),
        ),
        sessions=SESSIONS,
        in_flight=4,
        started=STARTED,
        quantile_error=0.05,
    )


def flow(errors: int = 0) -> traffic.Traffic:
    known = traffic.Traffic()
    shape = seconds(wave, (lambda back: 9 if back < 200 and back % 5 == 0 else 0) if errors else (lambda _: 0))
    for back in range(5, -1, -1):
        past = frame(NOW - timedelta(seconds=back), 1 - back * 0.0009, errors - errors * back // 12)
        known = traffic.fold(known, replace(past, seconds=shape if back == 0 else ()), STEADY - back)
    return replace(known, uses=_uses(), watched=traffic.stamp(NOW) - 600)


def _uses() -> dict[str, tuple[traffic.KeyUseSpan, ...]]:
    """As watched for ten minutes: calls move from the old key to the new one."""
    end = traffic.stamp(NOW)
    old, new = list[traffic.KeyUseSpan](), list[traffic.KeyUseSpan]()
    for back in range(600, -1, -1):
        calls = round(wave(back))
        moved = min(calls // 8, max(0, 85 - back)) if back < 85 else 0
        old.append(traffic.KeyUseSpan(end - back, 1, 0, calls - moved))
        if moved:
            new.append(traffic.KeyUseSpan(end - back, 1, moved // 40, moved))
    return {OLD.key_id: tuple(old), WRITE.key_id: tuple(new)}


def quiet() -> traffic.Traffic:
    nothing = replace(
        frame(NOW, 0, 0),
        calls=(),
        latencies=(),
        operations=(),
        keys=(),
        in_flight=0,
        seconds=seconds(lambda _: 0)[-40:],
    )
    return traffic.fold(traffic.Traffic(), nothing, STEADY)


def requests(errors: bool = False) -> Tail[Request]:
    made = []
    for at in range(200):
        bad = errors and at % 17 == 0
        method = "Encrypt" if at % 23 == 0 else "Decrypt"
        used = WRITE if at % 3 else OLD
        made.append(
            Numbered(
                at,
                Request(
                    NOW - timedelta(milliseconds=(200 - at) * 3.1),
                    "v1beta1" if at % 29 == 0 else "v2",
                    method,
                    f"{at * 2654435761 % 2**32:08x}-41d2-4be0-a6ec-0f3c5e7d{at:04x}",
                    used.key_id_sha256 if not bad else "",
                    "UNAVAILABLE" if bad else "OK",
                    0.4 + (at * 37 % 100) / 90 + (at % 41 == 0) * 12,
                    "token 'prod-hsm' was lost (CKR_DEVICE_ERROR); kmsd reconnects by itself" if bad else "",
                ),
            )
        )
    return Tail(tuple(made), following=True)
