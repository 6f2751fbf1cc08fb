"""`kmsctl slots`: the slots of kmsd's PKCS#11 modules and the tokens in them."""

from __future__ import annotations

import typer

from kmsctl import diagnostics, documents, options, output
from kmsctl.output import OutputFormat
from kmsd.client import Slot, connect


def slots(
    ctx: typer.Context,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl slots
      kmsctl slots -o wide
      kmsctl slots -o json

    List the slots that kmsd sees, which tokens it uses, and how many sessions all programs hold on them.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.list_slots()
    match form:
        case OutputFormat.NAME:
            output.emit_names(each.token_label for each in found if each.token_label)
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document({"slots": [documents.of(each) for each in found]}, form)
        case _:
            output.emit(_table(found, wide=form is OutputFormat.WIDE))
            _comment(found)


def _table(slots: tuple[Slot, ...], *, wide: bool) -> str:
    headers = ["SLOT", "TOKEN", "SERIAL", "MODEL", "SESSIONS", "IN USE"]
    rows = [
        [
            str(each.slot_id),
            each.token_label if each.token_present else "(no token)",
            each.token_serial,
            each.token_model,
            _used(each.sessions, each.sessions_max),
            (f"yes, as {each.name}" if each.name else "yes") if each.in_use else "no",
        ]
        for each in slots
    ]
    if wide:
        headers += ["RW SESSIONS", "MANUFACTURER", "DESCRIPTION", "FLAGS", "MODULE"]
        for row, each in zip(rows, slots, strict=True):
            row += [
                _used(each.rw_sessions, each.rw_sessions_max),
                each.token_manufacturer or each.manufacturer,
                each.description,
                ", ".join(each.flags),
                each.module,
            ]
    return output.table(headers, rows)


def _used(now: int | None, most: int | None) -> str:
    """Return sessions in use and their limit, as "5/1024"; a limit of 0 is CK_EFFECTIVELY_INFINITE (PKCS#11 3.0,
    3.2)."""
    if now is None:
        return f"?/{most}" if most else ""
    return f"{now}/{most}" if most else str(now)


def _comment(slots: tuple[Slot, ...]) -> None:
    if not slots:
        diagnostics.warning("the PKCS#11 module shows no slots")
        diagnostics.hint("is its configuration the one you think, and the HSM's client connected?")
    for each in slots:
        for warning in each.pin_warnings:
            diagnostics.warning(f"token {each.token_label!r}: {warning}")
