"""`python -m shm`: see `shm.cli`."""

import sys

from shm.cli import main

if __name__ == "__main__":
    sys.exit(main())
