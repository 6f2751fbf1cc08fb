"""The PKCS#11 token: `connection` is one as the rest of kmsd sees it, `hosting` its host processes, `queue` the calls
that wait for it, `operation` what it can be asked.

Knows keys by CKA_ID and CKA_LABEL and bytes by their mechanism, and nothing of key ids on the wire or of serving. Only
`host` loads a PKCS#11 module, in a process of its own: a C call cannot be cancelled, and one that hangs or crashes must
stop neither Status nor kmsd.
"""
