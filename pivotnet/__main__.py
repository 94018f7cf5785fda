"""``python -m pivotnet`` is ``pivotnet``."""

import sys

from pivotnet.cli import main

sys.exit(main())
