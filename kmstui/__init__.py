"""The terminal program that watches a running kmsd, and acts on it.

Knows `kmsd.client` and nothing else of kmsd.
"""
