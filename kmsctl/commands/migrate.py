"""`kmsctl migrate`: over from k8s-kms-plugin."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kmsctl import diagnostics, etcdplace, files, options, output, stored
from kmsctl.diagnostics import ExitCode, UsageError
from kmsctl.etcdplace import EtcdOptions
from kmsctl.output import Document, OutputFormat
from kmsctl.text import timestamp
from kmsd.client import escape

if TYPE_CHECKING:
    from kmsctl.migrate.encryption_config import Configurations
    from kmsctl.migrate.migration import MigrationPlan
    from kmsctl.migrate.setups import Setup
    from kmsctl.migrate.step import MigrationStep
    from kmsctl.migrate.unmigrated import Group, Leftover
    from kmsd.etcd.scan import EtcdScan

WIDTH = 100


class PlanPart(StrEnum):
    """A part of a plan that can stand in a file by itself."""

    CONFIG = "config"
    READING = "reading"
    WRITING = "writing"


def migrate(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl migrate plan --command "k8s-kms-plugin serve --p11-lib /usr/lib/softhsm/libsofthsm2.so --p11-label kms"
      kmsctl migrate status

    Move over from k8s-kms-plugin: a plan, and how far it has got.
    """
    options.want_command(ctx)


def plan(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="Pod manifest or systemd unit of k8s-kms-plugin; stdin if it is -.",
            show_default=False,
        ),
    ] = None,
    command: Annotated[
        str,
        typer.Option("--command", metavar="TEXT", help="Command line of k8s-kms-plugin, in quotes, instead of a file."),
    ] = "",
    encryption_config: Annotated[
        str,
        typer.Option(
            "--encryption-config",
            metavar="FILE",
            help="File with kube-apiserver's EncryptionConfiguration; stdin if it is -.",
        ),
    ] = "",
    only: Annotated[
        PlanPart | None,
        typer.Option(
            "--only",
            help="Print only kmsd's configuration (TOML), or the EncryptionConfiguration with which kmsd reads, or "
            "writes.",
        ),
    ] = None,
    output_format: options.OutputDocument = None,
) -> None:
    """\b
    Examples:
      kmsctl migrate plan k8s-kms-plugin.yaml --encryption-config encryption-config.yaml
      kmsctl migrate plan k8s-kms-plugin.service -o json
      kmsctl migrate plan --command "k8s-kms-plugin serve --p11-lib /usr/lib/softhsm/libsofthsm2.so --p11-label kms"
      kmsctl migrate plan k8s-kms-plugin.yaml --only config > kmsd.toml

    Print kmsd's configuration, kube-apiserver's, and the steps from a k8s-kms-plugin as it is set up now, and back.

    Changes nothing and asks nobody. A PIN is never printed; leave it out of --command.
    """
    from kmsctl.migrate import k8s_kms_plugin, migration

    opts = options.gather(ctx, output=output_format)
    form = opts.form(*options.DOCUMENT)
    if only is not None and opts.output is not None:
        raise UsageError("--only and --output exclude each other", "leave out one of them")
    if source == "-" == encryption_config:
        raise UsageError("both files cannot come from stdin", "name one of them")
    setup = _setup(source, command)
    found = k8s_kms_plugin.read(setup.arguments, setup.environment, setup.elsewhere)
    if command and found.pin_given:
        diagnostics.warning("the PIN is in this command line: others can see it, and the shell's history keeps it")
        diagnostics.hint("leave it out; nothing of the plan depends on it")
    made = migration.plan(setup, found, _configurations(encryption_config, found.socket))
    match only, form:
        case PlanPart.CONFIG, _:
            output.emit(made.config.rstrip("\n"))
        case PlanPart.READING | PlanPart.WRITING, _:
            output.emit_document(
                made.configurations.reading if only is PlanPart.READING else made.configurations.writing,
                OutputFormat.YAML,
            )
        case _, OutputFormat.TABLE:
            output.emit(_text(made))
        case _:
            output.emit_document(_document(made), form)


def _setup(source: str | None, command: str) -> Setup:
    from kmsctl.migrate import setups

    if (source is None) == (not command):
        raise UsageError("give either a FILE or --command", "`kmsctl migrate plan --help` shows how it is used")
    if source is None:
        return setups.from_command(command.encode(errors="replace").decode())
    return setups.parse(_read(source, "the set-up of k8s-kms-plugin"))


def _configurations(source: str, old_socket: str) -> Configurations:
    from kmsctl.kubernetes import yamltext
    from kmsctl.kubernetes.places import SOCKET
    from kmsctl.migrate import encryption_config

    if not source:
        return encryption_config.assumed(old_socket, SOCKET)
    documents = yamltext.load(_read(source, "the encryption configuration"), "the encryption configuration")
    if documents and documents[0] is None and any(documents):
        raise UsageError(
            "the first document of the encryption configuration is empty, and kube-apiserver reads the first only",
            "take the `---` before it out",
        )
    return encryption_config.between(documents[0] if documents else None, old_socket, SOCKET)


def _read(source: str, what: str) -> str:
    data = files.read(source, what, too_long="give the one manifest, unit or configuration that it is about")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{what} is not text in UTF-8", "give a manifest, or a unit of systemd") from None


def _document(plan: MigrationPlan) -> Document:
    found = plan.plugin
    return {
        "source": {"kind": plan.setup.kind, "name": plan.setup.name or None},
        "found": {
            "provider": found.provider,
            "module": found.module,
            "token_label": found.token_label or None,
            "slot": found.slot,
            "key_label": found.key_label,
            "hmac_label": found.hmac_label if found.cbc else None,
            "algorithm": found.algorithm,
            "socket": found.socket or None,
            "tcp_port": found.port or None,
            "tcp_host": found.host or None,
            "kms_provider": ", ".join(plan.configurations.providers) or None,
        },
        "config": plan.config,
        "environment": dict(plan.environment),
        "encryption_config": {"reading": plan.configurations.reading, "writing": plan.configurations.writing},
        "steps": [_step(each) for each in plan.steps],
        "way_back": [_step(each) for each in plan.way_back],
        "notes": list(plan.notes),
    }


def _step(step: MigrationStep) -> Document:
    return {"title": step.title, "text": step.text, "commands": list(step.commands)}


def _text(plan: MigrationPlan) -> str:
    from kmsctl.migrate.steps import CONFIG_FILE

    parts = [
        _heading(f"kmsd's configuration, {CONFIG_FILE}"),
        plan.config.rstrip("\n"),
    ]
    if plan.environment:
        variables = "\n".join(f"{name}={escape(value)}" for name, value in plan.environment.items())
        parts += [_heading("Environment of kmsd, for its module"), variables]
    parts += [
        _heading("EncryptionConfiguration `reading`: kmsd is there to read"),
        _yaml(plan.configurations.reading),
        _heading("EncryptionConfiguration `writing`: kmsd writes"),
        _yaml(plan.configurations.writing),
        _heading("Steps"),
        _numbered(plan.steps),
        _heading("The way back"),
        _numbered(plan.way_back),
        _heading("Notes"),
        "\n".join(_wrapped(note, "- ", "  ") for note in plan.notes),
    ]
    return "\n\n".join(parts)


def _heading(text: str) -> str:
    return f"# {text}"


def _yaml(document: dict[str, Any]) -> str:
    return output.document_text(document, OutputFormat.YAML)


def _numbered(steps: Iterable[MigrationStep]) -> str:
    return "\n".join(_numbered_step(number, step) for number, step in enumerate(steps, 1))


def _numbered_step(number: int, step: MigrationStep) -> str:
    first = f"{number}. "
    indent = " " * len(first)
    commands = "".join(f"\n{indent}    {escape(each)}" for each in step.commands)
    return f"{first}{escape(step.title)}.\n{_wrapped(step.text, indent, indent)}{commands}"


def _wrapped(text: str, first: str, rest: str) -> str:
    return textwrap.fill(
        escape(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def status(
    ctx: typer.Context,
    at: EtcdOptions,
    check: Annotated[bool, typer.Option("--check", help="Exit with 7 while anything foreign is left.")] = False,
    output_format: options.OutputDocument = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl migrate status
      kmsctl migrate status --endpoints https://127.0.0.1:2379 -o json

    Count the objects in etcd per format and provider, and say what to do next.

    Foreign is what kmsd did not write in its own format, and what is plain where other objects of its resource are
    encrypted, or is a Secret. Reads only, and never shows a value. Endpoints and certificates are found in
    ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY, too.
    """
    opts = options.gather(ctx, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    place = at.place
    etcdplace.check(place)
    found = stored.read(place, opts.timeout)

    from kmsctl.migrate.unmigrated import leftover

    left = leftover(found)
    if form is OutputFormat.TABLE:
        output.emit(_table(left))
    else:
        output.emit_document(_status(found, left), form)
    _comment(found, left)
    if check and (left.foreign or not found.objects):
        raise typer.Exit(ExitCode.UNHEALTHY)


def _table(left: Leftover) -> str:
    headers = ["FORMAT", "STORED AS", "PROVIDER", "OBJECTS", "RESOURCES", "NOTE"]
    rows = [
        [
            each.kind.value,
            each.storage.value,
            each.provider,
            str(each.objects),
            _few(each.resources),
            _note(each),
        ]
        for each in left.groups
    ]
    return output.table(headers, rows) if rows else ""


def _few(resources: tuple[str, ...]) -> str:
    more = f" and {len(resources) - 3} more" if len(resources) > 3 else ""
    return ", ".join(resources[:3]) + more


def _note(group: Group) -> str:
    from kmsctl.migrate.unmigrated import StoredKind

    if group.reason:
        return group.reason
    if group.foreign:
        return "not authenticated: rewrite" if group.kind is StoredKind.K8S_KMS_PLUGIN_CBC else "rewrite"
    return "its resource is not encrypted" if group.kind is StoredKind.PLAINTEXT else ""


def _status(found: EtcdScan, left: Leftover) -> Document:
    from kmsctl.migrate.unmigrated import StoredKind, advice

    return {
        "prefix": found.prefix,
        "cluster_id": f"{found.cluster_id:016x}",
        "revision": found.revision,
        "started_at": timestamp(found.started),
        "finished_at": timestamp(found.finished),
        "objects": found.objects,
        "foreign": left.foreign,
        "formats": {each.value: left.sum(each) for each in StoredKind},
        "groups": [
            {
                "format": each.kind.value,
                "storage": each.storage.value,
                "provider": each.provider or None,
                "objects": each.objects,
                "resources": list(each.resources),
                "foreign": each.foreign,
                "reason": each.reason or None,
            }
            for each in left.groups
        ],
        "next": list(advice(left)),
    }


def _comment(found: EtcdScan, left: Leftover) -> None:
    from kmsctl.migrate.unmigrated import advice

    if found.starts > 1:
        diagnostics.note(f"etcd compacted what was being read; begun again, {found.starts} times in all")
    if not found.objects:
        diagnostics.warning(f"nothing is stored below {found.prefix}")
        diagnostics.hint("is it kube-apiserver's --etcd-prefix, and is this its etcd?")
        return
    objects = "1 object" if found.objects == 1 else f"{found.objects:,} objects"
    diagnostics.note(f"{objects}, {left.foreign:,} in a foreign format")
    for each in advice(left):
        diagnostics.hint(each)
