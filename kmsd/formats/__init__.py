"""The formats of what is stored: JWE, k8s-kms-plugin's formats, key ids. Pure, and imports nothing of ours."""
