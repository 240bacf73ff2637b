"""`python -m agent`: see `agent.cli`."""

import sys

from agent.cli import main

# The learner's process imports this module again, under another name.
if __name__ == "__main__":
    sys.exit(main())
