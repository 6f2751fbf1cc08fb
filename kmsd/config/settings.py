"""The settings of one kmsd: typed, validated, frozen. Reads nothing itself; `kmsd.config.sources` does.

The section and field names are the names in the TOML file; `KMSD_<SECTION>__<FIELD>` in the environment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from kmsd import paths
from kmsd.config.enrolment import Ca, Est, Store
from kmsd.config.kinds import (
    Issuers,
    KeyId,
    Label,
    Section,
    Sessions,
    SocketPath,
    as_tuple,
    check_listen,
    optional_socket,
    socket_path,
)
from kmsd.config.remote import AdminEntry, Proxy, Server, Tenant, few_admins, tenants_apart

MAX_TOKENS = 8


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


class Jwt(Section):
    """The signer of service account tokens, on a socket of its own (`--service-account-signing-endpoint` of
    kube-apiserver)."""

    socket: Annotated[Path | None, AfterValidator(optional_socket)] = None
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
    trust_public_objects: Annotated[tuple[KeyId, ...], BeforeValidator(as_tuple)] = Field(default=(), max_length=64)
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
            socket_path(Path(text.removeprefix("unix:")))
            return text
        check_listen(text)
        host = text.rpartition(":")[0]
        if host and not _loopback(host) and not info.data.get("allow_remote"):
            raise ValueError(
                "a port of metrics must be on 127.0.0.1, [::1] or localhost, or observe.allow_remote must be true, "
                "which lets whoever reaches it read them"
            )
        return text


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


class Settings(Section):
    """The settings of one kmsd, by section."""

    kms: Kms = Field(default_factory=Kms)
    admin: Admin = Field(default_factory=Admin)
    server: Server = Field(default_factory=Server)
    proxy: Proxy = Field(default_factory=Proxy)
    token: Token = Field(default_factory=Token)
    tokens: Annotated[tuple[TokenEntry, ...], BeforeValidator(as_tuple), AfterValidator(_told_apart)] = ()
    """Several tokens: every key of theirs decrypts, one of them gets the new keys."""
    tenants: Annotated[tuple[Tenant, ...], BeforeValidator(as_tuple), AfterValidator(tenants_apart)] = ()
    """Whom the key manager serves by TCP, each with a key of its own."""
    admins: Annotated[tuple[AdminEntry, ...], BeforeValidator(as_tuple), AfterValidator(few_admins)] = ()
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
