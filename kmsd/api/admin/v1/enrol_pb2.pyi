from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolmentToken(_message.Message):
    __slots__ = ("id", "node", "tenant", "made_unix_ms", "expires_unix_ms", "revoked_unix_ms", "uses", "uses_left", "made_by", "usable")
    ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MADE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    USES_LEFT_FIELD_NUMBER: _ClassVar[int]
    MADE_BY_FIELD_NUMBER: _ClassVar[int]
    USABLE_FIELD_NUMBER: _ClassVar[int]
    id: str
    node: str
    tenant: str
    made_unix_ms: int
    expires_unix_ms: int
    revoked_unix_ms: int
    uses: int
    uses_left: int
    made_by: str
    usable: bool
    def __init__(self, id: _Optional[str] = ..., node: _Optional[str] = ..., tenant: _Optional[str] = ..., made_unix_ms: _Optional[int] = ..., expires_unix_ms: _Optional[int] = ..., revoked_unix_ms: _Optional[int] = ..., uses: _Optional[int] = ..., uses_left: _Optional[int] = ..., made_by: _Optional[str] = ..., usable: _Optional[bool] = ...) -> None: ...

class CreateEnrolmentTokenRequest(_message.Message):
    __slots__ = ("node", "tenant", "ttl_seconds", "uses")
    NODE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    node: str
    tenant: str
    ttl_seconds: int
    uses: int
    def __init__(self, node: _Optional[str] = ..., tenant: _Optional[str] = ..., ttl_seconds: _Optional[int] = ..., uses: _Optional[int] = ...) -> None: ...

class CreateEnrolmentTokenResponse(_message.Message):
    __slots__ = ("token", "text")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    token: EnrolmentToken
    text: str
    def __init__(self, token: _Optional[_Union[EnrolmentToken, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class ListEnrolmentTokensRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEnrolmentTokensResponse(_message.Message):
    __slots__ = ("tokens", "next_page_token")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[EnrolmentToken]
    next_page_token: str
    def __init__(self, tokens: _Optional[_Iterable[_Union[EnrolmentToken, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RevokeEnrolmentTokenRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RevokeEnrolmentTokenResponse(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: EnrolmentToken
    def __init__(self, token: _Optional[_Union[EnrolmentToken, _Mapping]] = ...) -> None: ...

class EnrolmentRequest(_message.Message):
    __slots__ = ("id", "public_key_sha256", "subject", "label", "address", "asked_unix_ms", "expires_unix_ms", "state", "node", "tenant", "decided_by", "decided_unix_ms", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_SHA256_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ASKED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    DECIDED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    public_key_sha256: str
    subject: str
    label: str
    address: str
    asked_unix_ms: int
    expires_unix_ms: int
    state: str
    node: str
    tenant: str
    decided_by: str
    decided_unix_ms: int
    reason: str
    def __init__(self, id: _Optional[str] = ..., public_key_sha256: _Optional[str] = ..., subject: _Optional[str] = ..., label: _Optional[str] = ..., address: _Optional[str] = ..., asked_unix_ms: _Optional[int] = ..., expires_unix_ms: _Optional[int] = ..., state: _Optional[str] = ..., node: _Optional[str] = ..., tenant: _Optional[str] = ..., decided_by: _Optional[str] = ..., decided_unix_ms: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ListEnrolmentRequestsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEnrolmentRequestsResponse(_message.Message):
    __slots__ = ("requests", "next_page_token")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[EnrolmentRequest]
    next_page_token: str
    def __init__(self, requests: _Optional[_Iterable[_Union[EnrolmentRequest, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DecideEnrolmentRequestRequest(_message.Message):
    __slots__ = ("id", "approve", "node", "tenant", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    APPROVE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    approve: bool
    node: str
    tenant: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., approve: _Optional[bool] = ..., node: _Optional[str] = ..., tenant: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DecideEnrolmentRequestResponse(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: EnrolmentRequest
    def __init__(self, request: _Optional[_Union[EnrolmentRequest, _Mapping]] = ...) -> None: ...

class CheckStoreRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckStoreResponse(_message.Message):
    __slots__ = ("kind", "name", "version", "newest", "rows", "problem")
    class RowsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    version: str
    newest: str
    rows: _containers.ScalarMap[str, int]
    problem: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., newest: _Optional[str] = ..., rows: _Optional[_Mapping[str, int]] = ..., problem: _Optional[str] = ...) -> None: ...

class BackUpStoreRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackUpStoreResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
