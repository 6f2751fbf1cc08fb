"""The certificate authority of a key manager: what its certificates are like, and which requests it refuses.

`authority` signs, with whatever private key it is given; `profile` says what a certificate has, from the configuration
alone; `request` looks at what somebody wants signed; `ledger` is what must be remembered. Nothing here knows of gRPC,
of EST or of a database. All of it is for a thread of its own: signing waits for a token, and a ledger for its disk.
"""
