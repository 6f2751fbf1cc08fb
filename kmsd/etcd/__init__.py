"""Read and count what is stored in etcd, and which keys it needs; nothing is decrypted.

`envelope` takes one value apart and is pure; `client` speaks etcd's own API; `scan` counts. Must not
know the daemon, a token, or how anything is shown. Importing this package loads neither grpc nor protobuf.
"""
