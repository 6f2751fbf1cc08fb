"""Logging: structlog, as JSON lines or for a console, on stderr.

Requests are one line each at debug, changes one line each at info. Bodies, PINs and keys never come here.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal

# structlog.dev imports rich, and that pygments, to draw tracebacks that are never shown here: 7 MiB of resident memory,
# a tenth of kmsd's, and a third of its start-up. It does without where there is none.
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


def debugging() -> bool:
    """Whether debug lines are written; asked before one is put together for every request."""
    return _level <= logging.DEBUG


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger for one module."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger


def configure(log_format: Literal["auto", "json", "console"], name: str) -> None:
    """Set up logging for the process. auto: console if stderr is a terminal, else JSON. name: of the level. May be
    called again."""
    global _level
    _level = LEVELS[name]
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    else:
        processors.append(structlog.processors.JSONRenderer())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        # Loggers are made at import time and must follow a reload that changes the level.
        cache_logger_on_first_use=False,
    )
