from kmsd.api.admin.v1 import enrol_pb2 as _enrol_pb2
from kmsd.api.admin.v1 import jwt_pb2 as _jwt_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union
from kmsd.api.admin.v1.enrol_pb2 import EnrolmentToken as EnrolmentToken
from kmsd.api.admin.v1.enrol_pb2 import CreateEnrolmentTokenRequest as CreateEnrolmentTokenRequest
from kmsd.api.admin.v1.enrol_pb2 import CreateEnrolmentTokenResponse as CreateEnrolmentTokenResponse
from kmsd.api.admin.v1.enrol_pb2 import ListEnrolmentTokensRequest as ListEnrolmentTokensRequest
from kmsd.api.admin.v1.enrol_pb2 import ListEnrolmentTokensResponse as ListEnrolmentTokensResponse
from kmsd.api.admin.v1.enrol_pb2 import RevokeEnrolmentTokenRequest as RevokeEnrolmentTokenRequest
from kmsd.api.admin.v1.enrol_pb2 import RevokeEnrolmentTokenResponse as RevokeEnrolmentTokenResponse
from kmsd.api.admin.v1.enrol_pb2 import EnrolmentRequest as EnrolmentRequest
from kmsd.api.admin.v1.enrol_pb2 import ListEnrolmentRequestsRequest as ListEnrolmentRequestsRequest
from kmsd.api.admin.v1.enrol_pb2 import ListEnrolmentRequestsResponse as ListEnrolmentRequestsResponse
from kmsd.api.admin.v1.enrol_pb2 import DecideEnrolmentRequestRequest as DecideEnrolmentRequestRequest
from kmsd.api.admin.v1.enrol_pb2 import DecideEnrolmentRequestResponse as DecideEnrolmentRequestResponse
from kmsd.api.admin.v1.enrol_pb2 import CheckStoreRequest as CheckStoreRequest
from kmsd.api.admin.v1.enrol_pb2 import CheckStoreResponse as CheckStoreResponse
from kmsd.api.admin.v1.enrol_pb2 import BackUpStoreRequest as BackUpStoreRequest
from kmsd.api.admin.v1.enrol_pb2 import BackUpStoreResponse as BackUpStoreResponse
from kmsd.api.admin.v1.jwt_pb2 import JwtKey as JwtKey
from kmsd.api.admin.v1.jwt_pb2 import JwtFetcher as JwtFetcher
from kmsd.api.admin.v1.jwt_pb2 import GetJwtRequest as GetJwtRequest
from kmsd.api.admin.v1.jwt_pb2 import GetJwtResponse as GetJwtResponse
from kmsd.api.admin.v1.jwt_pb2 import PublishJwtKeyRequest as PublishJwtKeyRequest
from kmsd.api.admin.v1.jwt_pb2 import PublishJwtKeyResponse as PublishJwtKeyResponse
from kmsd.api.admin.v1.jwt_pb2 import SwitchJwtKeyRequest as SwitchJwtKeyRequest
from kmsd.api.admin.v1.jwt_pb2 import SwitchJwtKeyResponse as SwitchJwtKeyResponse
from kmsd.api.admin.v1.jwt_pb2 import RetireJwtKeyRequest as RetireJwtKeyRequest
from kmsd.api.admin.v1.jwt_pb2 import RetireJwtKeyResponse as RetireJwtKeyResponse
from kmsd.api.admin.v1.jwt_pb2 import ImportJwtKeyRequest as ImportJwtKeyRequest
from kmsd.api.admin.v1.jwt_pb2 import ImportJwtKeyResponse as ImportJwtKeyResponse
from kmsd.api.admin.v1.jwt_pb2 import TrustJwtKeyRequest as TrustJwtKeyRequest
from kmsd.api.admin.v1.jwt_pb2 import TrustJwtKeyResponse as TrustJwtKeyResponse
from kmsd.api.admin.v1.jwt_pb2 import UntrustJwtKeyRequest as UntrustJwtKeyRequest
from kmsd.api.admin.v1.jwt_pb2 import UntrustJwtKeyResponse as UntrustJwtKeyResponse

DESCRIPTOR: _descriptor.FileDescriptor

class ServingState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVING_STATE_UNSPECIFIED: _ClassVar[ServingState]
    SERVING_STATE_SERVING: _ClassVar[ServingState]
    SERVING_STATE_DEGRADED: _ClassVar[ServingState]
    SERVING_STATE_DOWN: _ClassVar[ServingState]

class KeyState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_STATE_UNSPECIFIED: _ClassVar[KeyState]
    KEY_STATE_WRITE: _ClassVar[KeyState]
    KEY_STATE_READABLE: _ClassVar[KeyState]
    KEY_STATE_PENDING: _ClassVar[KeyState]
    KEY_STATE_UNUSABLE: _ClassVar[KeyState]
    KEY_STATE_COMPANION: _ClassVar[KeyState]
    KEY_STATE_ARCHIVED: _ClassVar[KeyState]
    KEY_STATE_PLANTED: _ClassVar[KeyState]
    KEY_STATE_SIGNING: _ClassVar[KeyState]

class KeyType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_TYPE_UNSPECIFIED: _ClassVar[KeyType]
    KEY_TYPE_AES: _ClassVar[KeyType]
    KEY_TYPE_HMAC: _ClassVar[KeyType]
    KEY_TYPE_OTHER: _ClassVar[KeyType]
    KEY_TYPE_PAIR: _ClassVar[KeyType]
    KEY_TYPE_RSA: _ClassVar[KeyType]
    KEY_TYPE_EC: _ClassVar[KeyType]
SERVING_STATE_UNSPECIFIED: ServingState
SERVING_STATE_SERVING: ServingState
SERVING_STATE_DEGRADED: ServingState
SERVING_STATE_DOWN: ServingState
KEY_STATE_UNSPECIFIED: KeyState
KEY_STATE_WRITE: KeyState
KEY_STATE_READABLE: KeyState
KEY_STATE_PENDING: KeyState
KEY_STATE_UNUSABLE: KeyState
KEY_STATE_COMPANION: KeyState
KEY_STATE_ARCHIVED: KeyState
KEY_STATE_PLANTED: KeyState
KEY_STATE_SIGNING: KeyState
KEY_TYPE_UNSPECIFIED: KeyType
KEY_TYPE_AES: KeyType
KEY_TYPE_HMAC: KeyType
KEY_TYPE_OTHER: KeyType
KEY_TYPE_PAIR: KeyType
KEY_TYPE_RSA: KeyType
KEY_TYPE_EC: KeyType

class Problem(_message.Message):
    __slots__ = ("message", "hint", "fatal", "about")
    class About(_message.Message):
        __slots__ = ("token", "key_id", "key_label", "setting", "audit", "tampered", "requests")
        TOKEN_FIELD_NUMBER: _ClassVar[int]
        KEY_ID_FIELD_NUMBER: _ClassVar[int]
        KEY_LABEL_FIELD_NUMBER: _ClassVar[int]
        SETTING_FIELD_NUMBER: _ClassVar[int]
        AUDIT_FIELD_NUMBER: _ClassVar[int]
        TAMPERED_FIELD_NUMBER: _ClassVar[int]
        REQUESTS_FIELD_NUMBER: _ClassVar[int]
        token: str
        key_id: str
        key_label: str
        setting: str
        audit: bool
        tampered: bool
        requests: Filter
        def __init__(self, token: _Optional[str] = ..., key_id: _Optional[str] = ..., key_label: _Optional[str] = ..., setting: _Optional[str] = ..., audit: _Optional[bool] = ..., tampered: _Optional[bool] = ..., requests: _Optional[_Union[Filter, _Mapping]] = ...) -> None: ...
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    FATAL_FIELD_NUMBER: _ClassVar[int]
    ABOUT_FIELD_NUMBER: _ClassVar[int]
    message: str
    hint: str
    fatal: bool
    about: Problem.About
    def __init__(self, message: _Optional[str] = ..., hint: _Optional[str] = ..., fatal: _Optional[bool] = ..., about: _Optional[_Union[Problem.About, _Mapping]] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("label", "key_id", "key_id_sha256", "type", "bits", "state", "unusable_reason", "unusable_hint", "can_encrypt", "can_decrypt", "can_sign", "can_verify", "sensitive", "extractable", "private", "created_unix_ms", "token_label", "token", "encrypts", "decrypts", "last_used_unix_ms", "enc", "local", "always_sensitive", "never_extractable", "tenant", "purpose")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_SHA256_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    UNUSABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    UNUSABLE_HINT_FIELD_NUMBER: _ClassVar[int]
    CAN_ENCRYPT_FIELD_NUMBER: _ClassVar[int]
    CAN_DECRYPT_FIELD_NUMBER: _ClassVar[int]
    CAN_SIGN_FIELD_NUMBER: _ClassVar[int]
    CAN_VERIFY_FIELD_NUMBER: _ClassVar[int]
    SENSITIVE_FIELD_NUMBER: _ClassVar[int]
    EXTRACTABLE_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LABEL_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTS_FIELD_NUMBER: _ClassVar[int]
    DECRYPTS_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ENC_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    ALWAYS_SENSITIVE_FIELD_NUMBER: _ClassVar[int]
    NEVER_EXTRACTABLE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    label: str
    key_id: str
    key_id_sha256: str
    type: KeyType
    bits: int
    state: KeyState
    unusable_reason: str
    unusable_hint: str
    can_encrypt: bool
    can_decrypt: bool
    can_sign: bool
    can_verify: bool
    sensitive: bool
    extractable: bool
    private: bool
    created_unix_ms: int
    token_label: str
    token: str
    encrypts: int
    decrypts: int
    last_used_unix_ms: int
    enc: str
    local: bool
    always_sensitive: bool
    never_extractable: bool
    tenant: str
    purpose: str
    def __init__(self, label: _Optional[str] = ..., key_id: _Optional[str] = ..., key_id_sha256: _Optional[str] = ..., type: _Optional[_Union[KeyType, str]] = ..., bits: _Optional[int] = ..., state: _Optional[_Union[KeyState, str]] = ..., unusable_reason: _Optional[str] = ..., unusable_hint: _Optional[str] = ..., can_encrypt: _Optional[bool] = ..., can_decrypt: _Optional[bool] = ..., can_sign: _Optional[bool] = ..., can_verify: _Optional[bool] = ..., sensitive: _Optional[bool] = ..., extractable: _Optional[bool] = ..., private: _Optional[bool] = ..., created_unix_ms: _Optional[int] = ..., token_label: _Optional[str] = ..., token: _Optional[str] = ..., encrypts: _Optional[int] = ..., decrypts: _Optional[int] = ..., last_used_unix_ms: _Optional[int] = ..., enc: _Optional[str] = ..., local: _Optional[bool] = ..., always_sensitive: _Optional[bool] = ..., never_extractable: _Optional[bool] = ..., tenant: _Optional[str] = ..., purpose: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("version", "state", "healthz", "hint", "started_unix_ms", "write_label", "write_key", "token", "sessions", "probe", "listeners", "problems", "keys", "write_format", "tokens", "following", "not_alive", "now_unix_ms", "host", "outgoing_key", "tenants", "certificate", "upstreams")
    class Upstream(_message.Message):
        __slots__ = ("address", "up", "reason", "hint", "since_unix_ms", "answered_unix_ms", "key_id", "key_id_sha256", "healthz", "round_trip_ms", "asked", "failed", "in_flight", "last")
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        UP_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        HINT_FIELD_NUMBER: _ClassVar[int]
        SINCE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        ANSWERED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        KEY_ID_FIELD_NUMBER: _ClassVar[int]
        KEY_ID_SHA256_FIELD_NUMBER: _ClassVar[int]
        HEALTHZ_FIELD_NUMBER: _ClassVar[int]
        ROUND_TRIP_MS_FIELD_NUMBER: _ClassVar[int]
        ASKED_FIELD_NUMBER: _ClassVar[int]
        FAILED_FIELD_NUMBER: _ClassVar[int]
        IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
        LAST_FIELD_NUMBER: _ClassVar[int]
        address: str
        up: bool
        reason: str
        hint: str
        since_unix_ms: int
        answered_unix_ms: int
        key_id: str
        key_id_sha256: str
        healthz: str
        round_trip_ms: float
        asked: int
        failed: int
        in_flight: int
        last: bool
        def __init__(self, address: _Optional[str] = ..., up: _Optional[bool] = ..., reason: _Optional[str] = ..., hint: _Optional[str] = ..., since_unix_ms: _Optional[int] = ..., answered_unix_ms: _Optional[int] = ..., key_id: _Optional[str] = ..., key_id_sha256: _Optional[str] = ..., healthz: _Optional[str] = ..., round_trip_ms: _Optional[float] = ..., asked: _Optional[int] = ..., failed: _Optional[int] = ..., in_flight: _Optional[int] = ..., last: _Optional[bool] = ...) -> None: ...
    class TenantStatus(_message.Message):
        __slots__ = ("name", "write_label", "state", "healthz", "hint", "write_key", "following", "in_flight", "requests_per_second", "p99_ms", "requests", "errors", "peers", "first_end_unix_ms", "problems")
        NAME_FIELD_NUMBER: _ClassVar[int]
        WRITE_LABEL_FIELD_NUMBER: _ClassVar[int]
        STATE_FIELD_NUMBER: _ClassVar[int]
        HEALTHZ_FIELD_NUMBER: _ClassVar[int]
        HINT_FIELD_NUMBER: _ClassVar[int]
        WRITE_KEY_FIELD_NUMBER: _ClassVar[int]
        FOLLOWING_FIELD_NUMBER: _ClassVar[int]
        IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
        REQUESTS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
        P99_MS_FIELD_NUMBER: _ClassVar[int]
        REQUESTS_FIELD_NUMBER: _ClassVar[int]
        ERRORS_FIELD_NUMBER: _ClassVar[int]
        PEERS_FIELD_NUMBER: _ClassVar[int]
        FIRST_END_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        PROBLEMS_FIELD_NUMBER: _ClassVar[int]
        name: str
        write_label: str
        state: ServingState
        healthz: str
        hint: str
        write_key: Key
        following: GetStatusResponse.Following
        in_flight: int
        requests_per_second: float
        p99_ms: float
        requests: int
        errors: int
        peers: int
        first_end_unix_ms: int
        problems: _containers.RepeatedCompositeFieldContainer[Problem]
        def __init__(self, name: _Optional[str] = ..., write_label: _Optional[str] = ..., state: _Optional[_Union[ServingState, str]] = ..., healthz: _Optional[str] = ..., hint: _Optional[str] = ..., write_key: _Optional[_Union[Key, _Mapping]] = ..., following: _Optional[_Union[GetStatusResponse.Following, _Mapping]] = ..., in_flight: _Optional[int] = ..., requests_per_second: _Optional[float] = ..., p99_ms: _Optional[float] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., peers: _Optional[int] = ..., first_end_unix_ms: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ...) -> None: ...
    class Certificate(_message.Message):
        __slots__ = ("subject", "names", "serial", "not_before_unix_ms", "not_after_unix_ms", "key_uri")
        SUBJECT_FIELD_NUMBER: _ClassVar[int]
        NAMES_FIELD_NUMBER: _ClassVar[int]
        SERIAL_FIELD_NUMBER: _ClassVar[int]
        NOT_BEFORE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        NOT_AFTER_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        KEY_URI_FIELD_NUMBER: _ClassVar[int]
        subject: str
        names: _containers.RepeatedScalarFieldContainer[str]
        serial: str
        not_before_unix_ms: int
        not_after_unix_ms: int
        key_uri: str
        def __init__(self, subject: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., serial: _Optional[str] = ..., not_before_unix_ms: _Optional[int] = ..., not_after_unix_ms: _Optional[int] = ..., key_uri: _Optional[str] = ...) -> None: ...
    class TokenStatus(_message.Message):
        __slots__ = ("name", "token", "sessions", "write", "reason", "hint", "keys", "process")
        NAME_FIELD_NUMBER: _ClassVar[int]
        TOKEN_FIELD_NUMBER: _ClassVar[int]
        SESSIONS_FIELD_NUMBER: _ClassVar[int]
        WRITE_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        HINT_FIELD_NUMBER: _ClassVar[int]
        KEYS_FIELD_NUMBER: _ClassVar[int]
        PROCESS_FIELD_NUMBER: _ClassVar[int]
        name: str
        token: GetStatusResponse.Token
        sessions: GetStatusResponse.Sessions
        write: bool
        reason: str
        hint: str
        keys: int
        process: GetStatusResponse.ModuleProcess
        def __init__(self, name: _Optional[str] = ..., token: _Optional[_Union[GetStatusResponse.Token, _Mapping]] = ..., sessions: _Optional[_Union[GetStatusResponse.Sessions, _Mapping]] = ..., write: _Optional[bool] = ..., reason: _Optional[str] = ..., hint: _Optional[str] = ..., keys: _Optional[int] = ..., process: _Optional[_Union[GetStatusResponse.ModuleProcess, _Mapping]] = ...) -> None: ...
    class ModuleProcess(_message.Message):
        __slots__ = ("pid", "served", "reason", "since_unix_ms")
        PID_FIELD_NUMBER: _ClassVar[int]
        SERVED_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        SINCE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        pid: int
        served: int
        reason: str
        since_unix_ms: int
        def __init__(self, pid: _Optional[int] = ..., served: _Optional[int] = ..., reason: _Optional[str] = ..., since_unix_ms: _Optional[int] = ...) -> None: ...
    class Following(_message.Message):
        __slots__ = ("since_unix_ms", "first_status_unix_ms", "last_status_unix_ms", "first_encrypt_unix_ms", "last_encrypt_unix_ms", "previous_key_id", "previous_key_id_sha256")
        SINCE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        FIRST_STATUS_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        LAST_STATUS_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        FIRST_ENCRYPT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        LAST_ENCRYPT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        PREVIOUS_KEY_ID_FIELD_NUMBER: _ClassVar[int]
        PREVIOUS_KEY_ID_SHA256_FIELD_NUMBER: _ClassVar[int]
        since_unix_ms: int
        first_status_unix_ms: int
        last_status_unix_ms: int
        first_encrypt_unix_ms: int
        last_encrypt_unix_ms: int
        previous_key_id: str
        previous_key_id_sha256: str
        def __init__(self, since_unix_ms: _Optional[int] = ..., first_status_unix_ms: _Optional[int] = ..., last_status_unix_ms: _Optional[int] = ..., first_encrypt_unix_ms: _Optional[int] = ..., last_encrypt_unix_ms: _Optional[int] = ..., previous_key_id: _Optional[str] = ..., previous_key_id_sha256: _Optional[str] = ...) -> None: ...
    class Token(_message.Message):
        __slots__ = ("module", "label", "serial", "model", "manufacturer", "slot_id", "up")
        MODULE_FIELD_NUMBER: _ClassVar[int]
        LABEL_FIELD_NUMBER: _ClassVar[int]
        SERIAL_FIELD_NUMBER: _ClassVar[int]
        MODEL_FIELD_NUMBER: _ClassVar[int]
        MANUFACTURER_FIELD_NUMBER: _ClassVar[int]
        SLOT_ID_FIELD_NUMBER: _ClassVar[int]
        UP_FIELD_NUMBER: _ClassVar[int]
        module: str
        label: str
        serial: str
        model: str
        manufacturer: str
        slot_id: int
        up: bool
        def __init__(self, module: _Optional[str] = ..., label: _Optional[str] = ..., serial: _Optional[str] = ..., model: _Optional[str] = ..., manufacturer: _Optional[str] = ..., slot_id: _Optional[int] = ..., up: _Optional[bool] = ...) -> None: ...
    class Sessions(_message.Message):
        __slots__ = ("open", "configured", "busy", "stuck", "queued", "most")
        OPEN_FIELD_NUMBER: _ClassVar[int]
        CONFIGURED_FIELD_NUMBER: _ClassVar[int]
        BUSY_FIELD_NUMBER: _ClassVar[int]
        STUCK_FIELD_NUMBER: _ClassVar[int]
        QUEUED_FIELD_NUMBER: _ClassVar[int]
        MOST_FIELD_NUMBER: _ClassVar[int]
        open: int
        configured: int
        busy: int
        stuck: int
        queued: int
        most: int
        def __init__(self, open: _Optional[int] = ..., configured: _Optional[int] = ..., busy: _Optional[int] = ..., stuck: _Optional[int] = ..., queued: _Optional[int] = ..., most: _Optional[int] = ...) -> None: ...
    class HealthProbe(_message.Message):
        __slots__ = ("last_success_unix_ms", "round_trip_ms")
        LAST_SUCCESS_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        ROUND_TRIP_MS_FIELD_NUMBER: _ClassVar[int]
        last_success_unix_ms: int
        round_trip_ms: float
        def __init__(self, last_success_unix_ms: _Optional[int] = ..., round_trip_ms: _Optional[float] = ...) -> None: ...
    class Listener(_message.Message):
        __slots__ = ("socket", "apis")
        SOCKET_FIELD_NUMBER: _ClassVar[int]
        APIS_FIELD_NUMBER: _ClassVar[int]
        socket: str
        apis: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, socket: _Optional[str] = ..., apis: _Optional[_Iterable[str]] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    HEALTHZ_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    WRITE_LABEL_FIELD_NUMBER: _ClassVar[int]
    WRITE_KEY_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    WRITE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FOLLOWING_FIELD_NUMBER: _ClassVar[int]
    NOT_ALIVE_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    OUTGOING_KEY_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    UPSTREAMS_FIELD_NUMBER: _ClassVar[int]
    version: str
    state: ServingState
    healthz: str
    hint: str
    started_unix_ms: int
    write_label: str
    write_key: Key
    token: GetStatusResponse.Token
    sessions: GetStatusResponse.Sessions
    probe: GetStatusResponse.HealthProbe
    listeners: _containers.RepeatedCompositeFieldContainer[GetStatusResponse.Listener]
    problems: _containers.RepeatedCompositeFieldContainer[Problem]
    keys: int
    write_format: str
    tokens: _containers.RepeatedCompositeFieldContainer[GetStatusResponse.TokenStatus]
    following: GetStatusResponse.Following
    not_alive: str
    now_unix_ms: int
    host: str
    outgoing_key: Key
    tenants: _containers.RepeatedCompositeFieldContainer[GetStatusResponse.TenantStatus]
    certificate: GetStatusResponse.Certificate
    upstreams: _containers.RepeatedCompositeFieldContainer[GetStatusResponse.Upstream]
    def __init__(self, version: _Optional[str] = ..., state: _Optional[_Union[ServingState, str]] = ..., healthz: _Optional[str] = ..., hint: _Optional[str] = ..., started_unix_ms: _Optional[int] = ..., write_label: _Optional[str] = ..., write_key: _Optional[_Union[Key, _Mapping]] = ..., token: _Optional[_Union[GetStatusResponse.Token, _Mapping]] = ..., sessions: _Optional[_Union[GetStatusResponse.Sessions, _Mapping]] = ..., probe: _Optional[_Union[GetStatusResponse.HealthProbe, _Mapping]] = ..., listeners: _Optional[_Iterable[_Union[GetStatusResponse.Listener, _Mapping]]] = ..., problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., keys: _Optional[int] = ..., write_format: _Optional[str] = ..., tokens: _Optional[_Iterable[_Union[GetStatusResponse.TokenStatus, _Mapping]]] = ..., following: _Optional[_Union[GetStatusResponse.Following, _Mapping]] = ..., not_alive: _Optional[str] = ..., now_unix_ms: _Optional[int] = ..., host: _Optional[str] = ..., outgoing_key: _Optional[_Union[Key, _Mapping]] = ..., tenants: _Optional[_Iterable[_Union[GetStatusResponse.TenantStatus, _Mapping]]] = ..., certificate: _Optional[_Union[GetStatusResponse.Certificate, _Mapping]] = ..., upstreams: _Optional[_Iterable[_Union[GetStatusResponse.Upstream, _Mapping]]] = ...) -> None: ...

class ListSlotsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSlotsResponse(_message.Message):
    __slots__ = ("slots", "next_page_token")
    class Slot(_message.Message):
        __slots__ = ("slot_id", "description", "manufacturer", "token_present", "token_label", "token_serial", "token_model", "token_manufacturer", "flags", "pin_warnings", "in_use", "module", "sessions", "sessions_max", "rw_sessions", "rw_sessions_max", "name")
        SLOT_ID_FIELD_NUMBER: _ClassVar[int]
        DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
        MANUFACTURER_FIELD_NUMBER: _ClassVar[int]
        TOKEN_PRESENT_FIELD_NUMBER: _ClassVar[int]
        TOKEN_LABEL_FIELD_NUMBER: _ClassVar[int]
        TOKEN_SERIAL_FIELD_NUMBER: _ClassVar[int]
        TOKEN_MODEL_FIELD_NUMBER: _ClassVar[int]
        TOKEN_MANUFACTURER_FIELD_NUMBER: _ClassVar[int]
        FLAGS_FIELD_NUMBER: _ClassVar[int]
        PIN_WARNINGS_FIELD_NUMBER: _ClassVar[int]
        IN_USE_FIELD_NUMBER: _ClassVar[int]
        MODULE_FIELD_NUMBER: _ClassVar[int]
        SESSIONS_FIELD_NUMBER: _ClassVar[int]
        SESSIONS_MAX_FIELD_NUMBER: _ClassVar[int]
        RW_SESSIONS_FIELD_NUMBER: _ClassVar[int]
        RW_SESSIONS_MAX_FIELD_NUMBER: _ClassVar[int]
        NAME_FIELD_NUMBER: _ClassVar[int]
        slot_id: int
        description: str
        manufacturer: str
        token_present: bool
        token_label: str
        token_serial: str
        token_model: str
        token_manufacturer: str
        flags: _containers.RepeatedScalarFieldContainer[str]
        pin_warnings: _containers.RepeatedScalarFieldContainer[str]
        in_use: bool
        module: str
        sessions: int
        sessions_max: int
        rw_sessions: int
        rw_sessions_max: int
        name: str
        def __init__(self, slot_id: _Optional[int] = ..., description: _Optional[str] = ..., manufacturer: _Optional[str] = ..., token_present: _Optional[bool] = ..., token_label: _Optional[str] = ..., token_serial: _Optional[str] = ..., token_model: _Optional[str] = ..., token_manufacturer: _Optional[str] = ..., flags: _Optional[_Iterable[str]] = ..., pin_warnings: _Optional[_Iterable[str]] = ..., in_use: _Optional[bool] = ..., module: _Optional[str] = ..., sessions: _Optional[int] = ..., sessions_max: _Optional[int] = ..., rw_sessions: _Optional[int] = ..., rw_sessions_max: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    slots: _containers.RepeatedCompositeFieldContainer[ListSlotsResponse.Slot]
    next_page_token: str
    def __init__(self, slots: _Optional[_Iterable[_Union[ListSlotsResponse.Slot, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("keys", "next_page_token")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    next_page_token: str
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GenerateKeyRequest(_message.Message):
    __slots__ = ("label", "type", "bits", "key_id", "if_not_exists", "token", "purpose")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    IF_NOT_EXISTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    label: str
    type: KeyType
    bits: int
    key_id: str
    if_not_exists: bool
    token: str
    purpose: str
    def __init__(self, label: _Optional[str] = ..., type: _Optional[_Union[KeyType, str]] = ..., bits: _Optional[int] = ..., key_id: _Optional[str] = ..., if_not_exists: _Optional[bool] = ..., token: _Optional[str] = ..., purpose: _Optional[str] = ...) -> None: ...

class GenerateKeyResponse(_message.Message):
    __slots__ = ("key", "created", "companion")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    COMPANION_FIELD_NUMBER: _ClassVar[int]
    key: Key
    created: bool
    companion: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., created: _Optional[bool] = ..., companion: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class AdoptKeyRequest(_message.Message):
    __slots__ = ("label", "key_id", "public")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_FIELD_NUMBER: _ClassVar[int]
    label: str
    key_id: str
    public: bool
    def __init__(self, label: _Optional[str] = ..., key_id: _Optional[str] = ..., public: _Optional[bool] = ...) -> None: ...

class AdoptKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class GetConfigRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetConfigResponse(_message.Message):
    __slots__ = ("file", "settings", "warnings")
    class Setting(_message.Message):
        __slots__ = ("name", "value", "origin", "secret", "reloadable")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        ORIGIN_FIELD_NUMBER: _ClassVar[int]
        SECRET_FIELD_NUMBER: _ClassVar[int]
        RELOADABLE_FIELD_NUMBER: _ClassVar[int]
        name: str
        value: str
        origin: str
        secret: bool
        reloadable: bool
        def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., origin: _Optional[str] = ..., secret: _Optional[bool] = ..., reloadable: _Optional[bool] = ...) -> None: ...
    FILE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    file: str
    settings: _containers.RepeatedCompositeFieldContainer[GetConfigResponse.Setting]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, file: _Optional[str] = ..., settings: _Optional[_Iterable[_Union[GetConfigResponse.Setting, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class UnlockTokenRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class UnlockTokenResponse(_message.Message):
    __slots__ = ("token", "token_label", "logged_in")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LABEL_FIELD_NUMBER: _ClassVar[int]
    LOGGED_IN_FIELD_NUMBER: _ClassVar[int]
    token: str
    token_label: str
    logged_in: bool
    def __init__(self, token: _Optional[str] = ..., token_label: _Optional[str] = ..., logged_in: _Optional[bool] = ...) -> None: ...

class SetLogLevelRequest(_message.Message):
    __slots__ = ("level", "dry_run")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    level: str
    dry_run: bool
    def __init__(self, level: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class SetLogLevelResponse(_message.Message):
    __slots__ = ("level", "previous")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    level: str
    previous: str
    def __init__(self, level: _Optional[str] = ..., previous: _Optional[str] = ...) -> None: ...

class ListMechanismsRequest(_message.Message):
    __slots__ = ("token", "page_size", "page_token")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    page_size: int
    page_token: str
    def __init__(self, token: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListMechanismsResponse(_message.Message):
    __slots__ = ("mechanisms", "next_page_token", "token_label")
    class Mechanism(_message.Message):
        __slots__ = ("name", "type", "min_key", "max_key", "flags", "used_for")
        NAME_FIELD_NUMBER: _ClassVar[int]
        TYPE_FIELD_NUMBER: _ClassVar[int]
        MIN_KEY_FIELD_NUMBER: _ClassVar[int]
        MAX_KEY_FIELD_NUMBER: _ClassVar[int]
        FLAGS_FIELD_NUMBER: _ClassVar[int]
        USED_FOR_FIELD_NUMBER: _ClassVar[int]
        name: str
        type: int
        min_key: int
        max_key: int
        flags: _containers.RepeatedScalarFieldContainer[str]
        used_for: str
        def __init__(self, name: _Optional[str] = ..., type: _Optional[int] = ..., min_key: _Optional[int] = ..., max_key: _Optional[int] = ..., flags: _Optional[_Iterable[str]] = ..., used_for: _Optional[str] = ...) -> None: ...
    MECHANISMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LABEL_FIELD_NUMBER: _ClassVar[int]
    mechanisms: _containers.RepeatedCompositeFieldContainer[ListMechanismsResponse.Mechanism]
    next_page_token: str
    token_label: str
    def __init__(self, mechanisms: _Optional[_Iterable[_Union[ListMechanismsResponse.Mechanism, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., token_label: _Optional[str] = ...) -> None: ...

class DiagnoseRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class DiagnoseResponse(_message.Message):
    __slots__ = ("token", "token_label", "up", "module", "library", "provider", "provider_title", "outcome", "checks", "verdict", "abilities", "timings", "seconds")
    class Check(_message.Message):
        __slots__ = ("name", "title", "outcome", "seen", "fix")
        NAME_FIELD_NUMBER: _ClassVar[int]
        TITLE_FIELD_NUMBER: _ClassVar[int]
        OUTCOME_FIELD_NUMBER: _ClassVar[int]
        SEEN_FIELD_NUMBER: _ClassVar[int]
        FIX_FIELD_NUMBER: _ClassVar[int]
        name: str
        title: str
        outcome: str
        seen: str
        fix: str
        def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., outcome: _Optional[str] = ..., seen: _Optional[str] = ..., fix: _Optional[str] = ...) -> None: ...
    class Verdict(_message.Message):
        __slots__ = ("algorithm", "enc", "text", "hint", "cbc_from_ecb")
        ALGORITHM_FIELD_NUMBER: _ClassVar[int]
        ENC_FIELD_NUMBER: _ClassVar[int]
        TEXT_FIELD_NUMBER: _ClassVar[int]
        HINT_FIELD_NUMBER: _ClassVar[int]
        CBC_FROM_ECB_FIELD_NUMBER: _ClassVar[int]
        algorithm: str
        enc: str
        text: str
        hint: str
        cbc_from_ecb: bool
        def __init__(self, algorithm: _Optional[str] = ..., enc: _Optional[str] = ..., text: _Optional[str] = ..., hint: _Optional[str] = ..., cbc_from_ecb: _Optional[bool] = ...) -> None: ...
    class Abilities(_message.Message):
        __slots__ = ("gcm_iv_sizes", "gcm_iv_by_token", "cbc", "cbc_pad", "ecb", "hmac_sha256", "hmac_sha512", "hmac_empty", "hmac_longest", "oaep_sha256", "generate_aes", "generate_hmac", "relabel", "sessions", "foreign_changes")
        GCM_IV_SIZES_FIELD_NUMBER: _ClassVar[int]
        GCM_IV_BY_TOKEN_FIELD_NUMBER: _ClassVar[int]
        CBC_FIELD_NUMBER: _ClassVar[int]
        CBC_PAD_FIELD_NUMBER: _ClassVar[int]
        ECB_FIELD_NUMBER: _ClassVar[int]
        HMAC_SHA256_FIELD_NUMBER: _ClassVar[int]
        HMAC_SHA512_FIELD_NUMBER: _ClassVar[int]
        HMAC_EMPTY_FIELD_NUMBER: _ClassVar[int]
        HMAC_LONGEST_FIELD_NUMBER: _ClassVar[int]
        OAEP_SHA256_FIELD_NUMBER: _ClassVar[int]
        GENERATE_AES_FIELD_NUMBER: _ClassVar[int]
        GENERATE_HMAC_FIELD_NUMBER: _ClassVar[int]
        RELABEL_FIELD_NUMBER: _ClassVar[int]
        SESSIONS_FIELD_NUMBER: _ClassVar[int]
        FOREIGN_CHANGES_FIELD_NUMBER: _ClassVar[int]
        gcm_iv_sizes: _containers.RepeatedScalarFieldContainer[int]
        gcm_iv_by_token: bool
        cbc: bool
        cbc_pad: bool
        ecb: bool
        hmac_sha256: bool
        hmac_sha512: bool
        hmac_empty: bool
        hmac_longest: int
        oaep_sha256: bool
        generate_aes: bool
        generate_hmac: bool
        relabel: bool
        sessions: int
        foreign_changes: str
        def __init__(self, gcm_iv_sizes: _Optional[_Iterable[int]] = ..., gcm_iv_by_token: _Optional[bool] = ..., cbc: _Optional[bool] = ..., cbc_pad: _Optional[bool] = ..., ecb: _Optional[bool] = ..., hmac_sha256: _Optional[bool] = ..., hmac_sha512: _Optional[bool] = ..., hmac_empty: _Optional[bool] = ..., hmac_longest: _Optional[int] = ..., oaep_sha256: _Optional[bool] = ..., generate_aes: _Optional[bool] = ..., generate_hmac: _Optional[bool] = ..., relabel: _Optional[bool] = ..., sessions: _Optional[int] = ..., foreign_changes: _Optional[str] = ...) -> None: ...
    class Timing(_message.Message):
        __slots__ = ("operation", "ms", "per_second", "threads")
        OPERATION_FIELD_NUMBER: _ClassVar[int]
        MS_FIELD_NUMBER: _ClassVar[int]
        PER_SECOND_FIELD_NUMBER: _ClassVar[int]
        THREADS_FIELD_NUMBER: _ClassVar[int]
        operation: str
        ms: float
        per_second: float
        threads: int
        def __init__(self, operation: _Optional[str] = ..., ms: _Optional[float] = ..., per_second: _Optional[float] = ..., threads: _Optional[int] = ...) -> None: ...
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LABEL_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    MODULE_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_TITLE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    ABILITIES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    token: str
    token_label: str
    up: bool
    module: str
    library: str
    provider: str
    provider_title: str
    outcome: str
    checks: _containers.RepeatedCompositeFieldContainer[DiagnoseResponse.Check]
    verdict: DiagnoseResponse.Verdict
    abilities: DiagnoseResponse.Abilities
    timings: _containers.RepeatedCompositeFieldContainer[DiagnoseResponse.Timing]
    seconds: float
    def __init__(self, token: _Optional[str] = ..., token_label: _Optional[str] = ..., up: _Optional[bool] = ..., module: _Optional[str] = ..., library: _Optional[str] = ..., provider: _Optional[str] = ..., provider_title: _Optional[str] = ..., outcome: _Optional[str] = ..., checks: _Optional[_Iterable[_Union[DiagnoseResponse.Check, _Mapping]]] = ..., verdict: _Optional[_Union[DiagnoseResponse.Verdict, _Mapping]] = ..., abilities: _Optional[_Union[DiagnoseResponse.Abilities, _Mapping]] = ..., timings: _Optional[_Iterable[_Union[DiagnoseResponse.Timing, _Mapping]]] = ..., seconds: _Optional[float] = ...) -> None: ...

class GetKeyRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class GetKeyResponse(_message.Message):
    __slots__ = ("key", "companion")
    KEY_FIELD_NUMBER: _ClassVar[int]
    COMPANION_FIELD_NUMBER: _ClassVar[int]
    key: Key
    companion: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., companion: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class RelabelKeyRequest(_message.Message):
    __slots__ = ("key", "label", "dry_run", "confirm_label")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_LABEL_FIELD_NUMBER: _ClassVar[int]
    key: str
    label: str
    dry_run: bool
    confirm_label: str
    def __init__(self, key: _Optional[str] = ..., label: _Optional[str] = ..., dry_run: _Optional[bool] = ..., confirm_label: _Optional[str] = ...) -> None: ...

class RelabelKeyResponse(_message.Message):
    __slots__ = ("key", "previous_label")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_LABEL_FIELD_NUMBER: _ClassVar[int]
    key: Key
    previous_label: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., previous_label: _Optional[str] = ...) -> None: ...

class DestroyKeyRequest(_message.Message):
    __slots__ = ("key", "confirm_label", "dry_run", "scan")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_LABEL_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    SCAN_FIELD_NUMBER: _ClassVar[int]
    key: str
    confirm_label: str
    dry_run: bool
    scan: ScanReport
    def __init__(self, key: _Optional[str] = ..., confirm_label: _Optional[str] = ..., dry_run: _Optional[bool] = ..., scan: _Optional[_Union[ScanReport, _Mapping]] = ...) -> None: ...

class DestroyKeyResponse(_message.Message):
    __slots__ = ("key", "companion", "destroyed")
    KEY_FIELD_NUMBER: _ClassVar[int]
    COMPANION_FIELD_NUMBER: _ClassVar[int]
    DESTROYED_FIELD_NUMBER: _ClassVar[int]
    key: Key
    companion: Key
    destroyed: bool
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., companion: _Optional[_Union[Key, _Mapping]] = ..., destroyed: _Optional[bool] = ...) -> None: ...

class TestKeyRequest(_message.Message):
    __slots__ = ("key", "rounds")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    key: str
    rounds: int
    def __init__(self, key: _Optional[str] = ..., rounds: _Optional[int] = ...) -> None: ...

class TestKeyResponse(_message.Message):
    __slots__ = ("key", "rounds", "encrypt_ms_min", "encrypt_ms_median", "encrypt_ms_max", "decrypt_ms_min", "decrypt_ms_median", "decrypt_ms_max")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    ENCRYPT_MS_MIN_FIELD_NUMBER: _ClassVar[int]
    ENCRYPT_MS_MEDIAN_FIELD_NUMBER: _ClassVar[int]
    ENCRYPT_MS_MAX_FIELD_NUMBER: _ClassVar[int]
    DECRYPT_MS_MIN_FIELD_NUMBER: _ClassVar[int]
    DECRYPT_MS_MEDIAN_FIELD_NUMBER: _ClassVar[int]
    DECRYPT_MS_MAX_FIELD_NUMBER: _ClassVar[int]
    key: Key
    rounds: int
    encrypt_ms_min: float
    encrypt_ms_median: float
    encrypt_ms_max: float
    decrypt_ms_min: float
    decrypt_ms_median: float
    decrypt_ms_max: float
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., rounds: _Optional[int] = ..., encrypt_ms_min: _Optional[float] = ..., encrypt_ms_median: _Optional[float] = ..., encrypt_ms_max: _Optional[float] = ..., decrypt_ms_min: _Optional[float] = ..., decrypt_ms_median: _Optional[float] = ..., decrypt_ms_max: _Optional[float] = ...) -> None: ...

class RotationStep(_message.Message):
    __slots__ = ("action", "key_id", "key_id_sha256", "from_label", "to_label", "token", "done", "text")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_SHA256_FIELD_NUMBER: _ClassVar[int]
    FROM_LABEL_FIELD_NUMBER: _ClassVar[int]
    TO_LABEL_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    action: str
    key_id: str
    key_id_sha256: str
    from_label: str
    to_label: str
    token: str
    done: bool
    text: str
    def __init__(self, action: _Optional[str] = ..., key_id: _Optional[str] = ..., key_id_sha256: _Optional[str] = ..., from_label: _Optional[str] = ..., to_label: _Optional[str] = ..., token: _Optional[str] = ..., done: _Optional[bool] = ..., text: _Optional[str] = ...) -> None: ...

class RotateKeyRequest(_message.Message):
    __slots__ = ("label", "from_key_id", "dry_run", "token")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    FROM_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    label: str
    from_key_id: str
    dry_run: bool
    token: str
    def __init__(self, label: _Optional[str] = ..., from_key_id: _Optional[str] = ..., dry_run: _Optional[bool] = ..., token: _Optional[str] = ...) -> None: ...

class RotateKeyResponse(_message.Message):
    __slots__ = ("steps", "old_key", "new_key", "rotated")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    OLD_KEY_FIELD_NUMBER: _ClassVar[int]
    NEW_KEY_FIELD_NUMBER: _ClassVar[int]
    ROTATED_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[RotationStep]
    old_key: Key
    new_key: Key
    rotated: bool
    def __init__(self, steps: _Optional[_Iterable[_Union[RotationStep, _Mapping]]] = ..., old_key: _Optional[_Union[Key, _Mapping]] = ..., new_key: _Optional[_Union[Key, _Mapping]] = ..., rotated: _Optional[bool] = ...) -> None: ...

class ScanReport(_message.Message):
    __slots__ = ("started_unix_ms", "finished_unix_ms", "cluster_id", "prefix", "revision", "objects", "unknown", "uses")
    class Use(_message.Message):
        __slots__ = ("key_id", "objects", "by_label", "label")
        KEY_ID_FIELD_NUMBER: _ClassVar[int]
        OBJECTS_FIELD_NUMBER: _ClassVar[int]
        BY_LABEL_FIELD_NUMBER: _ClassVar[int]
        LABEL_FIELD_NUMBER: _ClassVar[int]
        key_id: str
        objects: int
        by_label: bool
        label: str
        def __init__(self, key_id: _Optional[str] = ..., objects: _Optional[int] = ..., by_label: _Optional[bool] = ..., label: _Optional[str] = ...) -> None: ...
    STARTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    started_unix_ms: int
    finished_unix_ms: int
    cluster_id: int
    prefix: str
    revision: int
    objects: int
    unknown: int
    uses: _containers.RepeatedCompositeFieldContainer[ScanReport.Use]
    def __init__(self, started_unix_ms: _Optional[int] = ..., finished_unix_ms: _Optional[int] = ..., cluster_id: _Optional[int] = ..., prefix: _Optional[str] = ..., revision: _Optional[int] = ..., objects: _Optional[int] = ..., unknown: _Optional[int] = ..., uses: _Optional[_Iterable[_Union[ScanReport.Use, _Mapping]]] = ...) -> None: ...

class RetireKeyRequest(_message.Message):
    __slots__ = ("key", "scan", "dry_run", "confirm_label")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SCAN_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_LABEL_FIELD_NUMBER: _ClassVar[int]
    key: str
    scan: ScanReport
    dry_run: bool
    confirm_label: str
    def __init__(self, key: _Optional[str] = ..., scan: _Optional[_Union[ScanReport, _Mapping]] = ..., dry_run: _Optional[bool] = ..., confirm_label: _Optional[str] = ...) -> None: ...

class RetireKeyResponse(_message.Message):
    __slots__ = ("key", "previous_label")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_LABEL_FIELD_NUMBER: _ClassVar[int]
    key: Key
    previous_label: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., previous_label: _Optional[str] = ...) -> None: ...

class RevertKeyRequest(_message.Message):
    __slots__ = ("label", "from_key_id", "dry_run")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    FROM_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    label: str
    from_key_id: str
    dry_run: bool
    def __init__(self, label: _Optional[str] = ..., from_key_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class RevertKeyResponse(_message.Message):
    __slots__ = ("steps", "old_key", "new_key", "reverted", "previous_key", "not_undone")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    OLD_KEY_FIELD_NUMBER: _ClassVar[int]
    NEW_KEY_FIELD_NUMBER: _ClassVar[int]
    REVERTED_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_UNDONE_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[RotationStep]
    old_key: Key
    new_key: Key
    reverted: bool
    previous_key: Key
    not_undone: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, steps: _Optional[_Iterable[_Union[RotationStep, _Mapping]]] = ..., old_key: _Optional[_Union[Key, _Mapping]] = ..., new_key: _Optional[_Union[Key, _Mapping]] = ..., reverted: _Optional[bool] = ..., previous_key: _Optional[_Union[Key, _Mapping]] = ..., not_undone: _Optional[_Iterable[str]] = ...) -> None: ...

class InspectCiphertextRequest(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class InspectCiphertextResponse(_message.Message):
    __slots__ = ("format", "summary", "envelope", "jwe", "keys", "findings", "readable")
    class Envelope(_message.Message):
        __slots__ = ("prefix", "provider", "key_id", "key_id_sha256", "source_type", "encrypted_dek_bytes", "encrypted_data_bytes", "annotations")
        PREFIX_FIELD_NUMBER: _ClassVar[int]
        PROVIDER_FIELD_NUMBER: _ClassVar[int]
        KEY_ID_FIELD_NUMBER: _ClassVar[int]
        KEY_ID_SHA256_FIELD_NUMBER: _ClassVar[int]
        SOURCE_TYPE_FIELD_NUMBER: _ClassVar[int]
        ENCRYPTED_DEK_BYTES_FIELD_NUMBER: _ClassVar[int]
        ENCRYPTED_DATA_BYTES_FIELD_NUMBER: _ClassVar[int]
        ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
        prefix: str
        provider: str
        key_id: str
        key_id_sha256: str
        source_type: str
        encrypted_dek_bytes: int
        encrypted_data_bytes: int
        annotations: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, prefix: _Optional[str] = ..., provider: _Optional[str] = ..., key_id: _Optional[str] = ..., key_id_sha256: _Optional[str] = ..., source_type: _Optional[str] = ..., encrypted_dek_bytes: _Optional[int] = ..., encrypted_data_bytes: _Optional[int] = ..., annotations: _Optional[_Iterable[str]] = ...) -> None: ...
    class Jwe(_message.Message):
        __slots__ = ("alg", "enc", "kid", "kid_sha256", "iv_bytes", "ciphertext_bytes", "tag_bytes", "header")
        ALG_FIELD_NUMBER: _ClassVar[int]
        ENC_FIELD_NUMBER: _ClassVar[int]
        KID_FIELD_NUMBER: _ClassVar[int]
        KID_SHA256_FIELD_NUMBER: _ClassVar[int]
        IV_BYTES_FIELD_NUMBER: _ClassVar[int]
        CIPHERTEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
        TAG_BYTES_FIELD_NUMBER: _ClassVar[int]
        HEADER_FIELD_NUMBER: _ClassVar[int]
        alg: str
        enc: str
        kid: str
        kid_sha256: str
        iv_bytes: int
        ciphertext_bytes: int
        tag_bytes: int
        header: str
        def __init__(self, alg: _Optional[str] = ..., enc: _Optional[str] = ..., kid: _Optional[str] = ..., kid_sha256: _Optional[str] = ..., iv_bytes: _Optional[int] = ..., ciphertext_bytes: _Optional[int] = ..., tag_bytes: _Optional[int] = ..., header: _Optional[str] = ...) -> None: ...
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    JWE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    READABLE_FIELD_NUMBER: _ClassVar[int]
    format: str
    summary: str
    envelope: InspectCiphertextResponse.Envelope
    jwe: InspectCiphertextResponse.Jwe
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    findings: _containers.RepeatedCompositeFieldContainer[Problem]
    readable: bool
    def __init__(self, format: _Optional[str] = ..., summary: _Optional[str] = ..., envelope: _Optional[_Union[InspectCiphertextResponse.Envelope, _Mapping]] = ..., jwe: _Optional[_Union[InspectCiphertextResponse.Jwe, _Mapping]] = ..., keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., findings: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., readable: _Optional[bool] = ...) -> None: ...

class TryCiphertextRequest(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class TryCiphertextResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class ListPeersRequest(_message.Message):
    __slots__ = ("tenant", "page_size", "page_token")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    page_size: int
    page_token: str
    def __init__(self, tenant: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPeersResponse(_message.Message):
    __slots__ = ("peers", "next_page_token")
    class Peer(_message.Message):
        __slots__ = ("name", "tenant", "role", "address", "serial", "not_after_unix_ms", "tls_version", "cipher", "group", "last_seen_unix_ms", "connections", "not_before_unix_ms", "calls")
        NAME_FIELD_NUMBER: _ClassVar[int]
        TENANT_FIELD_NUMBER: _ClassVar[int]
        ROLE_FIELD_NUMBER: _ClassVar[int]
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        SERIAL_FIELD_NUMBER: _ClassVar[int]
        NOT_AFTER_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        TLS_VERSION_FIELD_NUMBER: _ClassVar[int]
        CIPHER_FIELD_NUMBER: _ClassVar[int]
        GROUP_FIELD_NUMBER: _ClassVar[int]
        LAST_SEEN_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
        NOT_BEFORE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        CALLS_FIELD_NUMBER: _ClassVar[int]
        name: str
        tenant: str
        role: str
        address: str
        serial: str
        not_after_unix_ms: int
        tls_version: str
        cipher: str
        group: str
        last_seen_unix_ms: int
        connections: int
        not_before_unix_ms: int
        calls: int
        def __init__(self, name: _Optional[str] = ..., tenant: _Optional[str] = ..., role: _Optional[str] = ..., address: _Optional[str] = ..., serial: _Optional[str] = ..., not_after_unix_ms: _Optional[int] = ..., tls_version: _Optional[str] = ..., cipher: _Optional[str] = ..., group: _Optional[str] = ..., last_seen_unix_ms: _Optional[int] = ..., connections: _Optional[int] = ..., not_before_unix_ms: _Optional[int] = ..., calls: _Optional[int] = ...) -> None: ...
    PEERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[ListPeersResponse.Peer]
    next_page_token: str
    def __init__(self, peers: _Optional[_Iterable[_Union[ListPeersResponse.Peer, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetMetricsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetMetricsResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: bytes
    def __init__(self, text: _Optional[bytes] = ...) -> None: ...

class WatchStatsRequest(_message.Message):
    __slots__ = ("interval_ms", "history_seconds", "tenant")
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    interval_ms: int
    history_seconds: int
    tenant: str
    def __init__(self, interval_ms: _Optional[int] = ..., history_seconds: _Optional[int] = ..., tenant: _Optional[str] = ...) -> None: ...

class WatchStatsResponse(_message.Message):
    __slots__ = ("unix_ms", "seconds", "calls", "latencies", "operations", "keys", "sessions", "in_flight", "started_unix_ms", "quantile_error")
    class Second(_message.Message):
        __slots__ = ("unix_s", "requests", "errors", "encrypts", "decrypts", "p50_ms", "p99_ms", "max_ms")
        UNIX_S_FIELD_NUMBER: _ClassVar[int]
        REQUESTS_FIELD_NUMBER: _ClassVar[int]
        ERRORS_FIELD_NUMBER: _ClassVar[int]
        ENCRYPTS_FIELD_NUMBER: _ClassVar[int]
        DECRYPTS_FIELD_NUMBER: _ClassVar[int]
        P50_MS_FIELD_NUMBER: _ClassVar[int]
        P99_MS_FIELD_NUMBER: _ClassVar[int]
        MAX_MS_FIELD_NUMBER: _ClassVar[int]
        unix_s: int
        requests: int
        errors: int
        encrypts: int
        decrypts: int
        p50_ms: float
        p99_ms: float
        max_ms: float
        def __init__(self, unix_s: _Optional[int] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., encrypts: _Optional[int] = ..., decrypts: _Optional[int] = ..., p50_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ..., max_ms: _Optional[float] = ...) -> None: ...
    class Calls(_message.Message):
        __slots__ = ("api", "method", "code", "count")
        API_FIELD_NUMBER: _ClassVar[int]
        METHOD_FIELD_NUMBER: _ClassVar[int]
        CODE_FIELD_NUMBER: _ClassVar[int]
        COUNT_FIELD_NUMBER: _ClassVar[int]
        api: str
        method: str
        code: str
        count: int
        def __init__(self, api: _Optional[str] = ..., method: _Optional[str] = ..., code: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...
    class Latency(_message.Message):
        __slots__ = ("api", "method", "count", "sum_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms")
        API_FIELD_NUMBER: _ClassVar[int]
        METHOD_FIELD_NUMBER: _ClassVar[int]
        COUNT_FIELD_NUMBER: _ClassVar[int]
        SUM_MS_FIELD_NUMBER: _ClassVar[int]
        P50_MS_FIELD_NUMBER: _ClassVar[int]
        P90_MS_FIELD_NUMBER: _ClassVar[int]
        P99_MS_FIELD_NUMBER: _ClassVar[int]
        MAX_MS_FIELD_NUMBER: _ClassVar[int]
        api: str
        method: str
        count: int
        sum_ms: float
        p50_ms: float
        p90_ms: float
        p99_ms: float
        max_ms: float
        def __init__(self, api: _Optional[str] = ..., method: _Optional[str] = ..., count: _Optional[int] = ..., sum_ms: _Optional[float] = ..., p50_ms: _Optional[float] = ..., p90_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ..., max_ms: _Optional[float] = ...) -> None: ...
    class KeyUse(_message.Message):
        __slots__ = ("key_id", "key_id_sha256", "encrypts", "decrypts", "last_used_unix_ms")
        KEY_ID_FIELD_NUMBER: _ClassVar[int]
        KEY_ID_SHA256_FIELD_NUMBER: _ClassVar[int]
        ENCRYPTS_FIELD_NUMBER: _ClassVar[int]
        DECRYPTS_FIELD_NUMBER: _ClassVar[int]
        LAST_USED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        key_id: str
        key_id_sha256: str
        encrypts: int
        decrypts: int
        last_used_unix_ms: int
        def __init__(self, key_id: _Optional[str] = ..., key_id_sha256: _Optional[str] = ..., encrypts: _Optional[int] = ..., decrypts: _Optional[int] = ..., last_used_unix_ms: _Optional[int] = ...) -> None: ...
    UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    LATENCIES_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    QUANTILE_ERROR_FIELD_NUMBER: _ClassVar[int]
    unix_ms: int
    seconds: _containers.RepeatedCompositeFieldContainer[WatchStatsResponse.Second]
    calls: _containers.RepeatedCompositeFieldContainer[WatchStatsResponse.Calls]
    latencies: _containers.RepeatedCompositeFieldContainer[WatchStatsResponse.Latency]
    operations: _containers.RepeatedCompositeFieldContainer[WatchStatsResponse.Latency]
    keys: _containers.RepeatedCompositeFieldContainer[WatchStatsResponse.KeyUse]
    sessions: GetStatusResponse.Sessions
    in_flight: int
    started_unix_ms: int
    quantile_error: float
    def __init__(self, unix_ms: _Optional[int] = ..., seconds: _Optional[_Iterable[_Union[WatchStatsResponse.Second, _Mapping]]] = ..., calls: _Optional[_Iterable[_Union[WatchStatsResponse.Calls, _Mapping]]] = ..., latencies: _Optional[_Iterable[_Union[WatchStatsResponse.Latency, _Mapping]]] = ..., operations: _Optional[_Iterable[_Union[WatchStatsResponse.Latency, _Mapping]]] = ..., keys: _Optional[_Iterable[_Union[WatchStatsResponse.KeyUse, _Mapping]]] = ..., sessions: _Optional[_Union[GetStatusResponse.Sessions, _Mapping]] = ..., in_flight: _Optional[int] = ..., started_unix_ms: _Optional[int] = ..., quantile_error: _Optional[float] = ...) -> None: ...

class WatchRequestsRequest(_message.Message):
    __slots__ = ("backlog", "follow", "admin", "filter")
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    backlog: int
    follow: bool
    admin: bool
    filter: Filter
    def __init__(self, backlog: _Optional[int] = ..., follow: _Optional[bool] = ..., admin: _Optional[bool] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("failed", "method", "code", "key_id_sha256", "since_unix_ms", "tenant")
    FAILED_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_SHA256_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    failed: bool
    method: str
    code: str
    key_id_sha256: str
    since_unix_ms: int
    tenant: str
    def __init__(self, failed: _Optional[bool] = ..., method: _Optional[str] = ..., code: _Optional[str] = ..., key_id_sha256: _Optional[str] = ..., since_unix_ms: _Optional[int] = ..., tenant: _Optional[str] = ...) -> None: ...

class WatchRequestsResponse(_message.Message):
    __slots__ = ("requests", "dropped")
    class Request(_message.Message):
        __slots__ = ("unix_ms", "api", "method", "uid", "key_id_sha256", "code", "latency_ms", "reason", "tenant")
        UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        API_FIELD_NUMBER: _ClassVar[int]
        METHOD_FIELD_NUMBER: _ClassVar[int]
        UID_FIELD_NUMBER: _ClassVar[int]
        KEY_ID_SHA256_FIELD_NUMBER: _ClassVar[int]
        CODE_FIELD_NUMBER: _ClassVar[int]
        LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        TENANT_FIELD_NUMBER: _ClassVar[int]
        unix_ms: int
        api: str
        method: str
        uid: str
        key_id_sha256: str
        code: str
        latency_ms: float
        reason: str
        tenant: str
        def __init__(self, unix_ms: _Optional[int] = ..., api: _Optional[str] = ..., method: _Optional[str] = ..., uid: _Optional[str] = ..., key_id_sha256: _Optional[str] = ..., code: _Optional[str] = ..., latency_ms: _Optional[float] = ..., reason: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[WatchRequestsResponse.Request]
    dropped: int
    def __init__(self, requests: _Optional[_Iterable[_Union[WatchRequestsResponse.Request, _Mapping]]] = ..., dropped: _Optional[int] = ...) -> None: ...

class WatchAuditRequest(_message.Message):
    __slots__ = ("backlog", "follow", "filter")
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    backlog: int
    follow: bool
    filter: Filter
    def __init__(self, backlog: _Optional[int] = ..., follow: _Optional[bool] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ...) -> None: ...

class WatchAuditResponse(_message.Message):
    __slots__ = ("records", "dropped")
    class Record(_message.Message):
        __slots__ = ("seq", "unix_ms", "kind", "action", "caller", "key_id_sha256", "outcome", "latency_ms", "detail", "line", "reason", "tenant")
        SEQ_FIELD_NUMBER: _ClassVar[int]
        UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        KIND_FIELD_NUMBER: _ClassVar[int]
        ACTION_FIELD_NUMBER: _ClassVar[int]
        CALLER_FIELD_NUMBER: _ClassVar[int]
        KEY_ID_SHA256_FIELD_NUMBER: _ClassVar[int]
        OUTCOME_FIELD_NUMBER: _ClassVar[int]
        LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
        DETAIL_FIELD_NUMBER: _ClassVar[int]
        LINE_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        TENANT_FIELD_NUMBER: _ClassVar[int]
        seq: int
        unix_ms: int
        kind: str
        action: str
        caller: str
        key_id_sha256: str
        outcome: str
        latency_ms: float
        detail: str
        line: str
        reason: str
        tenant: str
        def __init__(self, seq: _Optional[int] = ..., unix_ms: _Optional[int] = ..., kind: _Optional[str] = ..., action: _Optional[str] = ..., caller: _Optional[str] = ..., key_id_sha256: _Optional[str] = ..., outcome: _Optional[str] = ..., latency_ms: _Optional[float] = ..., detail: _Optional[str] = ..., line: _Optional[str] = ..., reason: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[WatchAuditResponse.Record]
    dropped: int
    def __init__(self, records: _Optional[_Iterable[_Union[WatchAuditResponse.Record, _Mapping]]] = ..., dropped: _Optional[int] = ...) -> None: ...

class VerifyAuditRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifyAuditResponse(_message.Message):
    __slots__ = ("intact", "records", "first_seq", "last_seq", "head", "files", "problem", "chains")
    class Chain(_message.Message):
        __slots__ = ("name", "intact", "records", "first_seq", "last_seq", "head", "files", "problem")
        NAME_FIELD_NUMBER: _ClassVar[int]
        INTACT_FIELD_NUMBER: _ClassVar[int]
        RECORDS_FIELD_NUMBER: _ClassVar[int]
        FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
        LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
        HEAD_FIELD_NUMBER: _ClassVar[int]
        FILES_FIELD_NUMBER: _ClassVar[int]
        PROBLEM_FIELD_NUMBER: _ClassVar[int]
        name: str
        intact: bool
        records: int
        first_seq: int
        last_seq: int
        head: str
        files: _containers.RepeatedScalarFieldContainer[str]
        problem: str
        def __init__(self, name: _Optional[str] = ..., intact: _Optional[bool] = ..., records: _Optional[int] = ..., first_seq: _Optional[int] = ..., last_seq: _Optional[int] = ..., head: _Optional[str] = ..., files: _Optional[_Iterable[str]] = ..., problem: _Optional[str] = ...) -> None: ...
    INTACT_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    intact: bool
    records: int
    first_seq: int
    last_seq: int
    head: str
    files: _containers.RepeatedScalarFieldContainer[str]
    problem: str
    chains: _containers.RepeatedCompositeFieldContainer[VerifyAuditResponse.Chain]
    def __init__(self, intact: _Optional[bool] = ..., records: _Optional[int] = ..., first_seq: _Optional[int] = ..., last_seq: _Optional[int] = ..., head: _Optional[str] = ..., files: _Optional[_Iterable[str]] = ..., problem: _Optional[str] = ..., chains: _Optional[_Iterable[_Union[VerifyAuditResponse.Chain, _Mapping]]] = ...) -> None: ...

class AcknowledgeAuditRequest(_message.Message):
    __slots__ = ("dry_run", "up_to_seq")
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    UP_TO_SEQ_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    up_to_seq: int
    def __init__(self, dry_run: _Optional[bool] = ..., up_to_seq: _Optional[int] = ...) -> None: ...

class AcknowledgeAuditResponse(_message.Message):
    __slots__ = ("seen", "acknowledged")
    class Seen(_message.Message):
        __slots__ = ("unix_ms", "seq", "text")
        UNIX_MS_FIELD_NUMBER: _ClassVar[int]
        SEQ_FIELD_NUMBER: _ClassVar[int]
        TEXT_FIELD_NUMBER: _ClassVar[int]
        unix_ms: int
        seq: int
        text: str
        def __init__(self, unix_ms: _Optional[int] = ..., seq: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...
    SEEN_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    seen: _containers.RepeatedCompositeFieldContainer[AcknowledgeAuditResponse.Seen]
    acknowledged: bool
    def __init__(self, seen: _Optional[_Iterable[_Union[AcknowledgeAuditResponse.Seen, _Mapping]]] = ..., acknowledged: _Optional[bool] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("subject", "issuer", "serial", "sha256", "not_before_unix_ms", "not_after_unix_ms", "pem", "node", "tenant", "names", "revoked_unix_ms", "reason")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    PEM_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    REVOKED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    subject: str
    issuer: str
    serial: str
    sha256: str
    not_before_unix_ms: int
    not_after_unix_ms: int
    pem: str
    node: str
    tenant: str
    names: _containers.RepeatedScalarFieldContainer[str]
    revoked_unix_ms: int
    reason: str
    def __init__(self, subject: _Optional[str] = ..., issuer: _Optional[str] = ..., serial: _Optional[str] = ..., sha256: _Optional[str] = ..., not_before_unix_ms: _Optional[int] = ..., not_after_unix_ms: _Optional[int] = ..., pem: _Optional[str] = ..., node: _Optional[str] = ..., tenant: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., revoked_unix_ms: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class GetCaRequest(_message.Message):
    __slots__ = ("node", "tenant", "most", "after")
    NODE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    node: str
    tenant: str
    most: int
    after: str
    def __init__(self, node: _Optional[str] = ..., tenant: _Optional[str] = ..., most: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class GetCaResponse(_message.Message):
    __slots__ = ("state", "key", "certificate", "following", "csr", "chain", "issued", "crl_unix_ms", "crl_next_unix_ms", "crl_revoked", "profile", "more")
    class Profile(_message.Message):
        __slots__ = ("lifetime_ms", "key_types", "names", "crl_url")
        LIFETIME_MS_FIELD_NUMBER: _ClassVar[int]
        KEY_TYPES_FIELD_NUMBER: _ClassVar[int]
        NAMES_FIELD_NUMBER: _ClassVar[int]
        CRL_URL_FIELD_NUMBER: _ClassVar[int]
        lifetime_ms: int
        key_types: _containers.RepeatedScalarFieldContainer[str]
        names: _containers.RepeatedScalarFieldContainer[str]
        crl_url: str
        def __init__(self, lifetime_ms: _Optional[int] = ..., key_types: _Optional[_Iterable[str]] = ..., names: _Optional[_Iterable[str]] = ..., crl_url: _Optional[str] = ...) -> None: ...
    STATE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    FOLLOWING_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    ISSUED_FIELD_NUMBER: _ClassVar[int]
    CRL_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CRL_NEXT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CRL_REVOKED_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    state: str
    key: Key
    certificate: Certificate
    following: Key
    csr: str
    chain: _containers.RepeatedCompositeFieldContainer[Certificate]
    issued: _containers.RepeatedCompositeFieldContainer[Certificate]
    crl_unix_ms: int
    crl_next_unix_ms: int
    crl_revoked: int
    profile: GetCaResponse.Profile
    more: bool
    def __init__(self, state: _Optional[str] = ..., key: _Optional[_Union[Key, _Mapping]] = ..., certificate: _Optional[_Union[Certificate, _Mapping]] = ..., following: _Optional[_Union[Key, _Mapping]] = ..., csr: _Optional[str] = ..., chain: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ..., issued: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ..., crl_unix_ms: _Optional[int] = ..., crl_next_unix_ms: _Optional[int] = ..., crl_revoked: _Optional[int] = ..., profile: _Optional[_Union[GetCaResponse.Profile, _Mapping]] = ..., more: _Optional[bool] = ...) -> None: ...

class InitCaRequest(_message.Message):
    __slots__ = ("subject", "type", "above")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    subject: str
    type: str
    above: bool
    def __init__(self, subject: _Optional[str] = ..., type: _Optional[str] = ..., above: _Optional[bool] = ...) -> None: ...

class InitCaResponse(_message.Message):
    __slots__ = ("key", "certificate", "csr")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    key: Key
    certificate: Certificate
    csr: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., certificate: _Optional[_Union[Certificate, _Mapping]] = ..., csr: _Optional[str] = ...) -> None: ...

class ImportCaCertificateRequest(_message.Message):
    __slots__ = ("certificates",)
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    certificates: bytes
    def __init__(self, certificates: _Optional[bytes] = ...) -> None: ...

class ImportCaCertificateResponse(_message.Message):
    __slots__ = ("key", "certificate")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    key: Key
    certificate: Certificate
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., certificate: _Optional[_Union[Certificate, _Mapping]] = ...) -> None: ...

class IssueCertificateRequest(_message.Message):
    __slots__ = ("csr", "node", "tenant")
    CSR_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    node: str
    tenant: str
    def __init__(self, csr: _Optional[bytes] = ..., node: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class IssueCertificateResponse(_message.Message):
    __slots__ = ("certificate", "chain")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    certificate: Certificate
    chain: _containers.RepeatedCompositeFieldContainer[Certificate]
    def __init__(self, certificate: _Optional[_Union[Certificate, _Mapping]] = ..., chain: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ...) -> None: ...

class RevokeCertificateRequest(_message.Message):
    __slots__ = ("serial", "node", "tenant", "reason", "dry_run")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    serial: str
    node: str
    tenant: str
    reason: str
    dry_run: bool
    def __init__(self, serial: _Optional[str] = ..., node: _Optional[str] = ..., tenant: _Optional[str] = ..., reason: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class RevokeCertificateResponse(_message.Message):
    __slots__ = ("revoked", "listed", "not_listed_because")
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    LISTED_FIELD_NUMBER: _ClassVar[int]
    NOT_LISTED_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    revoked: _containers.RepeatedCompositeFieldContainer[Certificate]
    listed: bool
    not_listed_because: str
    def __init__(self, revoked: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ..., listed: _Optional[bool] = ..., not_listed_because: _Optional[str] = ...) -> None: ...

class GetCrlRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCrlResponse(_message.Message):
    __slots__ = ("crls", "signed_unix_ms", "next_unix_ms")
    CRLS_FIELD_NUMBER: _ClassVar[int]
    SIGNED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    NEXT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    crls: _containers.RepeatedScalarFieldContainer[bytes]
    signed_unix_ms: int
    next_unix_ms: int
    def __init__(self, crls: _Optional[_Iterable[bytes]] = ..., signed_unix_ms: _Optional[int] = ..., next_unix_ms: _Optional[int] = ...) -> None: ...

class RollCaRequest(_message.Message):
    __slots__ = ("type",)
    TYPE_FIELD_NUMBER: _ClassVar[int]
    type: str
    def __init__(self, type: _Optional[str] = ...) -> None: ...

class RollCaResponse(_message.Message):
    __slots__ = ("key", "certificate", "csr", "chain")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    key: Key
    certificate: Certificate
    csr: str
    chain: _containers.RepeatedCompositeFieldContainer[Certificate]
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., certificate: _Optional[_Union[Certificate, _Mapping]] = ..., csr: _Optional[str] = ..., chain: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ...) -> None: ...
