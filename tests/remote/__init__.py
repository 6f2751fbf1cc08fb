"""Key manager, tenants and proxies: real processes, TLS and tokens."""
