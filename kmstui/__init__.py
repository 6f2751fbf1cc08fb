"""The terminal program that watches a running kmsd, and changes nothing.

Knows `kmsd.client` and nothing else of kmsd.
"""
