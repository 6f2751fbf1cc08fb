"""gRPC: thin translators between protobuf and the domain, one error mapping, and the listeners.

The APIs are tables of unary methods over bytes; nothing in a handler knows which listener carries it.
"""
