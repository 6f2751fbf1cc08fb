from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JwtKey(_message.Message):
    __slots__ = ("kid", "alg", "state", "published", "proven", "excluded_from_discovery", "pem", "jwk", "label", "key_id", "token", "from_outside", "published_unix_ms", "stopped_unix_ms", "needed_until_unix_ms", "trusted_unix_ms", "note", "signed", "last_signed_unix_ms", "reason", "hint")
    KID_FIELD_NUMBER: _ClassVar[int]
    ALG_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    PROVEN_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FROM_DISCOVERY_FIELD_NUMBER: _ClassVar[int]
    PEM_FIELD_NUMBER: _ClassVar[int]
    JWK_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    FROM_OUTSIDE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STOPPED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    NEEDED_UNTIL_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    LAST_SIGNED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    kid: str
    alg: str
    state: str
    published: bool
    proven: bool
    excluded_from_discovery: bool
    pem: str
    jwk: str
    label: str
    key_id: str
    token: str
    from_outside: bool
    published_unix_ms: int
    stopped_unix_ms: int
    needed_until_unix_ms: int
    trusted_unix_ms: int
    note: str
    signed: int
    last_signed_unix_ms: int
    reason: str
    hint: str
    def __init__(self, kid: _Optional[str] = ..., alg: _Optional[str] = ..., state: _Optional[str] = ..., published: _Optional[bool] = ..., proven: _Optional[bool] = ..., excluded_from_discovery: _Optional[bool] = ..., pem: _Optional[str] = ..., jwk: _Optional[str] = ..., label: _Optional[str] = ..., key_id: _Optional[str] = ..., token: _Optional[str] = ..., from_outside: _Optional[bool] = ..., published_unix_ms: _Optional[int] = ..., stopped_unix_ms: _Optional[int] = ..., needed_until_unix_ms: _Optional[int] = ..., trusted_unix_ms: _Optional[int] = ..., note: _Optional[str] = ..., signed: _Optional[int] = ..., last_signed_unix_ms: _Optional[int] = ..., reason: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class JwtFetcher(_message.Message):
    __slots__ = ("who", "first_unix_ms", "last_unix_ms", "current")
    WHO_FIELD_NUMBER: _ClassVar[int]
    FIRST_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    who: str
    first_unix_ms: int
    last_unix_ms: int
    current: bool
    def __init__(self, who: _Optional[str] = ..., first_unix_ms: _Optional[int] = ..., last_unix_ms: _Optional[int] = ..., current: _Optional[bool] = ...) -> None: ...

class GetJwtRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class GetJwtResponse(_message.Message):
    __slots__ = ("state", "reason", "hint", "tenant", "socket", "label", "issuers", "max_token_expiration_ms", "refresh_hint_ms", "keys", "data_timestamp_unix_ms", "fetchers", "now_unix_ms")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    ISSUERS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKEN_EXPIRATION_MS_FIELD_NUMBER: _ClassVar[int]
    REFRESH_HINT_MS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    DATA_TIMESTAMP_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    FETCHERS_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    state: str
    reason: str
    hint: str
    tenant: str
    socket: str
    label: str
    issuers: _containers.RepeatedScalarFieldContainer[str]
    max_token_expiration_ms: int
    refresh_hint_ms: int
    keys: _containers.RepeatedCompositeFieldContainer[JwtKey]
    data_timestamp_unix_ms: int
    fetchers: _containers.RepeatedCompositeFieldContainer[JwtFetcher]
    now_unix_ms: int
    def __init__(self, state: _Optional[str] = ..., reason: _Optional[str] = ..., hint: _Optional[str] = ..., tenant: _Optional[str] = ..., socket: _Optional[str] = ..., label: _Optional[str] = ..., issuers: _Optional[_Iterable[str]] = ..., max_token_expiration_ms: _Optional[int] = ..., refresh_hint_ms: _Optional[int] = ..., keys: _Optional[_Iterable[_Union[JwtKey, _Mapping]]] = ..., data_timestamp_unix_ms: _Optional[int] = ..., fetchers: _Optional[_Iterable[_Union[JwtFetcher, _Mapping]]] = ..., now_unix_ms: _Optional[int] = ...) -> None: ...

class PublishJwtKeyRequest(_message.Message):
    __slots__ = ("tenant", "type", "token", "dry_run")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    type: str
    token: str
    dry_run: bool
    def __init__(self, tenant: _Optional[str] = ..., type: _Optional[str] = ..., token: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class PublishJwtKeyResponse(_message.Message):
    __slots__ = ("key", "created")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    key: JwtKey
    created: bool
    def __init__(self, key: _Optional[_Union[JwtKey, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class SwitchJwtKeyRequest(_message.Message):
    __slots__ = ("tenant", "kid", "force", "dry_run")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    kid: str
    force: bool
    dry_run: bool
    def __init__(self, tenant: _Optional[str] = ..., kid: _Optional[str] = ..., force: _Optional[bool] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class SwitchJwtKeyResponse(_message.Message):
    __slots__ = ("key", "previous", "switched")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    SWITCHED_FIELD_NUMBER: _ClassVar[int]
    key: JwtKey
    previous: JwtKey
    switched: bool
    def __init__(self, key: _Optional[_Union[JwtKey, _Mapping]] = ..., previous: _Optional[_Union[JwtKey, _Mapping]] = ..., switched: _Optional[bool] = ...) -> None: ...

class RetireJwtKeyRequest(_message.Message):
    __slots__ = ("tenant", "kid", "confirm_kid", "dry_run")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_KID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    kid: str
    confirm_kid: str
    dry_run: bool
    def __init__(self, tenant: _Optional[str] = ..., kid: _Optional[str] = ..., confirm_kid: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class RetireJwtKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: JwtKey
    def __init__(self, key: _Optional[_Union[JwtKey, _Mapping]] = ...) -> None: ...

class ImportJwtKeyRequest(_message.Message):
    __slots__ = ("tenant", "private_key", "pending", "token", "dry_run")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    private_key: bytes
    pending: bool
    token: str
    dry_run: bool
    def __init__(self, tenant: _Optional[str] = ..., private_key: _Optional[bytes] = ..., pending: _Optional[bool] = ..., token: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class ImportJwtKeyResponse(_message.Message):
    __slots__ = ("key", "imported", "wrapped")
    KEY_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_FIELD_NUMBER: _ClassVar[int]
    WRAPPED_FIELD_NUMBER: _ClassVar[int]
    key: JwtKey
    imported: bool
    wrapped: bool
    def __init__(self, key: _Optional[_Union[JwtKey, _Mapping]] = ..., imported: _Optional[bool] = ..., wrapped: _Optional[bool] = ...) -> None: ...

class TrustJwtKeyRequest(_message.Message):
    __slots__ = ("tenant", "public_keys", "exclude_from_discovery", "note", "dry_run")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEYS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FROM_DISCOVERY_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    public_keys: bytes
    exclude_from_discovery: bool
    note: str
    dry_run: bool
    def __init__(self, tenant: _Optional[str] = ..., public_keys: _Optional[bytes] = ..., exclude_from_discovery: _Optional[bool] = ..., note: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class TrustJwtKeyResponse(_message.Message):
    __slots__ = ("keys", "added")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[JwtKey]
    added: int
    def __init__(self, keys: _Optional[_Iterable[_Union[JwtKey, _Mapping]]] = ..., added: _Optional[int] = ...) -> None: ...

class UntrustJwtKeyRequest(_message.Message):
    __slots__ = ("tenant", "kid", "confirm_kid", "dry_run")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_KID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    kid: str
    confirm_kid: str
    dry_run: bool
    def __init__(self, tenant: _Optional[str] = ..., kid: _Optional[str] = ..., confirm_kid: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class UntrustJwtKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: JwtKey
    def __init__(self, key: _Optional[_Union[JwtKey, _Mapping]] = ...) -> None: ...
