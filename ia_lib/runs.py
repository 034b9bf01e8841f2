"""The command `python -m ia_lib.runs`."""

import sys

from ia_lib.workflow import ending

if __name__ == "__main__":
    ending.at_once()
    from ia_lib.workflow.command_line import main

    try:
        ending.in_order()
        sys.exit(main())
    except ending.Stopped as stopped:
        print(f"stopped; {ending.GOES_ON}", file=sys.stderr)
        sys.exit(stopped.code)
