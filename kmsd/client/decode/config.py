"""The configuration in force."""

from __future__ import annotations

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.plain import alike
from kmsd.client.model.config import Config, Setting


def config(config: pb.GetConfigResponse) -> Config:
    """Decode the configuration in force."""
    return alike(Config, config, settings=tuple(alike(Setting, each) for each in config.settings))
