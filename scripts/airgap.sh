#!/usr/bin/env bash
# The wheel as a device without a network gets it: the two blocks of docs/guides/air-gap.md as they stand, the second
# without a network, then the contract tests, without torch, from outside the checkout.
#   make airgap, or scripts/airgap.sh [PYTHON]; dist/ holds the wheel
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(realpath -s "$(command -v "${1:-$checkout/.venv/bin/python}")")  # -s: a link into an environment stays one
outside=$(mktemp -d)
trap 'rm -rf "$outside"' EXIT
block() { awk -v wanted="$1" '/^```sh$/ { n++; inside = 1; next } /^```$/ { inside = 0 } inside && n == wanted' "$checkout/docs/guides/air-gap.md"; }
mkdir "$outside/office" "$outside/bin"
ln -s "$checkout/dist" "$checkout/requirements" "$outside/office/"
ln -s "$python" "$outside/bin/python3"
export PATH="$outside/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH
cd "$outside/office"
bash -euo pipefail -c "$(block 1 | grep -v '^make wheel$')"
"$python" -m pip download -q -d "$outside/tests" -c "$checkout/constraints.txt" pytest
mv stick "$outside/"; cd "$outside"
echo "$(ls stick/wheels | wc -l) wheels, $(du -sh stick/wheels | cut -f1)"
cut=(); if unshare -n true 2>/dev/null; then cut=(unshare -n); else echo "this user may not cut the network off: pip is told --no-index alone"; fi
"${cut[@]}" bash -euo pipefail -c "$(block 2)"
"${cut[@]}" edgegen/bin/python -m pip install -q --no-index --find-links tests pytest
cp -r "$checkout/tests/contract" contract
cd contract
"${cut[@]}" "$outside/edgegen/bin/python" -m pytest -ra -W error -p no:cacheprovider .
