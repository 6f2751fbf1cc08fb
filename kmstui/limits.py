"""Finds what is over a limit that the configuration file sets: p99, errors, and encryptions with one AES-GCM key.
Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kmsd.client.clientconfig import Thresholds
from kmstui import traffic
from kmstui.text import milliseconds, percent
from kmstui.view import View

GCM_MOST = 2**32
"""Encrypts with random IVs that one AES-GCM key is good for (NIST SP 800-38D, 8.3)."""
P99_SECONDS = 10
"""Seconds of which the worst p99 counts, as in the fleet."""
ERROR_SECONDS = 60
"""Seconds over which the share of errors is taken."""


@dataclass(frozen=True)
class Excess:
    """A limit that is exceeded. name: of the limit. text: what there is, and the limit."""

    name: str
    text: str


def excesses(view: View) -> tuple[Excess, ...]:
    """Return the limits that are exceeded."""
    return tuple(_found(view))


def _found(view: View) -> Iterator[Excess]:
    limits = view.limits
    if limits.p99 is not None:
        _, p99, _ = traffic.quantiles(traffic.lately(view.traffic, P99_SECONDS))
        if p99 > 1000 * limits.p99:
            yield Excess("p99", f"p99 {milliseconds(p99)}, over {milliseconds(1000 * limits.p99)}")
    if limits.errors is not None:
        failed, total = traffic.errors(traffic.lately(view.traffic, ERROR_SECONDS))
        if total and failed / total > limits.errors:
            yield Excess("errors", f"errors {percent(failed, total)}, over {_share(limits.errors)}")
    key = view.status.value.write_key if view.status.value is not None else None
    if limits.gcm_budget is not None and key is not None and key.enc.endswith("GCM"):
        used = key.encrypts / GCM_MOST
        if used > limits.gcm_budget:
            yield Excess("GCM budget", f"GCM budget {percent(used, 1)}, over {_share(limits.gcm_budget)}")


def told(limits: Thresholds) -> str:
    """Return what is watched, in a sentence for the help."""
    parts = []
    if limits.p99 is not None:
        parts.append(f"p99 over {milliseconds(1000 * limits.p99)} (the worst of {P99_SECONDS} s)")
    if limits.errors is not None:
        parts.append(f"more than {_share(limits.errors)} errors (of {ERROR_SECONDS} s)")
    if limits.gcm_budget is not None:
        parts.append(f"more than {_share(limits.gcm_budget)} of the encryptions that an AES-GCM key may do")
    if not parts:
        return "[thresholds] in the configuration file of kmsctl sets limits; the second line says what is over one."
    return f"The second line shows ◐ and what is over a limit of the configuration file: {'; '.join(parts)}."


def _share(part: float) -> str:
    return f"{100 * part:g} %"
