"""`kmsctl encrypt` and `kmsctl decrypt`: one call each over the socket that kube-apiserver uses."""

from __future__ import annotations

import base64
from enum import StrEnum
from typing import Annotated

import typer

from kmsctl import files, options, output
from kmsctl.diagnostics import UsageError
from kmsctl.options import Options
from kmsctl.output import Document, OutputFormat
from kmsd.client import Encrypted, ciphertext_input, key_id_of, kms_connect, parse_target
from kmsd.client.places import TlsPlace


class Api(StrEnum):
    """A KMS API of kmsd."""

    V2 = "v2"
    V1BETA1 = "v1beta1"


Source = Annotated[
    str, typer.Argument(metavar="[FILE]", help="File to read; stdin if it is - or left out.", show_default=False)
]
ApiOption = Annotated[Api, typer.Option("--api", help="KMS API to call.")]
Out = Annotated[
    str | None,
    typer.Option("--out", metavar="FILE", help="Write to this file (mode 0600) instead of to stdout."),
]


def encrypt(
    ctx: typer.Context,
    source: Source = "-",
    api: ApiOption = Api.V2,
    out: Out = None,
    output_format: options.OutputBytes = None,
    socket: options.Socket = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      printf hello | kmsctl encrypt > hello.jwe
      kmsctl encrypt seed.bin --out seed.jwe
      printf hello | kmsctl encrypt -o json

    Encrypt a file or stdin, at most 1 MiB, and write the ciphertext.

    kmsd itself takes less: KMS v2 is made for keys, not for data.
    """
    opts = _options(ctx, socket, timeout, output_format)
    if opts.output is not None:
        opts.form(OutputFormat.JSON, OutputFormat.YAML)
    plaintext = files.read(source, "the plaintext")
    with kms_connect(socket, api.value, timeout=opts.timeout) as kms:
        made = kms.encrypt(plaintext)
    if opts.output is not None:
        data = output.document_text(_document(made), opts.output).encode() + b"\n"
    else:
        data = made.ciphertext
        if out is None and output.on_terminal():
            data += b"\n"
    _deliver(data, out)


def decrypt(
    ctx: typer.Context,
    source: Source = "-",
    api: ApiOption = Api.V2,
    key_id: Annotated[
        str,
        typer.Option(
            "--key-id", metavar="TEXT", help="Key id to send, for v2. Default: the one that the ciphertext names."
        ),
    ] = "",
    out: Out = None,
    socket: options.Socket = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl decrypt hello.jwe
      printf hello | kmsctl encrypt -o json | kmsctl decrypt
      kmsctl decrypt seed.jwe --out seed.bin

    Decrypt a file or stdin, and write the plaintext as it is.

    Takes a bare ciphertext, or what `kmsctl encrypt -o json` wrote.
    """
    opts = _options(ctx, socket, timeout, None)
    if opts.output is not None:
        raise UsageError("--output is for encrypt: decrypt writes the plaintext as it is", "leave out --output")
    parsed = ciphertext_input.parse(files.read(source, "the ciphertext"))
    wanted = key_id or parsed.key_id or (key_id_of(parsed.ciphertext) or "")
    if api is Api.V2 and not wanted:
        raise UsageError("the ciphertext names no key", "name it with --key-id, or use --api v1beta1, which needs none")
    with kms_connect(socket, api.value, timeout=opts.timeout) as kms:
        plaintext = kms.decrypt(parsed.ciphertext, key_id=wanted, annotations=parsed.annotations)
    _deliver(plaintext, out)


def _options(ctx: typer.Context, socket: str | None, timeout: float | None, form: OutputFormat | None) -> Options:
    opts = options.gather(ctx, timeout=timeout, output=form)
    if opts.target_typed:
        raise UsageError("--target is the admin socket, and this calls the KMS socket", "name it with --socket")
    if opts.tls_typed:
        raise opts.useless_tls("the KMS socket, which this calls,")
    if socket is None and opts.named is not None and isinstance(place := parse_target(opts.named), TlsPlace):
        raise UsageError(
            f"the target is {place}, which encrypts and decrypts for its tenants, and not for admins",
            "on a node of a tenant, name the KMS socket of its kmsd with --socket",
        )
    return opts


def _deliver(data: bytes, out: str | None) -> None:
    if out is None:
        output.emit_bytes(data)
    else:
        files.write(out, data)


def _document(made: Encrypted) -> Document:
    return {
        "ciphertext": base64.b64encode(made.ciphertext).decode(),
        "key_id": made.key_id or None,
        "annotations": {name: base64.b64encode(value).decode() for name, value in sorted(made.annotations.items())},
    }
