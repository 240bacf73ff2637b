"""Exit codes that the daemon and the agent share; argparse itself uses EXIT_USAGE too."""

from typing import Final

EXIT_OK: Final = 0
EXIT_RUNTIME: Final = 1
EXIT_USAGE: Final = 2
EXIT_CONFIG: Final = 78  # EX_CONFIG of sysexits.h: a service manager should not restart on it
