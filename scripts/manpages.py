"""Write the manual pages of kmsd, kmsctl, kmstui and kmsd.toml into a folder, from their help texts and the settings.

Usage: manpages.py FOLDER [YYYY-MM-DD]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import commandtree
import settingsdoc
from commandtree import Command

from kmsctl.diagnostics import ExitCode
from kmsd import __version__

FILES = {
    "kmsd": (
        ("/etc/kmsd/kmsd.toml", "Settings: kmsd.toml(5)."),
        ("/run/kmsd/kms.sock", "Socket of the KMS APIs, which kube-apiserver calls."),
        ("/run/kmsd-admin/admin.sock", "Socket of the admin API, which kmsctl(1) and kmstui(1) call."),
        ("/var/lib/kmsd", "What is kept across restarts, the audit among it."),
    ),
    "kmsctl": (("~/.config/kmsctl/config.toml", "Targets, TLS and output; read by kmstui(1), too."),),
    "kmstui": (("~/.config/kmsctl/config.toml", "Targets, TLS and thresholds; kmsctl(1)'s file."),),
}
SECTIONS = {"kmsd": 8, "kmsctl": 1, "kmstui": 1}
SEE = "kmsd(8), kmsd.toml(5), kmsctl(1), kmstui(1)"


def main() -> int:
    folder, date = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    folder.mkdir(parents=True, exist_ok=True)
    for name in commandtree.PROGRAMS:
        program = commandtree.program(name)
        _write(folder, name, SECTIONS[name], date, _page(program, name))
        for group in program.commands:
            if group.commands:
                _write(folder, group.path.replace(" ", "-"), 1, date, _page(group, name))
    _write(folder, "kmsd.toml", 5, date, _toml())
    return 0


def _write(folder: Path, name: str, section: int, date: str, body: Iterator[str]) -> None:
    head = f'.TH {name.upper()} {section} "{date}" "kmsd {__version__}" "kmsd"\n'
    (folder / f"{name}.{section}").write_text(head + "".join(body))


def _page(program: Command, name: str) -> Iterator[str]:
    """Yield the page of a program, or of a group of its commands. name: of the program."""
    yield f".SH NAME\n{_text(program.path.replace(' ', '-'))} \\- {_text(_summary(program))}\n"
    yield f".SH SYNOPSIS\n.B {_text(program.path)}\n{_text(program.usage)}\n"
    yield ".SH DESCRIPTION\n"
    yield from _body(program)
    groups = [each for each in program.commands if each.commands]
    single = [each for each in program.commands if not each.commands]
    if single:
        yield ".SH COMMANDS\n"
    for each in single:
        yield f".SS {_text(each.path)} {_text(each.usage)}\n"
        yield from _body(each)
    if groups:
        yield ".SH GROUPS OF COMMANDS\n"
    for each in groups:
        yield f".TP\n.BR {_text(each.path.replace(' ', '-'))} (1)\n{_text(each.summary)}\n"
    if name == "kmsctl":
        yield ".SH EXIT STATUS\n"
        for code in ExitCode:
            yield f".TP\n.B {code.value}\n{_text(code.meaning)}\n"
    yield ".SH FILES\n"
    for path, words in FILES[name]:
        yield f".TP\n.I {_text(path)}\n{_text(words)}\n"
    yield f".SH SEE ALSO\n{_text(SEE)}\n"


def _summary(program: Command) -> str:
    text = program.summary if " " in program.path else (program.text[0] if program.text else program.summary)
    return text.rstrip(".")


def _body(command: Command) -> Iterator[str]:
    for i, text in enumerate(command.text):
        yield ".PP\n" if i else ""
        yield f".nf\n{_text(text)}\n.fi\n" if "\n" in text else f"{_text(text)}\n"
    for each in (*command.arguments, *command.options):
        yield f".TP\n.B {_text(each.names)}\n{_text(each.help) or _text('-')}\n"
    if command.examples:
        yield ".PP\nExamples:\n.PP\n.nf\n.RS\n" + "\n".join(_text(each) for each in command.examples) + "\n.RE\n.fi\n"


def _toml() -> Iterator[str]:
    yield ".SH NAME\nkmsd.toml \\- settings of kmsd\n"
    yield ".SH SYNOPSIS\n.I /etc/kmsd/kmsd.toml\n.br\n.I \\(ti/.config/kmsd/kmsd.toml\n"
    yield (
        ".SH DESCRIPTION\nThe first of these files that exists is read, or the one that\n.B \\-\\-config\n"
        "or\n.B KMSD_CONFIG\nnames. Over it go variables of the environment, KMSD_SECTION__SETTING, and over those the "
        "flags of\n.BR kmsd (8).\n.B kmsd check\\-config\nshows every setting with its value and where it comes from. "
        "A reload (SIGHUP) changes what is marked so; the rest wants a restart.\n"
    )
    for group in settingsdoc.groups():
        yield f".SH {_text(group.heading)}\n{_text(group.text)}\n"
        for each in group.settings:
            unit = f", in {each.unit}" if each.unit else ""
            default = each.default.replace("`", "")
            yield f".TP\n.B {_text(each.name)}\n{_text(each.text)}\n.br\n"
            yield f"{_text(f'Allowed: {each.allowed}{unit}. Default: {default}.')}\n"
            if each.environment:
                yield f".br\n{_text(', '.join((each.environment, *each.flags)))}\n"
            if each.reload:
                yield ".br\nA reload changes it.\n"
    yield f".SH SEE ALSO\n{_text(SEE)}\n"


def _text(text: str) -> str:
    """Return a text as roff shows it literally."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "").replace("~", "\\(ti").replace("^", "\\(ha")
    plain = plain.replace("→", "\\(->").replace("\N{MULTIPLICATION SIGN}", "\\(mu")
    return re.sub(r"^([.'])", r"\\&\1", plain, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
