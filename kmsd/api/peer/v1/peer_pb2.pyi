from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class WhoAmIRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WhoAmIResponse(_message.Message):
    __slots__ = ("version", "host", "now_unix_ms", "tenant", "name", "serial", "tls_version", "cipher", "group")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    TLS_VERSION_FIELD_NUMBER: _ClassVar[int]
    CIPHER_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    version: str
    host: str
    now_unix_ms: int
    tenant: str
    name: str
    serial: str
    tls_version: str
    cipher: str
    group: str
    def __init__(self, version: _Optional[str] = ..., host: _Optional[str] = ..., now_unix_ms: _Optional[int] = ..., tenant: _Optional[str] = ..., name: _Optional[str] = ..., serial: _Optional[str] = ..., tls_version: _Optional[str] = ..., cipher: _Optional[str] = ..., group: _Optional[str] = ...) -> None: ...
