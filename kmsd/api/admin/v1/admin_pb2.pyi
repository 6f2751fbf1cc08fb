from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

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

class KeyType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_TYPE_UNSPECIFIED: _ClassVar[KeyType]
    KEY_TYPE_AES: _ClassVar[KeyType]
    KEY_TYPE_HMAC: _ClassVar[KeyType]
    KEY_TYPE_OTHER: _ClassVar[KeyType]
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
KEY_TYPE_UNSPECIFIED: KeyType
KEY_TYPE_AES: KeyType
KEY_TYPE_HMAC: KeyType
KEY_TYPE_OTHER: KeyType

class Problem(_message.Message):
    __slots__ = ("message", "hint", "fatal")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    FATAL_FIELD_NUMBER: _ClassVar[int]
    message: str
    hint: str
    fatal: bool
    def __init__(self, message: _Optional[str] = ..., hint: _Optional[str] = ..., fatal: _Optional[bool] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("label", "key_id", "key_id_sha256", "type", "bits", "state", "unusable_reason", "unusable_hint", "can_encrypt", "can_decrypt", "can_sign", "can_verify", "sensitive", "extractable", "private", "created_unix_ms", "token_label")
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
    def __init__(self, label: _Optional[str] = ..., key_id: _Optional[str] = ..., key_id_sha256: _Optional[str] = ..., type: _Optional[_Union[KeyType, str]] = ..., bits: _Optional[int] = ..., state: _Optional[_Union[KeyState, str]] = ..., unusable_reason: _Optional[str] = ..., unusable_hint: _Optional[str] = ..., can_encrypt: _Optional[bool] = ..., can_decrypt: _Optional[bool] = ..., can_sign: _Optional[bool] = ..., can_verify: _Optional[bool] = ..., sensitive: _Optional[bool] = ..., extractable: _Optional[bool] = ..., private: _Optional[bool] = ..., created_unix_ms: _Optional[int] = ..., token_label: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("version", "state", "healthz", "hint", "started_unix_ms", "write_label", "write_key", "token", "sessions", "probe", "listeners", "problems", "keys", "write_format")
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
        __slots__ = ("open", "configured", "busy", "stuck", "queued")
        OPEN_FIELD_NUMBER: _ClassVar[int]
        CONFIGURED_FIELD_NUMBER: _ClassVar[int]
        BUSY_FIELD_NUMBER: _ClassVar[int]
        STUCK_FIELD_NUMBER: _ClassVar[int]
        QUEUED_FIELD_NUMBER: _ClassVar[int]
        open: int
        configured: int
        busy: int
        stuck: int
        queued: int
        def __init__(self, open: _Optional[int] = ..., configured: _Optional[int] = ..., busy: _Optional[int] = ..., stuck: _Optional[int] = ..., queued: _Optional[int] = ...) -> None: ...
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
    def __init__(self, version: _Optional[str] = ..., state: _Optional[_Union[ServingState, str]] = ..., healthz: _Optional[str] = ..., hint: _Optional[str] = ..., started_unix_ms: _Optional[int] = ..., write_label: _Optional[str] = ..., write_key: _Optional[_Union[Key, _Mapping]] = ..., token: _Optional[_Union[GetStatusResponse.Token, _Mapping]] = ..., sessions: _Optional[_Union[GetStatusResponse.Sessions, _Mapping]] = ..., probe: _Optional[_Union[GetStatusResponse.HealthProbe, _Mapping]] = ..., listeners: _Optional[_Iterable[_Union[GetStatusResponse.Listener, _Mapping]]] = ..., problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., keys: _Optional[int] = ..., write_format: _Optional[str] = ...) -> None: ...

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
        __slots__ = ("slot_id", "description", "manufacturer", "token_present", "token_label", "token_serial", "token_model", "token_manufacturer", "flags", "pin_warnings", "in_use")
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
        def __init__(self, slot_id: _Optional[int] = ..., description: _Optional[str] = ..., manufacturer: _Optional[str] = ..., token_present: _Optional[bool] = ..., token_label: _Optional[str] = ..., token_serial: _Optional[str] = ..., token_model: _Optional[str] = ..., token_manufacturer: _Optional[str] = ..., flags: _Optional[_Iterable[str]] = ..., pin_warnings: _Optional[_Iterable[str]] = ..., in_use: _Optional[bool] = ...) -> None: ...
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
    __slots__ = ("label", "type", "bits", "key_id", "if_not_exists")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    IF_NOT_EXISTS_FIELD_NUMBER: _ClassVar[int]
    label: str
    type: KeyType
    bits: int
    key_id: str
    if_not_exists: bool
    def __init__(self, label: _Optional[str] = ..., type: _Optional[_Union[KeyType, str]] = ..., bits: _Optional[int] = ..., key_id: _Optional[str] = ..., if_not_exists: _Optional[bool] = ...) -> None: ...

class GenerateKeyResponse(_message.Message):
    __slots__ = ("key", "created")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    key: Key
    created: bool
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class AdoptKeyRequest(_message.Message):
    __slots__ = ("label", "key_id")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    label: str
    key_id: str
    def __init__(self, label: _Optional[str] = ..., key_id: _Optional[str] = ...) -> None: ...

class AdoptKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...
