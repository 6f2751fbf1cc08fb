"""What a reload (SIGHUP) may change in a running kmsd: log settings, PINs, tenants and admins. Pure."""

from __future__ import annotations

from kmsd.config import sources
from kmsd.config.settings import Settings
from kmsd.config.sources import Loaded
from kmsd.config.values import PIN, leaf_key


def reloadable(name: str) -> bool:
    """Return whether a reload may change this setting; everything else needs a restart and is reported."""
    return name.startswith(("log.", "tenants.", "admins.")) or leaf_key(name.split(".")) in (PIN, "token.pin_file")


def needs_restart(fresh: Loaded, old: Loaded) -> list[str]:
    """Return the settings that differ and stay as they were until a restart."""
    return sorted(name for name in {*fresh.origins, *old.origins} if _changed(fresh, old, name))


def _changed(fresh: Loaded, old: Loaded, name: str) -> bool:
    """Return whether a reload would have to change this setting, and cannot."""
    if reloadable(name):
        return False
    try:
        return sources.value(fresh.settings, name) != sources.value(old.settings, name)
    except (AttributeError, IndexError):
        return True  # one of [[tokens]] that is new, or gone


def with_fresh(old: Settings, fresh: Settings) -> Settings:
    """Return the old settings with what a reload may change."""
    tokens = tuple(
        place.model_copy(update={"pin": new.pin, "pin_file": new.pin_file}) if new is not None else place
        for place in old.tokens
        for new in [next((each for each in fresh.tokens if each.called == place.called), None)]
    )
    return old.model_copy(
        update={
            "log": fresh.log,
            "token": old.token.model_copy(update={"pin": fresh.token.pin, "pin_file": fresh.token.pin_file}),
            "tokens": tokens,
            "tenants": fresh.tenants,
            "admins": fresh.admins,
        }
    )
