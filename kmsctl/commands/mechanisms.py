"""`kmsctl mechanisms`: what a token can do, and what kmsd does with it."""

from __future__ import annotations

import typer

from kmsctl import diagnostics, documents, options, output
from kmsctl.output import OutputFormat
from kmsd.client import Mechanism, connect


def mechanisms(
    ctx: typer.Context,
    token: options.TokenArgument = "",
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl mechanisms
      kmsctl mechanisms -o wide
      kmsctl mechanisms -o name

    List the mechanisms of a token, their key sizes, and what kmsd uses them for.

    A key size counts in the mechanism's own unit: bytes for AES, bits for RSA.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.list_mechanisms(token)
    match form:
        case OutputFormat.NAME:
            output.emit_names(each.name for each in found)
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document({"mechanisms": [documents.of(each) for each in found]}, form)
        case _:
            output.emit(_table(found, wide=form is OutputFormat.WIDE))
            if not found:
                diagnostics.warning("the token shows no mechanisms")
                diagnostics.hint("`kmsctl slots` shows whether it is there")


def _table(mechanisms: tuple[Mechanism, ...], *, wide: bool) -> str:
    headers = ["MECHANISM", "KEY SIZES", "CAN", "KMSD USES IT"]
    rows = [[each.name, _sizes(each), ",".join(each.flags), each.used_for] for each in mechanisms]
    if wide:
        headers.append("TYPE")
        for row, each in zip(rows, mechanisms, strict=True):
            row.append(f"0x{each.type:x}")
    return output.table(headers, rows)


def _sizes(mechanism: Mechanism) -> str:
    if not mechanism.max_key:
        return ""
    if mechanism.min_key == mechanism.max_key:
        return str(mechanism.max_key)
    return f"{mechanism.min_key}-{mechanism.max_key}"
