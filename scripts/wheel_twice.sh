#!/usr/bin/env bash
# The wheel of HEAD built in two clones, in folders of other names and under other umasks: the bytes have to be equal.
#   make wheel-twice, or scripts/wheel_twice.sh VENV   with the virtual environment of the checkout
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$(cd "${1:-$checkout/.venv}" && pwd)
outside=$(mktemp -d)
trap 'rm -rf "$outside"' EXIT
[ -z "$(git -C "$checkout" status --porcelain)" ] || echo "note: what is not committed is in neither wheel"
build() {
  (umask "$2"; git clone -q "$checkout" "$outside/$1")
  # the environment is whole, whatever its stamp's age: nothing is to be installed for this
  (umask "$2"; make -s -C "$outside/$1" -o "$venv/.installed" VENV="$venv" wheel >/dev/null)
}
build one 022
build another-place 077
first=$(ls "$outside"/one/dist/*.whl)
second=$(ls "$outside"/another-place/dist/*.whl)
cmp "$first" "$second"
sha256sum "$first" | sed "s# .*/#  #"
