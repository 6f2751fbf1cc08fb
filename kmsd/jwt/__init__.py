"""Service account tokens of Kubernetes: what is signed, with which key, and which public keys are published.

`claims` says what may be signed; `public_key` names keys as tokens do; `published` is the set of keys and its time;
`kept` is what outlives a restart; `keys` proves and chooses those on tokens, `views` shows and `changes` changes them;
`local` signs with them, `remote` asks key managers to, and `fetchers` is who has fetched them. Nothing here knows of
sockets.
"""
