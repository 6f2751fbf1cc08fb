"""The service of a KMS plugin, apart from how it is asked: `api` says it in plain types, `local` does it on tokens."""
