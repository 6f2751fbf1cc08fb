"""The tests of the KMS APIs once more, through a proxy."""
