"""The command line of kmstui."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from kmsd.client import InvalidRequest, __version__, clientconfig, default_target, escape, parse_target
from kmsd.client.clientconfig import Thresholds
from kmsd.client.places import NAMES, TlsPlace, flag, variable

INTERVAL = 2.0
"""Seconds between reads unless told otherwise."""
MOST_TARGETS = 32


@dataclass(frozen=True)
class Arguments:
    """The arguments of kmstui. targets: empty for the default. beside: the others that the configuration file names."""

    targets: tuple[str, ...]
    interval: float
    read_only: bool
    beside: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)


def parse(argv: Sequence[str] | None) -> Arguments:
    """Raise SystemExit(2), after saying on stderr what is wrong and what to do."""
    found = _parser().parse_args(argv)
    environment = os.environ.get("KMSCTL_TARGET")
    targets = tuple(dict.fromkeys(found.target or ([environment] if environment else [])))
    if len(targets) > MOST_TARGETS:
        refuse(f"there must be {MOST_TARGETS} targets at most, got {len(targets)}", "name fewer")
    typed = {name: value for name in NAMES if (value := getattr(found, f"tls_{name}")) is not None}
    # The one place that the client looks at.
    os.environ.update({variable(name): value for name, value in typed.items()})
    try:
        config = clientconfig.load()
        places = {parse_target(target) for target in targets}
        for place in places:
            if isinstance(place, TlsPlace):
                place.check()
    except InvalidRequest as error:
        refuse(error.message, error.hint)
    everything = [*places, *(parse_target(each) for each in config.targets)]
    if typed and not any(isinstance(place, TlsPlace) for place in everything):
        refuse(
            f"{flag(next(iter(typed)))} is for a target that is reached by TLS, and there is none",
            "leave it out, or name a target as tls://host:port",
        )
    named = tuple(each.name for each in config.targets)
    if not targets:
        targets, named = named[:MOST_TARGETS], named[MOST_TARGETS:]
    beside = tuple(name for name in named if parse_target(name) not in places)
    return Arguments(targets, found.interval, found.read_only, beside, config.thresholds)


def refuse(message: str, hint: str) -> NoReturn:
    """Say what is wrong and what to do about it, and exit."""
    sys.stderr.write(f"kmstui: error: {escape(message)}\nhint: {escape(hint)}\n")
    raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        refuse(message, "`kmstui --help` shows how it is used")


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"it must be 0.2 to 3600 seconds, got {text!r}")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kmstui",
        description="Watch a running kmsd, its keys and its traffic, live, and act on them.",
        epilog="Press ? in kmstui to see its keys.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--target",
        metavar="TARGET",
        action="append",
        help="admin socket of kmsd, as unix:///path or /path; or tls://host:port of a key manager; or a target's "
        "name in the configuration file; may be repeated, t then switches (also KMSCTL_TARGET; "
        f"default: {default_target().replace('%', '%%')})",
    )
    for name, metavar, words in (
        ("ca", "FILE", "with tls:// targets: PEM file with the CA of their certificates"),
        ("certificate", "FILE", "PEM file with the certificate to show there, with its chain"),
        ("key", "FILE", "PEM file with the private key of that certificate"),
        ("server_name", "NAME", "name that the certificates of tls:// targets must have (default: each its host)"),
    ):
        parser.add_argument(flag(name), metavar=metavar, help=f"{words} (also {variable(name)})")
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=_interval,
        default=INTERVAL,
        help=f"seconds between two reads (default: {INTERVAL:g})",
    )
    parser.add_argument("--read-only", action="store_true", help="refuse every action that changes anything")
    parser.add_argument("--version", action="version", version=f"kmstui {__version__}")
    return parser
