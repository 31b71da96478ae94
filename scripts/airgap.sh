#!/usr/bin/env bash
# The wheel as a device without a network gets it: dist/'s wheel and what it needs into a folder of wheels, installed
# from there alone into an empty environment, then the contract tests, without torch, from outside the checkout.
#   make airgap, or scripts/airgap.sh [PYTHON]
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(command -v "${1:-$checkout/.venv/bin/python}")
wheel=$(ls "$checkout"/dist/edgegen-*.whl)
outside=$(mktemp -d)
trap 'rm -rf "$outside"' EXIT
"$python" -m venv "$outside/venv"
pip=("$outside/venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" download -q -d "$outside/wheelhouse" -c "$checkout/constraints.txt" "$wheel[onnxruntime]" pytest
echo "$(ls "$outside/wheelhouse" | wc -l) wheels, $(du -sh "$outside/wheelhouse" | cut -f1)"
cut=(); if unshare -n true 2>/dev/null; then cut=(unshare -n); else echo "this user may not cut the network off: pip is told --no-index alone"; fi
"${cut[@]}" "${pip[@]}" install -q --no-index --find-links "$outside/wheelhouse" "edgegen[onnxruntime]" pytest
cp -r "$checkout/tests/contract" "$outside/contract"
cd "$outside/contract"
"${cut[@]}" env -u PYTHONPATH "$outside/venv/bin/python" -m pytest -ra -W error -p no:cacheprovider .
