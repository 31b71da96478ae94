"""A verb that waits, for tests that interrupt it: see test_cli.slow."""

from __future__ import annotations

import sys
import time

from edgegen.cli import exit_contract


def program(arguments: list[str]) -> int:
    try:
        print("ready", file=sys.stderr, flush=True)
        exec("time.sleep(60)" if "import" in arguments else "")
        time.sleep(60)
    except KeyboardInterrupt:
        if "swallow" not in arguments:
            raise
    finally:
        print("cleaned", file=sys.stderr, flush=True)
        if "stuck" in arguments:
            time.sleep(60)
    return 0


if __name__ == "__main__":
    sys.exit(exit_contract.call(program, sys.argv[1:]))
