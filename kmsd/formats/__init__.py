"""What is stored, and how it is written: JWE, k8s-kms-plugin's formats, key ids. Pure, and imports nothing of ours."""
