"""The default places of sockets, configuration and data. Root gets system paths, others their own.

Knows nothing of the rest of kmsd, so that the daemon and its clients agree without sharing more.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import platformdirs

APP = "kmsd"
SOCKET_PATH_MAX = 107
"""Bytes of a Unix socket's path: sun_path is 108 with its NUL (unix(7))."""


def _is_root() -> bool:
    return os.geteuid() == 0


def _runtime_dir() -> Path:
    """Return the user's directory for sockets, or another place for it if there is none, as in a container.

    Nothing is said or refused here: whoever binds a socket there looks at the directory (`kmsd.safepath`).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return platformdirs.user_runtime_path(APP)
        except OSError:
            return Path(f"/run/user/{os.geteuid()}") / APP


def kms_socket() -> Path:
    """Return the socket that kube-apiserver calls. Its directory holds nothing else, so it can be mounted alone."""
    if _is_root():
        return Path("/run/kmsd/kms.sock")
    return _runtime_dir() / "kms" / "kms.sock"


def admin_socket() -> Path:
    """Return the socket that kmsctl and kmstui call, in a directory of its own."""
    if _is_root():
        return Path("/run/kmsd-admin/admin.sock")
    return _runtime_dir() / "admin" / "admin.sock"


def state_dir() -> Path:
    """Return the directory of what is kept across restarts."""
    return Path("/var/lib/kmsd") if _is_root() else platformdirs.user_state_path(APP)


def config_files() -> tuple[Path, Path]:
    """Return the configuration files that are looked for, in this order; the first that exists is the only one read."""
    return Path("/etc/kmsd/kmsd.toml"), platformdirs.user_config_path(APP) / "kmsd.toml"


def dev_dir() -> Path:
    """Return the directory of what `kmsd dev` keeps: a SoftHSM token, its PIN, its configuration. Nothing outside it is
    touched."""
    return platformdirs.user_data_path(APP) / "dev"


def dev_kms_socket() -> Path:
    """Return the KMS socket of `kmsd dev`."""
    return dev_dir() / "kms" / "kms.sock"


def dev_admin_socket() -> Path:
    """Return the admin socket of `kmsd dev`."""
    return dev_dir() / "admin" / "admin.sock"
