"""The audit: what was done, by whom and how it ended, in chains of records that show whether anybody altered them.

`trail` is what the rest of kmsd sees; a record goes through `queue` and `writer` into `file`. `chain` is the form of a
record and the proof over files of them.
"""
