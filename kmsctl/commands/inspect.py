"""`kmsctl inspect`: what a stored value is, and which key it needs, without decrypting it."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import diagnostics, documents, files, options, output, sealed
from kmsctl.keyview import algorithm, short_hash
from kmsctl.output import Format
from kmsd.client import Inspection, connect, escape


def inspect(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="[FILE]", help="File to read; - or nothing: stdin.", show_default=False)
    ] = "-",
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      printf hello | kmsctl encrypt | kmsctl inspect
      printf hello | kmsctl encrypt | base64 | kmsctl inspect -
      printf hello | kmsctl encrypt -o json | kmsctl inspect - -o json

    Explain a ciphertext, or a value as etcd holds it: its format, the key it needs, whether kmsd has that key.

    Takes it as it is, in base64, or in what `kmsctl encrypt -o json` wrote. Nothing is decrypted.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(Format.TABLE, Format.WIDE, Format.JSON, Format.YAML, Format.NAME)
    data, how = sealed.unwrap(files.read(source, "the ciphertext"))
    if how:
        diagnostics.note(f"the input was read as {how}")
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.inspect_ciphertext(data)
    match form:
        case Format.JSON | Format.YAML:
            output.emit_document(documents.inspection(found), form)
        case Format.NAME:
            output.emit_names([found.format])
        case _:
            output.emit(output.sheet(_sheet(found, wide=form is Format.WIDE)))
            for each in found.findings:
                diagnostics.warning(each.message)
                if each.hint:
                    diagnostics.hint(each.hint)


def _sheet(found: Inspection, *, wide: bool) -> list[tuple[str, str]]:
    rows = [
        ("FORMAT", escape(found.format)),
        ("", escape(found.summary)),
        ("READABLE", "yes, by this kmsd" if found.readable else "NO, not by this kmsd"),
    ]
    if (envelope := found.envelope) is not None:
        rows += [
            ("ENVELOPE", f"{escape(envelope.prefix)}, provider {escape(envelope.provider) or '-'}"),
            ("", f"key {escape(envelope.key_id) or '-'} {short_hash(envelope.key_id_sha256, wide=wide)}".rstrip()),
            ("", f"{envelope.encrypted_data_bytes} bytes of data, {envelope.encrypted_dek_bytes} of encrypted DEK"),
            ("", escape(envelope.source_type)),
            ("", escape(f"annotations: {', '.join(envelope.annotations)}") if envelope.annotations else ""),
        ]
    if (jwe := found.jwe) is not None:
        rows += [
            ("JWE", escape(f"alg {jwe.alg}, enc {jwe.enc}")),
            ("", f"kid {escape(jwe.kid) or '-'} {short_hash(jwe.kid_sha256, wide=wide)}".rstrip()),
            ("", f"IV {jwe.iv_bytes}, ciphertext {jwe.ciphertext_bytes}, tag {jwe.tag_bytes} bytes"),
            ("", escape(jwe.header) if wide else ""),
        ]
    for index, key in enumerate(found.keys):
        where = f" on {escape(key.token)}" if key.token else ""
        rows.append(
            (
                "KEYS" if index == 0 else "",
                f"{escape(key.label)} ({algorithm(key)}, {key.state}, {escape(key.key_id)}){where}",
            )
        )
    if not found.keys:
        rows.append(("KEYS", "this kmsd has none that may open it"))
    return [(name, value) for name, value in rows if value]
