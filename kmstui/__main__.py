"""`python -m kmstui`."""

import sys

from kmstui.app import main

sys.exit(main())
