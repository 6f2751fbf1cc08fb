"""Usual places on a control-plane node. Data alone."""

from __future__ import annotations

from typing import Final

MANIFEST: Final = "/etc/kubernetes/manifests/kube-apiserver.yaml"
CONFIG: Final = "/etc/kubernetes/encryption-config.yaml"
SOCKET: Final = "/run/kmsd/kms.sock"
BACKUPS: Final = "/var/backups/kmsd"
