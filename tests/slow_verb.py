"""A verb that waits, for tests that interrupt it: see test_cli.slow."""

from __future__ import annotations

import sys
import time

from edgegen.cli import exit_contract


def wait() -> None:
    """A minute in short sleeps: a signal that arrives just before a sleep is raised after it."""
    for _ in range(600):
        time.sleep(0.1)


def program(arguments: list[str]) -> int:
    try:
        print("ready", file=sys.stderr, flush=True)
        exec("wait()" if "import" in arguments else "")
        wait()
    except KeyboardInterrupt:
        if "swallow" not in arguments:
            raise
    finally:
        print("cleaned", file=sys.stderr, flush=True)
        if "stuck" in arguments:
            wait()
    return 0


if __name__ == "__main__":
    sys.exit(exit_contract.call(program, sys.argv[1:]))
