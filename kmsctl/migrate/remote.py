"""The part of a plan that is for callers from other machines: `k8s-kms-plugin serve --enable-server`. Pure.

k8s-kms-plugin listens on TCP without TLS, whatever its flags say, and has one key for all who call. In kmsd each of
them comes with a certificate, through `kmsd proxy` on its node, and is a tenant.
"""

from __future__ import annotations

from typing import Final

from kmsctl.migrate.k8s_kms_plugin import PORT, PROGRAM, K8sKmsPlugin
from kmsctl.migrate.step import MigrationStep

PROXY_FILE: Final = "/etc/kmsd/proxy.toml"
TENANT: Final = "moved-over"
"""The tenant that all callers of the plugin are together, for they have one key."""
_FOLDER: Final = "/etc/kmsd/tls"
_HIGHEST_PORT: Final = 65535


def own_port(plugin: K8sKmsPlugin) -> int:
    """Return the port for kmsd: another than the plugin's, which listens there until it is retired."""
    port = int(plugin.port) if plugin.port.isdecimal() else int(PORT)
    return port + 1 if port < _HIGHEST_PORT else int(PORT)


def server_section(plugin: K8sKmsPlugin) -> dict[str, object]:
    """Return [server] of kmsd's configuration."""
    host: dict[str, object] = {"host": plugin.host} if plugin.host else {}
    return {
        "enabled": True,
        **host,
        "port": own_port(plugin),
        "tls_ca": plugin.tls_ca or f"{_FOLDER}/ca.crt",
        "tls_certificate": plugin.tls_certificate or f"{_FOLDER}/tls.crt",
        "tls_key": plugin.tls_key or f"{_FOLDER}/tls.key",
    }


def tenant_entry(label: str) -> dict[str, object]:
    """Return the entry of [[tenants]]. label: of the key that they write with."""
    return {"name": TENANT, "san": ["DNS:*.moved-over.example"], "key_label": label}


def certificates(plugin: K8sKmsPlugin) -> MigrationStep:
    """Return the step that gets both ends their certificates."""
    section = server_section(plugin)
    given = plugin.tls_ca or plugin.tls_certificate or plugin.tls_key
    checked = f" {PROGRAM} never used the files of its --tls flags: look at them before kmsd does." if given else ""
    return MigrationStep(
        "Issue certificates for this machine and for every node that connects by TCP",
        "One CA for all. Here a certificate for servers, with the host name that the nodes use; for each node one for "
        "clients, with a name of its own that `san` of [[tenants]] fits: put your own names there. docs/remote.md has "
        f"the commands for a small CA.{checked}",
        (
            f"openssl verify -purpose sslserver -CAfile {section['tls_ca']} {section['tls_certificate']}",
            f"openssl verify -purpose sslclient -CAfile {section['tls_ca']} NODE.crt",
        ),
    )


def proxies(plugin: K8sKmsPlugin) -> MigrationStep:
    """Return the step that brings kmsd to the nodes."""
    return MigrationStep(
        "Start `kmsd proxy` on every node that connects by TCP",
        "Tell whoever runs these clusters: what they use now is not encrypted on its way, and its port will be closed. "
        f"On each node {PROXY_FILE} names this machine, port {own_port(plugin)}, and the node's certificate "
        "(k8s/systemd/proxy.toml is one to begin from). It serves /run/kmsd/kms.sock; whatever carried the plain "
        "connection goes on beside it. `kmsctl doctor` must say that the round trip works. For kube-apiserver of these "
        "nodes the steps below are the same as here, with that socket.",
        (
            f"kmsd check-config --config {PROXY_FILE}",
            "systemctl enable --now kmsd-proxy",
            "kmsctl health --wait",
            "kmsctl doctor",
        ),
    )


def close_port(plugin: K8sKmsPlugin) -> MigrationStep:
    """Return the step that ends what is not encrypted."""
    return MigrationStep(
        f"Close port {plugin.port}",
        f"When every node has its proxy, and before {PROGRAM} is gone: in the firewall, and by --enable-server=false. "
        "Whatever relayed the plain connection on the nodes goes, too.",
        ("ss -tnp",),
    )


def back(plugin: K8sKmsPlugin) -> MigrationStep:
    """Return the step of the way back that is for the nodes."""
    return MigrationStep(
        "Give the nodes their old way again",
        f"{PROGRAM} must listen on port {plugin.port} again, and what relayed the plain connection must run on each "
        "node: then kube-apiserver's endpoint there is the old one. Stop the proxies when nothing is written by kmsd "
        "any more. What goes over that port can be read and changed by whoever is in between, as before.",
    )


def notes(plugin: K8sKmsPlugin) -> tuple[str, ...]:
    """Return what is different for callers from other machines."""
    told = [
        f"{PROGRAM} listens on TCP port {plugin.port}, without TLS whatever its flags say: close that port to all "
        f"but the nodes now. kmsd listens on port {own_port(plugin)} with TLS and client certificates only; it takes "
        f"the old port with server.port when {PROGRAM} has gone.",
        f"All who call {PROGRAM} have one key, so they are one tenant here ({TENANT}), and can read each other's "
        "values as before. Give each new cluster a tenant and a key of its own (docs/remote.md).",
    ]
    if plugin.cbc:
        told.append(
            "What aes-cbc wrote is read for kube-apiservers of this machine only, never for a tenant, for nothing "
            "protects it: rewrite what such clusters have stored before their nodes get a proxy, with aes-gcm."
        )
    return tuple(told)
