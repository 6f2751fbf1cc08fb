"""`kmsctl ca init`, `import` and `roll`: the CA's own keys and certificates."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from kmsctl import confirm, diagnostics, documents, files, keyview, options, output
from kmsctl.confirm import Yes
from kmsctl.diagnostics import UsageError
from kmsctl.output import OutputFormat
from kmsctl.text import timestamp
from kmsd.client import NewCa, connect, escape

_CHAIN_MOST = 64 * 1024


class SigningType(StrEnum):
    """A type of key that signs."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    EC_P521 = "ec-p521"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


Csr = Annotated[
    str | None,
    typer.Option(
        "--csr", metavar="FILE", help="Ask a CA above: write the request (PEM) to this file, or - for stdout."
    ),
]


def init(
    ctx: typer.Context,
    subject: Annotated[
        str, typer.Option("--subject", metavar="DN", help="Name of the CA, for example CN=Nodes CA,O=Example.")
    ] = "CN=kmsd CA",
    kind: Annotated[SigningType, typer.Option("--type", help="Type of the key.")] = SigningType.EC_P256,
    self_signed: Annotated[
        bool, typer.Option("--self-signed", help="The key signs its own certificate; so it is without --csr.")
    ] = False,
    csr: Csr = None,
    if_not_exists: Annotated[bool, typer.Option("--if-not-exists", help="If there is a CA already, show it.")] = False,
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl ca init --subject "CN=Nodes CA,O=Example"
      kmsctl ca init --type rsa-3072 --if-not-exists
      kmsctl ca init --subject "CN=Nodes CA,O=Example" --csr nodes-ca.csr

    Make the key of the CA on the token, which it never leaves, and its certificate.

    By itself the CA signs its own certificate, for 10 years. With --csr it asks a CA that you have: have the request
    signed with CA:TRUE, keyCertSign and cRLSign, and give it back with `kmsctl ca import`.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    if self_signed and csr is not None:
        raise UsageError("--self-signed and --csr exclude each other", "leave out one of the two")
    with connect(opts.target, timeout=opts.timeout) as kmsd, diagnostics.working("the token makes a key"):
        found = kmsd.get_ca() if if_not_exists else None
        if found is not None and found.key is not None and found.certificate is not None:
            made, created = NewCa(found.key, found.certificate, "", found.chain), False
        else:
            made, created = kmsd.init_ca(subject=subject, type=kind.value, above=csr is not None), True
    _emit(made, csr, form, {"created": created})
    if not created:
        diagnostics.note("there is a CA already; nothing was made")


def import_(
    ctx: typer.Context,
    certificate: Annotated[
        str,
        typer.Argument(
            metavar="CERTIFICATE", help="File with the certificate and those of the CAs above it (PEM); - for stdin."
        ),
    ],
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      cat nodes-ca.crt root.crt | kmsctl ca import -
      kmsctl ca import nodes-ca-chain.pem

    Give the CA the certificate that a CA above made for its request, with those above it up to the root.

    After `kmsctl ca roll` the new key signs from then on. It takes a certificate of its own again, too: where the store
    of a key manager is lost, this is how its CA comes back.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    data = files.read(certificate, "the certificate", most=_CHAIN_MOST, too_long="give the chain of the CA alone")
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        made = kmsd.import_ca_certificate(data)
    _emit(made, None, form, {})


def roll(
    ctx: typer.Context,
    kind: Annotated[
        SigningType | None,
        typer.Option("--type", help="Type of the new key. Default: as the present one.", show_default=False),
    ] = None,
    csr: Csr = None,
    yes: Yes = False,
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl ca roll --yes
      kmsctl ca roll --type ec-p384 --csr nodes-ca-2.csr --yes

    Make a new key for the CA, beside the old one, and issue with it from now on.

    Both keys sign each other, so that whoever trusts one of them takes the certificates of both. The old one stays in
    what `kmsctl ca show --pem` prints until the last certificate that it signed has ended. A CA below another one
    writes the request for its new key with --csr, and goes on with the present key until `kmsctl ca import`.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        confirm.agree("make a new key for the CA?", yes=yes, why="a new key of the CA is to be trusted by others")
        with diagnostics.working("the token makes a key"):
            made = kmsd.roll_ca(type=kind.value if kind is not None else "")
    _emit(made, csr, form, {})


def _emit(made: NewCa, csr: str | None, form: OutputFormat, more: dict[str, object]) -> None:
    """Print what was made: a document, or a sheet; and the request, where it is wanted."""
    if made.csr and csr not in (None, "-"):
        files.write(str(csr), made.csr.encode())
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document({**more, **documents.of(made)}, form)
    elif made.csr and csr == "-":
        output.emit(made.csr.rstrip("\n"))
    elif form is OutputFormat.NAME:
        output.emit_names([made.key.key_id])
    else:
        rows = [
            ("KEY", f"{escape(made.key.label)} ({keyview.algorithm(made.key)})"),
            ("KEY ID", escape(made.key.key_id)),
        ]
        if made.certificate is not None:
            rows += [
                ("SUBJECT", escape(made.certificate.subject)),
                ("SHA256", made.certificate.sha256),
                ("ENDS", str(timestamp(made.certificate.not_after))),
            ]
        output.emit(output.sheet(rows))
    if made.csr:
        diagnostics.hint("have the request signed by the CA above, then: kmsctl ca import CERTIFICATE")
        if csr is None:
            diagnostics.hint("the request: repeat the command with --csr FILE")
    elif made.certificate is not None:
        diagnostics.hint("`kmsctl ca show --pem` prints what others check the certificates of nodes with")
