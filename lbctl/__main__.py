"""`python -m lbctl`: see `lbctl.cli`."""

import sys

from lbctl.cli import main

sys.exit(main())
