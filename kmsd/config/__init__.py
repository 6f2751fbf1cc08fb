"""The configuration of kmsd: settings, where each value comes from, and what a reload may change.

`sources` reads the file, the environment and the flags into `settings`; `errors` says in words what is wrong with them.
"""
