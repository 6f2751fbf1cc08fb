"""Answer monitoring: metrics in the formats of Prometheus, and over HTTP whether kmsd lives and is ready.

`catalogue` names every metric, `samples` are their values at one moment, `exposition` writes them, `server` and
`listener` answer. Knows no token and no API: `kmsd.daemon` gathers the values.
"""
