"""The certificate authority: requests, certificates and lists of revocations, and the key that is on a token."""
