"""The admin API, kmsd.admin.v1: how kmsd is configured. Protobuf to domain and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin_table import alike, table
from kmsd.errors import InvalidRequest
from kmsd.observe import logs
from kmsd.transport.call import Call, Table, parse


@dataclass(frozen=True)
class SettingView:
    """A value of the configuration in force, as text; a secret is redacted."""

    name: str
    value: str
    origin: str
    secret: bool
    reloadable: bool


@dataclass(frozen=True)
class ConfigView:
    """The configuration in force, as GetConfig shows it."""

    file: str
    settings: Sequence[SettingView]
    warnings: Sequence[str]


@dataclass(frozen=True)
class ConfigAdmin:
    """The part of the admin API that tells how kmsd is configured.

    set_log_level: takes a level, "" for the configured one, None to change nothing; gives (new, previous).
    """

    config: Callable[[], ConfigView]
    set_log_level: Callable[[str | None], tuple[str, str]]

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table({"GetConfig": self.get_config, "SetLogLevel": self.set_level})

    async def get_config(self, call: Call, body: bytes) -> bytes:
        """Tell the configuration in force."""
        parse(pb.GetConfigRequest, body)
        config = self.config()
        return pb.GetConfigResponse(
            file=config.file,
            settings=[alike(pb.GetConfigResponse.Setting, each) for each in config.settings],
            warnings=config.warnings,
        ).SerializeToString()

    async def set_level(self, call: Call, body: bytes) -> bytes:
        """Change the log level until kmsd ends, or tell the present one."""
        request = parse(pb.SetLogLevelRequest, body)
        if request.dry_run and request.level:
            level_of(request.level, tuple(logs.LEVELS))
        level, previous = self.set_log_level(None if request.dry_run else request.level)
        call.detail = "asked only" if request.dry_run else f"{previous} -> {level}"
        return pb.SetLogLevelResponse(level=level, previous=previous).SerializeToString()


def level_of(text: str, known: Sequence[str]) -> str:
    """Return the log level that the text names. Raises InvalidRequest if it names none of `known`."""
    if text not in known:
        raise InvalidRequest(
            f"the log level must be one of {', '.join(known)}, got {text[:40]!r}",
            "kmsctl log-level shows the one in force",
        )
    return text
