"""The way from a k8s-kms-plugin to kmsd: its set-up found and read, the configuration and the steps made of it."""
