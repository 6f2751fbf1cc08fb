"""What a KMS plugin does, apart from how it is asked: `api` says it in plain types, `local` does it on tokens."""
