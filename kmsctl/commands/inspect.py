"""`kmsctl inspect`: what a stored value is, which key it needs, and with --try whether that opens it."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import diagnostics, documents, files, options, output
from kmsctl.diagnostics import ExitCode
from kmsctl.keyview import algorithm, short_hash
from kmsctl.output import OutputFormat
from kmsd.client import ClientError, Inspection, Key, connect, escape, printed

INPUT_MAX = 8 << 20
"""Bytes: a dump of a value has several times the value's."""


def inspect(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="[FILE]", help="File to read; stdin if it is - or left out.", show_default=False)
    ] = "-",
    attempt: Annotated[
        bool, typer.Option("--try", help="Have kmsd decrypt it, and say whether it opens; exit with 1 if it does not.")
    ] = False,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      printf hello | kmsctl encrypt | kmsctl inspect
      printf hello | kmsctl encrypt | kmsctl inspect --try
      printf hello | kmsctl encrypt | base64 | kmsctl inspect -
      printf hello | kmsctl encrypt -o json | kmsctl inspect - -o json

    Explain a ciphertext, or a value as etcd holds it: its format, the key it needs, whether kmsd has that key.

    Takes it as it is, in base64 or hexadecimal digits, as hexdump -C, xxd and od -t x1 show it, as etcdctl prints it
    in any of its forms, and as `kmsctl encrypt -o json` writes it. Of several values the first is explained.
    Nothing is decrypted, unless --try is given; the audit records that, and what is in the value is never shown.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    value = printed.find(files.read(source, "the ciphertext", most=INPUT_MAX, too_long="give one value"))
    trial: Trial = None
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.inspect_ciphertext(value.data)
        if attempt:
            trial = kmsd.try_ciphertext(value.data)
    if value.form:
        diagnostics.note(f"the input was read as {value.form}")
    if value.note:
        diagnostics.note(value.note)
    match form:
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document(documents.of(found) | _tried(trial), form)
        case OutputFormat.NAME:
            output.emit_names([found.format])
        case _:
            output.emit(output.sheet(_sheet(found, trial, wide=form is OutputFormat.WIDE)))
            for each in found.findings:
                diagnostics.warning(each.message)
                if each.hint:
                    diagnostics.hint(each.hint)
    if isinstance(trial, ClientError):
        diagnostics.warning(f"it does not open: {trial.message}")
        diagnostics.hint(trial.hint)
        raise typer.Exit(ExitCode.FAILED)


Trial = Key | ClientError | None
"""The key that opened it, or why it does not open; None if that was not tried."""


def _tried(trial: Trial) -> output.Document:
    opens = None if trial is None else not isinstance(trial, ClientError)
    return {"tried": trial is not None, "opens": opens}


def _readable(found: Inspection, trial: Trial) -> str:
    match trial:
        case Key():
            return f"yes: decrypted with {escape(trial.label)}"
        case ClientError():
            return "NO: it does not open"
    return "not tried: the key is there (--try decrypts it)" if found.readable else "NO, not by this kmsd"


def _sheet(found: Inspection, trial: Trial, *, wide: bool) -> list[tuple[str, str]]:
    rows = [
        ("FORMAT", escape(found.format)),
        ("", escape(found.summary)),
        ("READABLE", _readable(found, trial)),
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
