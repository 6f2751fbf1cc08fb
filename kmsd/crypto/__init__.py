"""Turn plaintext into what is stored and back: the JWE compact form, and the token operations under it."""
