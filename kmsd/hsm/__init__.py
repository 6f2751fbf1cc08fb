"""The PKCS#11 token: the module, the login, sessions on worker threads, keys, operations.

The only package that imports `pkcs11` or calls a PKCS#11 module. It knows keys by CKA_ID and CKA_LABEL and
bytes by their mechanism; it knows nothing of key ids on the wire, of formats, or of gRPC.

Everything that may block runs on threads of this package, never on the event loop: a C call cannot be
cancelled, and one that hangs must not stop Status.
"""
