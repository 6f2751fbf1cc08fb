"""`python -m kmsctl`."""

import sys

from kmsctl.app import main

sys.exit(main())
