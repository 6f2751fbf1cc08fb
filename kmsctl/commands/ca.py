"""`kmsctl ca`: show the certificate authority, issue and revoke certificates."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from kmsctl import confirm, diagnostics, documents, files, keyview, options, output
from kmsctl.confirm import DryRun, Yes
from kmsctl.diagnostics import UsageError
from kmsctl.output import OutputFormat
from kmsctl.text import age, timestamp
from kmsd.client import Ca, CaCertificate, connect, escape

CSR_MOST = 16 * 1024
"""Bytes that kmsd takes of a request."""


class Reason(StrEnum):
    """A reason for a revocation (RFC 5280, 5.3.1)."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"


Out = Annotated[
    str | None,
    typer.Option("--out", metavar="FILE", help="Write the PEM to this file (mode 0600) instead of to stdout."),
]
Node = Annotated[str, typer.Option("--node", metavar="NODE", help="Name of the node, as Kubernetes has it.")]
Tenant = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Tenant that the node belongs to.")]


def ca(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl ca init --if-not-exists
      kmsctl ca issue node-1.csr --node node-1 --tenant cluster-a > node-1.crt
      kmsctl ca show

    Issue and revoke the certificates of nodes, by an authority whose key is on the token and never leaves it.

    What a certificate has (lifetime, names, key usage) comes from kmsd's configuration, section [ca].
    """
    options.want_command(ctx)


def show(
    ctx: typer.Context,
    node: Annotated[str, typer.Option("--node", metavar="NODE", help="List the certificates of this node alone.")] = "",
    tenant: options.TenantName = "",
    pem: Annotated[bool, typer.Option("--pem", help="Print the CA's certificates alone, as PEM.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List all certificates, not the last 50.")] = False,
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl ca show
      kmsctl ca show --pem > ca.pem
      kmsctl ca show --node node-1 -o json
      kmsctl ca show --all -o name

    Show the CA, its certificates, and the last certificates that it issued, or those of a node.

    --pem prints what key managers and servers need to check certificates of nodes: --tls-ca.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_ca(node=node, tenant=tenant, most=sys.maxsize if every else 0)
    if pem:
        output.emit("".join(each.pem for each in found.chain).rstrip("\n"))
        if not found.chain:
            diagnostics.note("the CA has no certificate yet")
    elif form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document(documents.of(found), form)
    elif form is OutputFormat.NAME:
        output.emit_names(each.serial for each in found.issued)
    else:
        now = datetime.now(UTC)
        output.emit(output.sheet(_sheet(found, now)))
        if found.issued:
            output.emit("\n" + table(found.issued, now))
    if found.more and not pem:
        diagnostics.hint("these are the last that were issued; --all lists the others, too")
    _next(found)


def _sheet(found: Ca, now: datetime) -> list[tuple[str, str]]:
    key, own = found.key, found.certificate
    rows = [("STATE", found.state)]
    if key is not None:
        rows.append(("KEY", f"{escape(key.label)} ({keyview.algorithm(key)}) on {escape(key.token_label)}"))
        rows.append(("KEY ID", escape(key.key_id)))
    if own is not None:
        rows.append(("SUBJECT", escape(own.subject)))
        rows.append(("SIGNED BY", "itself" if own.issuer == own.subject else escape(own.issuer)))
        rows.append(("SHA256", own.sha256))
        rows.append(("ENDS", f"{timestamp(own.not_after)} (in {age(now, own.not_after or now)})"))
    if found.following is not None:
        rows.append(("FOLLOWING", f"{escape(found.following.key_id)}, which waits for its certificate"))
    for number, each in enumerate(found.chain):
        rows.append(("" if number else "CHAIN", f"{escape(each.subject)}, until {timestamp(each.not_after)}"))
    listed = (
        "none yet"
        if found.crl_signed is None
        else (f"{found.crl_revoked} revoked, signed {timestamp(found.crl_signed)}, next by {timestamp(found.crl_next)}")
    )
    rows.append(("CRL", listed))
    rows.append(("LIFETIME", f"{found.lifetime / 86400:g} days"))
    rows.append(("KEY TYPES", escape(", ".join(found.key_types))))
    rows.append(("NAMES", escape(", ".join(found.names)) or "those of the tenant (san), with the node for the *"))
    return rows


def table(certificates: Sequence[CaCertificate], now: datetime) -> str:
    """Return a list of certificates of nodes."""
    rows = [
        [each.node, each.tenant, _state(each, now), timestamp(each.not_after) or "", each.serial]
        for each in certificates
    ]
    return output.table(["NODE", "TENANT", "STATE", "ENDS", "SERIAL"], rows)


def _state(certificate: CaCertificate, now: datetime) -> str:
    if certificate.revoked is not None:
        return f"revoked ({certificate.reason})"
    return "ended" if certificate.not_after is not None and certificate.not_after <= now else "in force"


def _next(found: Ca) -> None:
    if found.state == "none":
        diagnostics.hint("`kmsctl ca init` makes the CA's key and certificate")
    elif found.state == "waiting" or found.following is not None:
        diagnostics.hint("have the request signed, then: kmsctl ca import CERTIFICATE")


def issue(
    ctx: typer.Context,
    csr: Annotated[str, typer.Argument(metavar="CSR", help="File with the request (PKCS#10); - for stdin.")],
    node: Node,
    tenant: Tenant,
    chain: Annotated[bool, typer.Option("--chain", help="Print the CA's certificates behind it.")] = False,
    out: Out = None,
    output_format: options.OutputBytes = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl ca issue node-1.csr --node node-1 --tenant cluster-a > tls.crt
      kmsctl ca issue node-1.csr --node node-1 --tenant cluster-a --chain --out tls.crt

    Issue the certificate of a node for a request, and print it as PEM.

    The node makes its key and the request, and keeps the key: openssl req -new -newkey ec -pkeyopt
    ec_paramgen_curve:P-256 -noenc -keyout tls.key -subj / -out node-1.csr.
    Of the request only the public key counts; what it asks for beyond what a node gets is refused (exit code 2).
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(OutputFormat.JSON, OutputFormat.YAML) if opts.output is not None else None
    if form is not None and out is not None:
        raise UsageError("--out writes the PEM, and -o a document to stdout", "leave out one of the two")
    data = files.read(csr, "the request", most=CSR_MOST, too_long="is it a request (PKCS#10)?")
    with connect(opts.target, timeout=opts.timeout) as kmsd, diagnostics.working("the token signs"):
        made = kmsd.issue_certificate(data, node, tenant)
    pem = made.certificate.pem + ("".join(each.pem for each in made.chain) if chain else "")
    if form is not None:
        output.emit_document(documents.of(made), form)
    elif out is not None:
        files.write(out, pem.encode())
    else:
        output.emit(pem.rstrip("\n"))
    until = timestamp(made.certificate.not_after)
    diagnostics.note(f"certificate {made.certificate.serial} for {', '.join(made.certificate.names)}, until {until}")


def revoke(
    ctx: typer.Context,
    serial: Annotated[
        str, typer.Argument(metavar="[SERIAL]", help="Number of the certificate, in hexadecimal.", show_default=False)
    ] = "",
    node: Annotated[
        str, typer.Option("--node", metavar="NODE", help="Revoke all certificates of this node that are in force.")
    ] = "",
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="TENANT", help="Take only those of this tenant, with --node.")
    ] = "",
    reason: Annotated[Reason, typer.Option("--reason", help="Reason that the list gives.")] = Reason.UNSPECIFIED,
    yes: Yes = False,
    dry_run: DryRun = False,
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl ca revoke --node node-1 --dry-run
      kmsctl ca revoke --node node-1 --reason cessationOfOperation --yes
      kmsctl ca show --node node-2 -o name | xargs -n 1 kmsctl ca revoke --reason keyCompromise --yes

    Revoke a certificate, or all of a node, for good. This key manager refuses them at once, others that share its
    store within 5 seconds, and everybody else with the next list of revocations that they fetch.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    if bool(serial) == bool(node):
        raise UsageError("name either a certificate or, with --node, a node", "kmsctl ca show lists both")
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        act = partial(kmsd.revoke_certificate, serial=serial, node=node, tenant=tenant, reason=reason.value)
        found = act(dry_run=True)
        if not dry_run:
            told = ", ".join(f"{each.serial} of node {each.node!r}" for each in found.revoked[:4])
            more = f" and {len(found.revoked) - 4} more" if len(found.revoked) > 4 else ""
            confirm.agree(f"revoke {told}{more}?", yes=yes)
            found = act()
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document({**documents.of(found), "dry_run": dry_run}, form)
    elif form is OutputFormat.NAME:
        output.emit_names(each.serial for each in found.revoked)
    else:
        output.emit(table(found.revoked, datetime.now(UTC)))
    if dry_run:
        diagnostics.note(f"{len(found.revoked)} certificates would be revoked; nothing was done")
    elif not found.listed:
        diagnostics.warning(
            f"they are refused here, and not in the list of revocations yet: {found.not_listed_because}"
        )
        diagnostics.hint("kmsd signs the list as soon as it can; `kmsctl ca crl` shows when")


def crl(
    ctx: typer.Context,
    der: Annotated[
        bool, typer.Option("--der", help="Write DER, of the list by the key that issues now, instead of PEM.")
    ] = False,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Write to this file instead of to stdout.")
    ] = None,
    output_format: options.OutputBytes = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl ca crl > crl.pem
      kmsctl ca crl --der --out crl.der

    Print the lists of revoked certificates that the CA has signed last: one for each of its keys with certificates out.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(OutputFormat.JSON, OutputFormat.YAML) if opts.output is not None else None
    if form is not None and (out is not None or der):
        raise UsageError("--out and --der write the list, and -o a document to stdout", "leave out one of them")
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_crl()
    pem = "".join(map(_pem, found.crls))
    if form is not None:
        output.emit_document({"pem": pem, "signed_at": timestamp(found.signed), "next_at": timestamp(found.next)}, form)
        return
    data = found.crls[0] if der else pem.encode()
    if out is not None:
        files.write(out, data)
    else:
        output.emit_bytes(data)


def _pem(der: bytes) -> str:
    text = base64.b64encode(der).decode("ascii")
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN X509 CRL-----\n{lines}\n-----END X509 CRL-----\n"
