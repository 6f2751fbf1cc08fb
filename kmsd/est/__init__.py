"""Enrolment over secure transport (EST, RFC 7030, clarified by RFC 8951 and RFC 9908): how nodes get certificates.

`wire` and `csrattrs` are the forms, pure; `tokens` what a node shows at first; `enrolment` decides who gets what, and
waits for the database and the token; `server` speaks HTTP, and `listener` TLS. The CA and the store are given to it.
Nothing here knows of gRPC.
"""
