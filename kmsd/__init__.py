"""kmsd: a KMS provider for Kubernetes whose keys never leave a PKCS#11 token."""

__version__ = "0.1.0"
