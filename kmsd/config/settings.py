"""The settings of one kmsd: typed, validated, frozen. Reads nothing itself; `kmsd.config.sources` does.

The section and field names are the names in the TOML file; `KMSD_<SECTION>__<FIELD>` in the environment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from kmsd import paths
from kmsd.config import pkcs11_uri

MAX_TOKENS = 8
MAX_TENANTS = 1024
MAX_ADMINS = 256
_SAN = r"DNS:(\*|[a-z0-9_-]+)(\.[a-z0-9_-]+)+|DNS:[a-z0-9_-]+|URI:[a-z][a-z0-9+.-]*://[^\s*/]+(/(\*|[^\s*/]+))*/?"
"""What `kmsd.transport.peers.NamePattern` takes."""
SESSIONS = '"auto" or a whole number from 1 to 64'


def _socket_path(path: Path) -> Path:
    text = str(path)
    if text.startswith(("@", "\0")):
        raise ValueError("a socket must be a path in a directory, for an abstract one has no permissions")
    if not path.is_absolute():
        raise ValueError("the path of a socket must be absolute")
    if len(text.encode()) > paths.SOCKET_PATH_MAX:
        raise ValueError(f"the path of a Unix socket must have {paths.SOCKET_PATH_MAX} bytes at most")
    return path


def _optional_socket(path: Path | None) -> Path | None:
    return None if path is None else _socket_path(path)


def _label(text: str) -> str:
    if not text or len(text.encode()) > 255 or not text.isprintable():
        raise ValueError("a label must have 1 to 255 bytes and no control characters")
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:%-]{1,255}", text):
        raise ValueError("a host must be a name or an IP address, without brackets and without a port")
    return text


def _key_file(path: Path | None) -> Path | None:
    if pkcs11_uri.is_uri(str(path)):
        raise ValueError("expected the path of a file: a key on a token is for kmsd proxy alone")
    return path


def _proxy_key(path: Path | None) -> Path | None:
    if pkcs11_uri.is_uri(str(path)):
        pkcs11_uri.parse(str(path))
    return path


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _sessions(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64):
        return value
    raise ValueError(f"expected {SESSIONS}")


SocketPath = Annotated[Path, AfterValidator(_socket_path)]
Label = Annotated[str, AfterValidator(_label)]
KeyId = Annotated[str, Field(min_length=1, max_length=512)]
KeyFile = Annotated[Path | None, AfterValidator(_key_file)]
ProxyKey = Annotated[Path | None, AfterValidator(_proxy_key)]
Host = Annotated[str, AfterValidator(_host)]
Sessions = Annotated[int | Literal["auto"], BeforeValidator(_sessions)]


class Section(BaseModel):
    """The base of every section: frozen, and without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Kms(Section):
    """The socket of the two KMS APIs."""

    socket: SocketPath = Field(default_factory=paths.kms_socket)
    """Path of the socket: absolute, 107 bytes at most."""
    mode: Literal["0600", "0660"] = "0600"
    """Mode of the socket."""
    group: str = ""
    """Group name that owns the socket; with mode 0660 its members may call."""
    on_hsm_loss: Literal["coast", "fail-closed"] = "coast"
    """What Status answers while the token is away. coast: a reason in healthz (kube-apiserver goes on
    with its cached data key); fail-closed: a gRPC error (kube-apiserver stops writing)."""
    transport: Literal["h2corn", "grpcio"] = "h2corn"
    """What speaks gRPC on the socket. h2corn: grpcio serves clients that address their requests to a path, which
    h2corn does not take. The admin socket always has grpcio."""
    request_timeout: float = Field(default=3.0, gt=0, le=60)
    """Seconds until a call without a deadline of its own is given up."""
    max_plaintext: int = Field(default=65536, ge=64, le=524288)
    """The most bytes that Encrypt of v1beta1 takes; v2 is bounded by kube-apiserver's 1 KiB for a ciphertext."""


class Admin(Section):
    """The socket of the admin API."""

    socket: SocketPath = Field(default_factory=paths.admin_socket)
    """Path of the socket: absolute, 107 bytes at most."""
    group: str = ""
    """Group name that owns the socket, which then has mode 0660; empty: mode 0600."""


class Server(Section):
    """The KMS and admin APIs for other machines, by TCP with TLS 1.3, for callers with certificates. The files are
    read anew when they change."""

    enabled: bool = False
    """Listen on TCP: with client certificates, and nothing without them."""
    host: Host = "0.0.0.0"  # noqa: S104 - k8s-kms-plugin's default; nothing is served there without TLS
    """Name or address to listen on."""
    port: int = Field(default=31400, ge=1, le=65535)
    """Port to listen on."""
    tls_ca: Path | None = None
    """PEM file with the CA certificates that callers' certificates are checked against."""
    tls_certificate: Path | None = None
    """PEM file with kmsd's certificate and its chain."""
    tls_key: KeyFile = None
    """PEM file with the private key of that certificate."""
    tls_revoked: Path | None = None
    """File of certificates that are not taken: CRLs as PEM, or serial numbers in hexadecimal, one a line."""
    max_connections: int = Field(default=4096, ge=8, le=65536)
    """Connections at once, of all callers together."""


def _upstreams(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(r"([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.%]+\]):[0-9]{1,5}", text):
            raise ValueError(f"an upstream must be host:port, and an IPv6 address in brackets, got {text!r}")
    if len(set(texts)) != len(texts):
        raise ValueError("an upstream is named twice")
    return texts


Upstreams = Annotated[
    tuple[Annotated[str, Field(max_length=300)], ...],
    BeforeValidator(_as_tuple),
    AfterValidator(_upstreams),
    Field(max_length=16),
]


def _est_server(text: str) -> str:
    if text and not re.fullmatch(
        r"https://([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.%]+\])(:[0-9]{1,5})?(/[^\s@?#]*)?", text
    ):
        raise ValueError("an EST server must be https://host[:port][/label]")
    return text


class Proxy(Section):
    """The key managers that `kmsd proxy` asks, by TLS 1.3 and with a certificate of its own. The files are read anew
    when they change."""

    upstreams: Upstreams = ()
    """Host and port of each key manager."""
    prefer: Literal["order", "spread"] = "order"
    """Which of the key managers that are well is asked. order: the first; spread: one after the other."""
    hedge: float = Field(default=0.0, ge=0, le=5)
    """Seconds after which the next key manager is asked beside one that has not answered yet; 0: only when it has
    failed, or half of the time is up."""
    server_name: str = Field(default="", max_length=253)
    """Name that the certificates of key managers must have; empty: the host of each."""
    tls_ca: Path | None = None
    """PEM file with the CA certificates that those of key managers are checked against."""
    tls_certificate: Path | None = None
    """PEM file with the proxy's certificate and its chain."""
    tls_key: ProxyKey = None
    """PEM file with the private key of that certificate; or, experimental, a key on a token of this machine:
    pkcs11:token=LABEL;object=NAME?module-path=/path/of/module.so&pin-source=file:/path (RFC 7512)."""
    est_server: Annotated[str, Field(max_length=512), AfterValidator(_est_server)] = ""
    """EST server that renews this certificate, https://host[:port][/label]; empty: whoever put it there does."""


def _sans(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(_SAN, text, re.IGNORECASE):
            raise ValueError(
                "a name must be DNS:name, with * for the first label, or URI:uri, with * for segments of the path, "
                f"got {text!r}"
            )
    return texts


Sans = Annotated[
    tuple[Annotated[str, Field(max_length=512)], ...],
    BeforeValidator(_as_tuple),
    AfterValidator(_sans),
    Field(min_length=1, max_length=64),
]


Issuers = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...], BeforeValidator(_as_tuple), Field(max_length=16)
]


class Tenant(Section):
    """A cluster that this key manager serves, `[[tenants]]` in the file."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Name of the tenant in commands, logs and statistics."""
    san: Sans
    """Names in its certificates: exact, or with * for one part of the name."""
    key_label: Label
    """Its write key is the one with this CKA_LABEL. It reads what keys wrote that have or had this label, and nothing
    else."""
    max_rate: float = Field(default=0.0, ge=0, le=1_000_000)
    """Calls in a second; 0: any number."""
    max_in_flight: int = Field(default=0, ge=0, le=100_000)
    """Calls at once; 0: any number."""
    jwt_label: str = Field(default="", max_length=255)
    """CKA_LABEL of the key that signs its service account tokens; empty: none are signed."""
    jwt_issuers: Issuers = ()
    """As jwt.issuers, for this tenant."""


class AdminEntry(Section):
    """A caller that may use the admin API from other machines, `[[admins]]` in the file."""

    san: Sans
    """Names in the caller's certificates, in the form of a tenant's."""
    role: Literal["viewer", "operator"] = "viewer"
    """viewer: looks at everything. operator: changes keys, too."""


def _names(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(_SAN, re.sub(r"\{(node|tenant)\}", "x", text), re.IGNORECASE) or "*" in text:
            raise ValueError(
                "a name must be DNS:name or URI:uri, with {node} and {tenant} for parts of it and without *, got "
                f"{text!r}"
            )
        if "{node}" not in text:
            raise ValueError(f"a name must have {{node}} in it, or all nodes would share it, got {text!r}")
    return texts


CertificateNames = Annotated[
    tuple[Annotated[str, Field(max_length=512)], ...],
    BeforeValidator(_as_tuple),
    AfterValidator(_names),
    Field(max_length=16),
]
_CERTIFIED_KEYS = ("ec-p256", "ec-p384", "ec-p521", "rsa-2048", "rsa-3072", "rsa-4096")


def _key_types(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if text not in _CERTIFIED_KEYS:
            raise ValueError(f"a type of key must be one of {', '.join(_CERTIFIED_KEYS)}, got {text!r}")
    return texts


KeyTypes = Annotated[
    tuple[Annotated[str, Field(max_length=16)], ...],
    BeforeValidator(_as_tuple),
    AfterValidator(_key_types),
    Field(min_length=1, max_length=len(_CERTIFIED_KEYS)),
]


def _crl_url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[!-~]+", text):
        raise ValueError(f"the address of a list of revocations must be an http or https URL, got {text!r}")
    return text


class Ca(Section):
    """The certificate authority of nodes, whose key is on the token."""

    enabled: bool = False
    """Issue certificates for nodes."""
    token: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    """Name of the token where its keys are made; empty: the token that gets the new keys."""
    key_label: Label = "kmsd-ca"
    """The key that signs is the one with this CKA_LABEL, among those that were made for it."""
    lifetime: float = Field(default=30 * 86400.0, ge=60, le=825 * 86400)
    """Seconds that a node's certificate is in force."""
    backdate: float = Field(default=300.0, ge=0, le=86400)
    """Seconds that it is in force before it is made, for clocks that are behind; no longer than its lifetime."""
    key_types: KeyTypes = ("ec-p256", "ec-p384", "rsa-3072", "rsa-4096")
    """Types of keys that nodes may have."""
    names: CertificateNames = ()
    """Names in the certificates: "DNS:name" and "URI:uri" with {node} and {tenant} in them. Empty: the tenant's san,
    with the node in the place of the *."""
    crl_lifetime: float = Field(default=7 * 86400.0, ge=600, le=90 * 86400)
    """Seconds until a list of revocations must be had anew; it is made anew at half of them."""
    crl_url: Annotated[str, Field(max_length=512), AfterValidator(_crl_url)] = ""
    """Address of that list, which certificates name; empty: they name none."""


class Jwt(Section):
    """The signer of service account tokens, on a socket of its own (`--service-account-signing-endpoint` of
    kube-apiserver)."""

    socket: Annotated[Path | None, AfterValidator(_optional_socket)] = None
    """Unix socket that kube-apiserver calls; None: no such socket."""
    mode: Literal["0600", "0660"] = "0600"
    """Mode of the socket."""
    group: str = ""
    """Group name that owns the socket; with mode 0660 its members may call, and so have any token signed."""
    key_label: Label = "sa-signer"
    """The key that signs is the one with this CKA_LABEL, among those that were made for it."""
    token: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    """Name of the token where its keys are made; empty: the token that gets the new keys."""
    issuers: Issuers = ()
    """Issuers (iss) of the tokens that are signed; empty: any. kube-apiserver's --service-account-issuer."""
    max_token_expiration: float = Field(default=86400.0, ge=600, le=366 * 86400)
    """Seconds for which a token may be in force. A key stays published as long after it has stopped signing."""
    refresh_hint: float = Field(default=60.0, ge=1, le=3600)
    """Seconds after which kube-apiserver asks again for the published keys, and until which others may keep them."""
    request_timeout: float = Field(default=10.0, gt=0, le=60)
    """Seconds until a call without a deadline of its own is given up."""
    max_rate: float = Field(default=0.0, ge=0, le=1_000_000)
    """Tokens that are signed in a second; 0: any number."""


class Token(Section):
    """The PKCS#11 module, the token on it, and how to log in."""

    provider: Literal[
        "auto", "p11", "softhsm", "tpm2", "p11-kit", "luna", "dpod", "cloudhsm", "opencryptoki", "generic"
    ] = "auto"
    """Vendor of the token, which says where its module lies and how it behaves. auto and p11: told by the module."""
    module: str = ""
    """Path of the PKCS#11 module."""
    label: str = ""
    """Label of the token."""
    slot: int | None = Field(default=None, ge=0)
    """Slot id; wins over label."""
    pin: SecretStr | None = None
    """Prefer pin_file: a PIN in a command line or in the environment can be read by others."""
    pin_file: Path | None = None
    """A file with the PIN on its first line. A relative path is looked up in $CREDENTIALS_DIRECTORY first."""
    sessions: Sessions = "auto"
    """Worker threads, each with a session of its own. auto: 4, and up to 32 while calls wait for a slow token that more
    sessions make faster."""
    queue: int = Field(default=1024, ge=1, le=65536)
    """Calls that may wait for a session."""


class TokenEntry(Token):
    """An entry of `[[tokens]]` in the file; these take the place of [token]."""

    name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    """Name of the token in commands; empty: its label, or its slot."""
    write: bool = False
    """New keys are made here; the first token if none says so."""

    @property
    def called(self) -> str:
        return self.name or self.label or ("token" if self.slot is None else f"slot-{self.slot}")


class Keys(Section):
    """The settings of which key writes, and how."""

    label: Label = "k8s-kek"
    """The write key is the one with this CKA_LABEL."""
    hmac_label: str = ""
    """Label of a second key for AES-CBC pairs."""
    algorithm: Literal["auto", "aes-gcm", "aes-cbc", "rsa-oaep"] = "auto"
    """auto: AES-GCM if the token has it, else AES-CBC with an HMAC key. rsa-oaep: as auto, and RSA keys with the write
    label serve, too: for tokens without AES, because whoever knows the public key can write what opens."""
    write_format: Literal["native", "k8s-kms-plugin"] = "native"
    """Form of what is written. native: JWE. k8s-kms-plugin: its aes-gcm, so that a cluster can move back."""
    auto_create: bool = False
    """Make the write key at start if the token has none."""
    adopt: Literal["auto", "public", "never"] = "auto"
    """Whether kmsd gives a CKA_ID to the one key with the write label, if it lacks one. auto: to a private key
    (CKA_PRIVATE). public: to a public key, too, by making a private key of it."""
    trust_public_objects: Annotated[tuple[KeyId, ...], BeforeValidator(_as_tuple)] = Field(default=(), max_length=64)
    """Key ids of keys that are used although their objects are not private (CKA_PRIVATE false), for tokens that keep no
    private ones: whoever reaches the token without a PIN can put another key in their place."""
    refresh: float = Field(default=10.0, ge=0.1, le=3600)
    """Seconds between looks at the token for keys made or moved by others."""

    @field_validator("hmac_label")
    @classmethod
    def _another_key(cls, text: str, info: ValidationInfo) -> str:
        if text and text == info.data.get("label"):
            raise ValueError("expected another label than keys.label: the HMAC key of a pair is not its AES key")
        return text


class Legacy(Section):
    """The settings of reading what k8s-kms-plugin wrote with aes-cbc, whose tag authenticates nothing."""

    allow_unauthenticated: bool = False
    """Read such values with the one key that legacy.key names: whoever can write to etcd can alter them unseen."""
    key: str = Field(default="", max_length=512)
    """Label or key id of the AES key that reads them."""


class Health(Section):
    """The settings of the background round trips."""

    interval: float = Field(default=10.0, ge=0.1, le=300)
    """Seconds between background round trips with the write key."""
    stuck_after: float = Field(default=10.0, ge=0.1, le=600)
    """Seconds in one HSM call after which its session counts as stuck."""
    give_up_after: float = Field(default=120.0, ge=0, le=86400)
    """Seconds after which kmsd ends by itself when only a restart can help: a socket that cannot be made again or
    does not answer, an event loop that does not turn. 0: never."""


class Log(Section):
    """The settings of the log."""

    format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, else json."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Level to log from. debug: a line for each call. info: a line for each change."""


class Audit(Section):
    """The record of what was done, in two hash chains of JSON lines: what is said of a file holds for each."""

    enabled: bool = True
    """Write the audit."""
    file: Path | None = None
    """None: audit.jsonl in the state directory. The calls of the KMS APIs are in audit-kms.jsonl beside it."""
    kms: Literal["none", "sampled", "all"] = "sampled"
    """Which calls of the KMS APIs are recorded; admin actions and events always are, failed KMS calls unless none."""
    sample: int = Field(default=100, ge=1, le=1_000_000)
    """With kms = "sampled": one of so many calls."""
    max_bytes: int = Field(default=16 * 1024 * 1024, ge=65536, le=1024**3)
    """Size at which a file is put aside and the chain goes on in a new one."""
    keep: int = Field(default=10, ge=1, le=1000)
    """Files put aside that are kept."""
    required: bool = False
    """Refuse admin actions that change something while the audit cannot be written."""


def _store_url(text: str) -> str:
    if text and not text.startswith("postgresql+psycopg://"):
        raise ValueError("a store must be postgresql+psycopg://user@host/name, or empty for SQLite in state.dir")
    # Of whatever form: what stands before an @ in the authority may have a colon only in front of a password.
    if re.match(r"[^/]*//[^/?#]*:[^/?#]*@", text) or re.search(r"[?&](password|passfile)=", text):
        raise ValueError("the URL of the store must have no password: put it in a file that store.password_file names")
    return text


class Store(Section):
    """The database of what key managers share: enrolment tokens, certificates, revocations. Opened with [est] or [ca]
    alone; keys and their rotation never depend on it."""

    url: Annotated[str, Field(max_length=1024), AfterValidator(_store_url)] = ""
    """PostgreSQL, for several key managers; empty: SQLite in the state directory."""
    password_file: Path | None = None
    """A file with the password on its first line. A relative path is looked up in $CREDENTIALS_DIRECTORY first."""


def _listen(text: str) -> str:
    if text and not (re.fullmatch(r"([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.%]+\]):[0-9]{1,5}", text)):
        raise ValueError("an address to listen on must be host:port, and an IPv6 address in brackets")
    if text and not 1 <= int(text.rpartition(":")[2]) <= 65535:
        raise ValueError("a port must be from 1 to 65535")
    return text


def _loopback(host: str) -> bool:
    return host == "localhost" or host.strip("[]") == "::1" or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


class Observe(Section):
    """The metrics and probes over HTTP, for whoever watches kmsd. They change nothing and hold no secret, and nobody is
    asked who they are."""

    allow_remote: bool = False
    """Let other machines read them: by no TLS and without a certificate, what anybody on the way can read, too."""
    listen: Annotated[str, Field(max_length=300)] = ""
    """Host and port, or unix: and the path of a socket; empty: nothing is answered."""
    group: str = ""
    """Group name that owns that socket, which then has mode 0660; empty: mode 0600."""

    @field_validator("listen")
    @classmethod
    def _here(cls, text: str, info: ValidationInfo) -> str:
        if text.startswith("unix:"):
            _socket_path(Path(text.removeprefix("unix:")))
            return text
        _listen(text)
        host = text.rpartition(":")[0]
        if host and not _loopback(host) and not info.data.get("allow_remote"):
            raise ValueError(
                "a port of metrics must be on 127.0.0.1, [::1] or localhost, or observe.allow_remote must be true, "
                "which lets whoever reaches it read them"
            )
        return text


class Est(Section):
    """The server with which nodes enrol (EST, RFC 7030), by TLS 1.3. The files are read anew when they change."""

    listen: Annotated[str, Field(max_length=300), AfterValidator(_listen)] = ""
    """Host and port; empty: no such server."""
    tls_certificate: Path | None = None
    """PEM file with the server's certificate and its chain; None: one that the CA issues, and without [ca]
    server.tls_certificate."""
    tls_key: KeyFile = None
    """PEM file with the private key of that certificate; None: as with the certificate."""
    names: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")], ...], BeforeValidator(_as_tuple)
    ] = Field(default=(), max_length=32)
    """Names and IP addresses in the certificate that the CA issues for this server; empty: those of this machine."""
    approval: Literal["token", "manual"] = "token"
    """How a node gets its first certificate. token: with an enrolment token alone. manual: one without a token waits
    for an operator."""
    max_connections: int = Field(default=256, ge=8, le=65536)
    """Connections at once, of all nodes together."""


class State(Section):
    """The settings of what is kept across restarts: the id of the key that wrote last, when kube-apiserver followed to
    it, when each key was used, and which keys were made here and never used."""

    dir: Path = Field(default_factory=paths.state_dir)
    """Directory of all of that, and of the audit."""


def _told_apart(tokens: tuple[TokenEntry, ...]) -> tuple[TokenEntry, ...]:
    names = [token.called for token in tokens]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two tokens are called {twice[0]!r}: give each a name")
    if sum(token.write for token in tokens) > 1:
        raise ValueError("write = true must stand in one token at most, where new keys are made")
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"there must be {MAX_TOKENS} tokens at most, found {len(tokens)}")
    return tokens


def _tenants_apart(tenants: tuple[Tenant, ...]) -> tuple[Tenant, ...]:
    for what, each in (("name", [t.name for t in tenants]), ("key_label", [t.key_label for t in tenants])):
        twice = sorted({text for text in each if each.count(text) > 1})
        if twice:
            raise ValueError(f"two tenants have the {what} {twice[0]!r}: give each its own")
    if len(tenants) > MAX_TENANTS:
        raise ValueError(f"there must be {MAX_TENANTS} tenants at most, found {len(tenants)}")
    labels = [t.jwt_label for t in tenants if t.jwt_label]
    shared = sorted({text for text in labels if labels.count(text) > 1})
    if shared:
        raise ValueError(f"two tenants have the jwt_label {shared[0]!r}: give each its own")
    named = [*(t.key_label for t in tenants), *labels]
    derived = next((text for text in named if _DERIVED.search(text)), None)
    if derived is not None:
        raise ValueError(f"a tenant has the label {derived!r}, which is what a rotation makes of another label")
    return tenants


def _few_admins(admins: tuple[AdminEntry, ...]) -> tuple[AdminEntry, ...]:
    if len(admins) > MAX_ADMINS:
        raise ValueError(f"there must be {MAX_ADMINS} admins at most, found {len(admins)}")
    return admins


_DERIVED = re.compile(r"@[0-9]{8}T[0-9]{6}Z$|\.pending$|\.hmac$")


class Settings(Section):
    """The settings of one kmsd, by section."""

    kms: Kms = Field(default_factory=Kms)
    admin: Admin = Field(default_factory=Admin)
    server: Server = Field(default_factory=Server)
    proxy: Proxy = Field(default_factory=Proxy)
    token: Token = Field(default_factory=Token)
    tokens: Annotated[tuple[TokenEntry, ...], BeforeValidator(_as_tuple), AfterValidator(_told_apart)] = ()
    """Several tokens: every key of theirs decrypts, one of them gets the new keys."""
    tenants: Annotated[tuple[Tenant, ...], BeforeValidator(_as_tuple), AfterValidator(_tenants_apart)] = ()
    """Whom the key manager serves by TCP, each with a key of its own."""
    admins: Annotated[tuple[AdminEntry, ...], BeforeValidator(_as_tuple), AfterValidator(_few_admins)] = ()
    """Who may call the admin API by TCP; nobody if there are none."""
    keys: Keys = Field(default_factory=Keys)
    legacy: Legacy = Field(default_factory=Legacy)
    health: Health = Field(default_factory=Health)
    log: Log = Field(default_factory=Log)
    audit: Audit = Field(default_factory=Audit)
    observe: Observe = Field(default_factory=Observe)
    store: Store = Field(default_factory=Store)
    est: Est = Field(default_factory=Est)
    ca: Ca = Field(default_factory=Ca)
    jwt: Jwt = Field(default_factory=Jwt)
    state: State = Field(default_factory=State)

    @property
    def places(self) -> tuple[TokenEntry, ...]:
        """The tokens to use, whichever way they were configured."""
        return self.tokens or (TokenEntry(**dict(self.token)),)

    @property
    def signs_tokens(self) -> bool:
        """Whether service account tokens are signed, for kmsd's own socket or a tenant."""
        return self.jwt.socket is not None or any(each.jwt_label for each in self.tenants)

    @property
    def write_place(self) -> TokenEntry:
        """The token that gets the new keys."""
        return next((token for token in self.places if token.write), self.places[0])
