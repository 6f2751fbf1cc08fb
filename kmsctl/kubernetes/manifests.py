"""Write what ships for a cluster (the folder k8s) with a site's own names in it. Pure, but for reading what ships.

The files that ship are the one source: without an option they come out byte for byte, and each option changes the
places that the file has for it, comments and all. An option whose place is not there is a fault of the file.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from posixpath import dirname
from typing import Final

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes.places import SOCKET
from kmsctl.kubernetes.yamllines import scalar

STANDALONE: Final = "static-pod/kmsd.yaml"
PROXY: Final = "proxy/kmsd-proxy.yaml"
ENCRYPTION_CONFIG: Final = {"v2": "encryption-config/v2.yaml", "v1": "encryption-config/v1beta1.yaml"}
KEY_MANAGER: Final = "key-manager"
KEY_MANAGER_PARTS: Final = ("namespace", "deployment", "service", "disruption", "network-policy")
PROVIDERS: Final = {"v2": "kmsd", "v1": "kmsd-v1"}
UPSTREAMS_MAX: Final = 16
TENANTS_MAX: Final = 1000
NAMESPACE: Final = "kmsd"

_PATH = re.compile(r"/[A-Za-z0-9._/+-]*[A-Za-z0-9._+-]")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]*(?:@sha256:[0-9a-f]{64})?")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_RESOURCE = re.compile(r"\*\.[a-z0-9.*-]*|[a-z0-9][a-z0-9.-]*")
_SAN = re.compile(r"(?:DNS|URI|IP):[^\s\"\\]+")


@dataclass(frozen=True)
class Pod:
    """A site's own names in a static pod. Empty: as it ships. socket: of the KMS; jwt_socket: on which service account
    tokens are signed; image: with its tag or digest; user, group: numbers; mounts: folders of the node that the PKCS#11
    module needs, at the same path in the pod."""

    image: str = ""
    socket: str = ""
    user: int | None = None
    group: int | None = None
    mounts: tuple[str, ...] = ()
    jwt_socket: str = ""


@dataclass(frozen=True)
class Tenant:
    """A tenant of a key manager. san: name in the certificates of its nodes."""

    name: str
    san: str


def shipped(name: str) -> str:
    """Return a file of the folder k8s: of the installed package, or of the tree that this is run from."""
    packed = resources.files("kmsctl") / "k8s" / name
    found = packed if packed.is_file() else Path(__file__).parents[2] / "k8s" / name
    return found.read_text(encoding="utf-8")


def standalone(pod: Pod, *, token_label: str = "", key_label: str = "", module: str = "") -> str:
    """Return the static pod of a kmsd with a token. module: path of the PKCS#11 module in the pod. Raises
    UsageError."""
    text = _pod(shipped(STANDALONE), pod)
    if module:
        _check("--module", module, _PATH, "an absolute path")
        text = _line(text, "- --provider=softhsm", f"- --p11-lib={module}")
    if token_label:
        label = scalar(f"--p11-label={_plain('--token-label', token_label)}")
        text = _line(text, "- --p11-label=kmsd", f"- {label}")
    if key_label:
        label = scalar(f"--p11-key-label={_plain('--key-label', key_label)}")
        text = _line(text, "- --p11-key-label=k8s-kek", f"- {label}")
    return text


def proxy(pod: Pod, upstreams: Sequence[str] = ()) -> str:
    """Return the static pod of a proxy. upstreams: host:port of key managers. Raises UsageError."""
    text = _pod(shipped(PROXY), pod)
    if not upstreams:
        return text
    if len(upstreams) > UPSTREAMS_MAX:
        raise UsageError(f"there must be {UPSTREAMS_MAX} upstreams at most, got {len(upstreams)}", "name fewer")
    for each in upstreams:
        _check("--upstream", each, _ADDRESS, "host:port")
    lines = "\n".join(f"        - --upstream={each}" for each in upstreams)
    found = re.compile(r"(?:^        - --upstream=.*\n)+", re.MULTILINE)
    return _once(text, found, f"{lines}\n", "--upstream")


def encryption_config(
    api: str = "v2", *, socket: str = "", name: str = "", resource: Sequence[str] = (), reading: bool = False
) -> str:
    """Return an EncryptionConfiguration. api: v2 or v1. name: of the provider. reading: identity goes on to write, for
    the time until all kube-apiservers can read. Raises UsageError."""
    text = shipped(ENCRYPTION_CONFIG[api])
    if socket:
        text = _socket(text, socket)
    if name:
        if ":" in _plain("--name", name):
            raise UsageError(f"a provider's name must have no colon, got {name!r}", "it stands in every stored value")
        text = _line(text, f"name: {PROVIDERS[api]}", f"name: {scalar(name)}")
    if resource:
        for each in resource:
            _check("--resource", each, _RESOURCE, "a resource such as secrets, or a pattern such as `*.`")
        lines = "\n".join(f"      - {scalar(each)}" for each in resource)
        text = _line(text, "- secrets", lines, whole=True)
    if reading:
        text = _swapped(text)
    return text


def key_manager(
    *,
    image: str = "",
    namespace: str = NAMESPACE,
    token_label: str = "",
    module: str = "",
    tenants: Sequence[Tenant] = (),
) -> str:
    """Return the documents of a key manager in a cluster. Raises UsageError."""
    _check("--namespace", namespace, _DNS_LABEL, "a DNS label")
    documents = [shipped(f"{KEY_MANAGER}/{each}.yaml") for each in KEY_MANAGER_PARTS]
    settings = _settings(shipped(f"{KEY_MANAGER}/kmsd.toml"), token_label, module, tenants)
    documents.insert(1, _config_map(settings))
    done = "---\n".join(_placed(each, namespace) for each in documents)
    return _image(done, image)


def _config_map(settings: str) -> str:
    return (
        "# After a change: kubectl rollout restart deployment/kmsd-key-manager\n"
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: kmsd-key-manager\n"
        f"data:\n  kmsd.toml: |\n{textwrap.indent(settings, '    ', lambda line: bool(line.strip()))}"
    )


def _placed(document: str, namespace: str) -> str:
    """Return a document with its namespace in it, as kustomize puts it there."""
    if re.search(r"^kind: Namespace$", document, re.MULTILINE):
        return document.replace("\n  name: kmsd\n", f"\n  name: {namespace}\n")
    return re.sub(
        r"^metadata:\n(  name: .*)$", rf"metadata:\n\1\n  namespace: {namespace}", document, flags=re.MULTILINE
    )


def _settings(text: str, token_label: str, module: str, tenants: Sequence[Tenant]) -> str:
    if module:
        _check("--module", module, _PATH, "an absolute path")
        text = _line(text, 'module = "/opt/hsm/lib/libpkcs11.so"', f'module = "{module}"')
    if token_label:
        text = _line(text, 'label = "kmsd"', f"label = {json.dumps(_plain('--token-label', token_label))}")
    if not tenants:
        return text
    if len(tenants) > TENANTS_MAX:
        raise UsageError(f"there must be {TENANTS_MAX} tenants at most, got {len(tenants)}", "name fewer")
    block = re.compile(r"^\[\[tenants\]\]\n(?:.+\n)+", re.MULTILINE)
    return _once(text, block, "\n".join(_tenants(text, block, tenants)), "--tenant")


def _tenants(text: str, block: re.Pattern[str], tenants: Sequence[Tenant]) -> Iterator[str]:
    found = block.search(text)
    for each in tenants:
        _check("--tenant", each.name, _DNS_LABEL, "NAME=SAN, the name a DNS label")
        _check("--tenant", each.san, _SAN, "NAME=SAN, as cluster-a=DNS:*.cluster-a.test")
        own = {
            '"cluster-a"': f'"{each.name}"',
            '"DNS:*.cluster-a.test"': f'"{each.san}"',
            '"kek-a"': f'"kek-{each.name}"',
        }
        yield _replaced(found[0] if found else "", own)


def _pod(text: str, pod: Pod) -> str:
    if pod.socket:
        text = _socket(text, pod.socket)
    text = _image(text, pod.image)
    if pod.user is not None or pod.group is not None:
        user, group = pod.user or 0, pod.user or 0 if pod.group is None else pod.group
        lines = f"    runAsUser: {user}\n    runAsGroup: {group}\n" + ("    runAsNonRoot: true\n" if user else "")
        text = _once(text, re.compile(r"    runAsUser: 0\n    runAsGroup: 0\n"), lines, "--user")
    for at, path in enumerate(pod.mounts, 1):
        _check("--mount", path, _PATH, "an absolute path")
        mount = f"        - name: module-{at}\n          mountPath: {path}\n          readOnly: true\n"
        volume = f"    - name: module-{at}\n      hostPath:\n        path: {path}\n        type: Directory\n"
        text = _once(text, re.compile(r"^  volumes:\n", re.MULTILINE), f"{mount}  volumes:\n", "--mount") + volume
    return _jwt_socket(text, pod.jwt_socket) if pod.jwt_socket else text


def _socket(text: str, socket: str) -> str:
    return _replaced(text, {SOCKET: socket, dirname(SOCKET): _folder("--socket", socket)})


def _jwt_socket(text: str, socket: str) -> str:
    folder = _folder("--jwt-socket", socket)
    if re.search(rf"^ +mountPath: {re.escape(folder)}$", text, re.MULTILINE):
        raise UsageError(
            f"--jwt-socket must lie in a folder that nothing else is in, and {folder} is mounted already",
            "as /run/kmsd-jwt/jwt.sock: whoever may open it has a token of any service account signed",
        )
    mount = f"        - name: jwt\n          mountPath: {folder}\n"
    volume = f"    - name: jwt\n      hostPath:\n        path: {folder}\n        type: DirectoryOrCreate\n"
    for place, lines in (
        ("        - --admin-socket=.*\n", f"        - --jwt-socket={socket}\n"),
        ("        - name: admin\n          mountPath: .*\n", mount),
        ("    - name: admin\n      hostPath:\n(?:        .*\n)+", volume),
    ):
        text = _once(text, re.compile(f"^({place})", re.MULTILINE), None, "--jwt-socket", indented=lines)
    return text


def _folder(option: str, socket: str) -> str:
    """Return the folder of a socket. Raises UsageError if it is none of its own."""
    _check(option, socket, _PATH, "an absolute path")
    folder = dirname(socket)
    if folder in ("/", "/run", "/var/run", "/tmp", "/etc", "/var"):  # noqa: S108 - no file is made
        raise UsageError(f"{option} must lie in a folder of its own, which is mounted; got {socket!r}", "add one")
    return folder


def _image(text: str, image: str) -> str:
    if not image:
        return text
    _check("--image", image, _IMAGE, "a name with a tag or a digest")
    return _replaced(text, dict.fromkeys(re.findall(r"localhost/kmsd:[0-9][0-9A-Za-z.-]*", text), image))


def _swapped(text: str) -> str:
    """Return the text with its two providers, and the comments before each, in the other order."""
    found = re.search(
        r"^    providers:\n(?P<kms>(?:.*\n)*?)(?P<plain>(?:      #.*\n)*      - identity: \{\}\n)", text, re.MULTILINE
    )
    if found is None:
        raise LookupError("the providers of the file that ships are not where they are looked for")
    kms = re.sub(r"^      #.*\n", "", found["kms"], flags=re.MULTILINE)
    say = (
        "      # Writes until every kube-apiserver has this file and reads what kmsd will write; then kms goes first.\n"
    )
    return f"{text[: found.start('kms')]}{say}      - identity: {{}}\n{kms}{text[found.end('plain') :]}"


def _replaced(text: str, names: Mapping[str, str]) -> str:
    """Return the text with each of these names replaced where it stands as a whole one."""
    if not names:
        return text
    longest = sorted(names, key=len, reverse=True)
    pattern = rf"(?<![\w.-])({'|'.join(map(re.escape, longest))})(?![\w-])"
    return re.sub(pattern, lambda found: names[found[1]], text)


def _line(text: str, old: str, new: str, *, whole: bool = False) -> str:
    """Return the text with one line replaced. whole: its indentation, too."""
    found = re.compile(rf"^( *){re.escape(old)}$", re.MULTILINE)
    return _once(text, found, new if whole else None, old, indented=new)


def _once(text: str, found: re.Pattern[str], new: str | None, what: str, indented: str = "") -> str:
    if len(found.findall(text)) != 1:
        raise LookupError(f"the place of {what!r} in the file that ships is not there, or not the only one")
    return found.sub(lambda place: f"{place[1]}{indented}" if new is None else new, text)


def _check(option: str, value: str, form: re.Pattern[str], what: str) -> None:
    if not form.fullmatch(value) or len(value) > 512:
        raise UsageError(f"{option} must be {what}, got {value[:80]!r}", f"correct {option}")


def _plain(option: str, value: str) -> str:
    if not value.isprintable() or len(value) > 255:
        raise UsageError(
            f"{option} must be printable, and at most 255 characters, got {value[:80]!r}", f"correct {option}"
        )
    return value
