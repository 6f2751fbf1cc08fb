"""`kmsctl keys retire` and `kmsctl keys revert`: the end of a rotation, good or bad."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import confirm, diagnostics, documents, keyview, options, output
from kmsctl.commands.keys_change import naming
from kmsctl.confirm import Confirm, DryRun, Report, Yes
from kmsctl.options import KeyName
from kmsctl.output import OutputFormat
from kmsctl.rotate.rotating import Label
from kmsd.client import Reversion, connect, escape
from kmsd.client.rotation import short


def retire(
    ctx: typer.Context,
    key: KeyName,
    report: Report = None,
    confirm_label: Confirm = "",
    dry_run: DryRun = False,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl etcd scan --report scan.json && kmsctl keys retire spare-kek --report scan.json --dry-run
      kmsctl keys retire spare-kek --report scan.json
      kmsctl keys retire old-kek --confirm old-kek

    Mark a key that nothing needs any more. It decrypts still, until `kmsctl keys destroy` ends it.

    Refused unless a scan of etcd, given with --report, shows that nothing needs it, or kmsd made the key itself and
    has never seen it used; if its label is typed, or given with --confirm, it is done in spite of that.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*keyview.FORMATS)
    scan = confirm.evidence(report)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_key(key).key
        retired, _ = confirm.insist(
            lambda word: kmsd.retire_key(naming(found, key), scan=scan, confirm_label=word, dry_run=dry_run),
            found.label,
            confirm_label,
            "retire it",
            ask=not dry_run,
        )
    keyview.emit_one(
        {"key": documents.of(retired.key), "previous_label": retired.previous_label, "dry_run": dry_run},
        retired.key,
        form,
    )
    if dry_run:
        diagnostics.note(f"the key {retired.previous_label!r} would be retired; nothing was done")
    else:
        diagnostics.note(f"the key {retired.previous_label!r} is retired, as {retired.key.label!r}")
        diagnostics.hint("keep it until no backup of etcd needs it; then `kmsctl keys destroy` ends it")


def revert(
    ctx: typer.Context,
    label: Label = "",
    from_key_id: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="KEY-ID",
            help="Revert only if this key writes now, so that running it again changes nothing.",
        ),
    ] = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl keys revert --dry-run
      kmsctl keys revert --yes

    Make a new write key after a bad rotation, on the token of the key that wrote before it.

    A key id never comes back, so this is a new key, and what the bad key wrote still needs the bad key.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*keyview.FORMATS)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        done = kmsd.revert_key(label, from_key_id=from_key_id, dry_run=True)
        if not dry_run and done.new is None:  # else another run has reverted it already
            away_from = from_key_id or (done.old.key_id if done.old is not None else "")
            confirm.agree(f"revert away from {short(done.old)}, with another new write key?", yes=yes)
            with diagnostics.working("the token makes a key"):
                done = kmsd.revert_key(label, from_key_id=away_from)
    match form:
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document(_document(done, dry_run=dry_run), form)
        case OutputFormat.NAME:
            output.emit_names([done.new.label] if done.new is not None else [])
        case _:
            rows = _rows(done)
            output.emit(output.sheet(rows) if rows else "")
    if not done.reverted:
        why = "" if dry_run or not from_key_id else f": {from_key_id} does not write any more"
        diagnostics.note(f"nothing was changed{why}")
    elif done.new is not None:
        keyview.next_step(done.new)


def _document(done: Reversion, *, dry_run: bool) -> output.Document:
    return {
        "reverted": done.reverted,
        "dry_run": dry_run,
        "steps": [documents.of(each) for each in done.steps],
        "old_key": documents.or_none(done.old),
        "new_key": documents.or_none(done.new),
        "previous_key": documents.or_none(done.previous),
        "not_undone": list(done.not_undone),
    }


def _rows(done: Reversion) -> list[tuple[str, str]]:
    rows = []
    for title, key in (("AWAY FROM", done.old), ("BACK TO THE TOKEN OF", done.previous), ("WRITE KEY", done.new)):
        if key is not None:
            where = f" on {escape(key.token)}" if key.token else ""
            rows.append((title, f"{escape(key.key_id)} {keyview.key_hash(key, wide=False)}{where}"))
    for index, step in enumerate(done.steps):
        rows.append(("STEPS" if index == 0 else "", f"{'done' if step.done else 'to do'}: {escape(step.text)}"))
    for index, sentence in enumerate(done.not_undone):
        rows.append(("NOT UNDONE" if index == 0 else "", escape(sentence)))
    return rows
