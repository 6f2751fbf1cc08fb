"""Logging: structlog, as JSON lines or for a console, on stderr.

Requests are one line each at debug, changes one line each at info. Bodies, PINs and keys never come here.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Final, Literal, TextIO, cast

# structlog.dev imports rich, and that pygments, to draw tracebacks that are never shown here: 3.3 MB of memory, and
# 40 ms of each start. It does without where there is none: docs/decisions/0009-structlog-without-rich.md.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402 - only now it finds no rich

if _rich is None:
    del sys.modules["rich"]
else:
    sys.modules["rich"] = _rich

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


_level = logging.INFO


class _Stderr:
    """The stderr that the log writes to: a disk that is full, or a reader that has gone, ends nothing. Lines that
    cannot be written are counted, and the next one that can be tells how many."""

    def __init__(self) -> None:
        self._lost = 0

    def mark(self, logger: object, level: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Add to a line how many before it were lost. A processor of structlog's."""
        if self._lost:
            line["lost_lines"] = self._lost
        return line

    def write(self, text: str) -> None:
        try:
            number = sys.stderr.fileno()
        except OSError:  # no file, as in a test
            sys.stderr.write(text)
            return
        data = text.encode(errors="backslashreplace")
        try:
            while data:
                data = data[os.write(number, data) :]
        except OSError:
            self._lost += 1
            return
        self._lost = 0

    def flush(self) -> None:
        """Do nothing: nothing is held back."""


_stderr: Final = _Stderr()


def debugging() -> bool:
    """Return whether debug lines are written; asked before one is put together for every request."""
    return _level <= logging.DEBUG


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger for one module."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger


def configure(log_format: Literal["auto", "json", "console"], name: str) -> None:
    """Set up logging for the process. auto: console if stderr is a terminal, else JSON. name: the level's. May be
    called again."""
    global _level
    _level = LEVELS[name]
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _stderr.mark,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    else:
        processors.append(structlog.processors.JSONRenderer())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_level),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _stderr)),
        # Loggers are made at import time and must follow a reload that changes the level.
        cache_logger_on_first_use=False,
    )
