"""Run the command line with `python -m edgegen`, also under torchrun."""

import sys

from edgegen.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
