"""The terminal program that watches a running kmsd, and acts on it.

Knows `kmsd.client` and nothing else of kmsd.
"""

import os

# Before Textual is imported. What has changed waits for the next of these moments, and a row and what is beside it for
# two of them: at Textual's own 60 a second that is a third of what a key may take to show. Nothing is painted where
# nothing changes.
os.environ.setdefault("TEXTUAL_FPS", "200")
