"""``python -m malis``; see `malis.cli`."""

import sys

from malis.cli import main

sys.exit(main())
