"""The command `python -m ia_lib.runs`."""

import sys

from ia_lib.workflow.command_line import main

if __name__ == "__main__":
    sys.exit(main())
