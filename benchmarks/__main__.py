"""Run a benchmark by its name: python -m benchmarks NAME ...; without a name, list all."""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    names = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"python -m benchmarks NAME ...; benchmarks: {', '.join(names)}")
    script = HERE / f"{sys.argv[1]}.py"
    sys.argv[:2] = [str(script)]
    sys.path.insert(0, str(HERE))  # a script has its own folder on the path too
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
