"""The APIs, each a table of methods over bytes: thin translators between protobuf and the domain."""
