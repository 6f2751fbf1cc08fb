"""Hold what is configured now: the settings in force, the PINs that were read, the log level that was asked for."""

from __future__ import annotations

from kmsd.apis.admin_config import ConfigView, SettingView, level_of
from kmsd.config import sources
from kmsd.config.pins import read_pin
from kmsd.config.reload import needs_restart, reloadable, with_fresh
from kmsd.config.settings import Settings, TokenEntry
from kmsd.config.sources import ConfigError, Loaded
from kmsd.config.values import PIN, leaf_key, to_toml
from kmsd.errors import Misconfigured
from kmsd.observe import logs

log = logs.get_logger("kmsd")


class Configured:
    """The configuration in force, with the PINs that were read and the log level that was asked for."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._pins: dict[str, str] = {}
        self._level: str = loaded.settings.log.level

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    def take(self, fresh: Loaded) -> list[str]:
        """Change what a reload may change; return the settings that differ and stay until a restart."""
        stay = needs_restart(fresh, self.loaded)
        self.loaded = Loaded(
            settings=with_fresh(self.settings, fresh.settings),
            origins=fresh.origins if not stay else self.loaded.origins,
            file=fresh.file,
            warnings=fresh.warnings,
        )
        self._level = self.settings.log.level
        logs.configure(self.settings.log.format, self._level)
        return stay

    def pin(self, name: str) -> str | None:
        """Return the PIN of the token called so in the configuration. Raises Misconfigured."""
        try:
            # Kept until a reload: a file descriptor or a credential may be there to be read only once.
            if name not in self._pins:
                pin = read_pin(self._place(name))
                if pin is None:
                    return None
                self._pins[name] = pin
            return self._pins[name]
        except ConfigError as error:
            raise Misconfigured(error.message, error.hint) from error

    def read_pin_again(self, name: str) -> None:
        """Take the PIN that is configured now; keep the old one if it could be read only once."""
        try:
            fresh = read_pin(self._place(name))
        except ConfigError as error:
            log.warning("the PIN cannot be read again, the old one stays", reason=error.message, hint=error.hint)
        else:
            if fresh is not None:
                self._pins[name] = fresh

    def _place(self, name: str) -> TokenEntry:
        return next(place for place in self.settings.places if place.called == name)

    def view(self) -> ConfigView:
        """Return the configuration for people, without the PINs."""
        shown = []
        for name, origin in self.loaded.origins.items():
            if self.settings.tokens and name.startswith("token."):
                continue  # [[tokens]] take its place
            value = sources.value(self.settings, name)
            leaf = leaf_key(name.split("."))
            text = "" if value is None else to_toml(leaf, value)
            shown.append(SettingView(name, text, origin.where, leaf == PIN, reloadable(name)))
        return ConfigView(str(self.loaded.file or ""), shown, self.loaded.warnings)

    def set_log_level(self, level: str | None) -> tuple[str, str]:
        """Set the log level; return (present level, previous one). level: empty for the configured one, None to change
        nothing. Raises InvalidRequest."""
        previous = self._level
        if level is None:
            return previous, previous
        self._level = level_of(level or self.settings.log.level, tuple(logs.LEVELS))
        logs.configure(self.settings.log.format, self._level)
        if self._level != previous:
            log.warning("log level changed", level=self._level, was=previous)
        return self._level, previous
