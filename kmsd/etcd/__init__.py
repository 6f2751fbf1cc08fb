"""What is stored in etcd, and which keys it needs: read, counted, never decrypted.

`envelope` and `sealed` take one value apart and are pure; `client` speaks etcd's own API; `scan` counts. Must not
know the daemon, a token, or how anything is shown. Importing this package loads neither grpc nor protobuf.
"""
