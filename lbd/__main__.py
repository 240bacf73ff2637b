"""`python -m lbd`: see `lbd.cli`."""

import sys

from lbd.cli import main

sys.exit(main())
