"""The store: what outlives a restart and several kmsd share. Enrolment tokens, certificates, requests, CRL numbers.

On SQLite or PostgreSQL. Others see `kmsd.store.store` and `records` alone. Knows nothing of HTTP, and of keys on
tokens, which never depend on it. All of it waits for the database: never to be called on an event loop's thread.
"""
