#!/usr/bin/env bash
# Puts the data sets that tests and training use into a cache folder:  scripts/datasets.sh [CACHE_DIR]
#   CACHE_DIR/fashion-mnist               link to the IDX files of the Debian package dataset-fashion-mnist
#   CACHE_DIR/furniture/<class>/*.png     colour renders from the Debian package sweethome3d-furniture, composited on white
#   CACHE_DIR/objects/{train,test}        coloured objects on white: npm's emoji packages, Debian's openclipart-png
# CACHE_DIR is ${XDG_CACHE_HOME:-$HOME/.cache}/edgegen unless told. Run again at will: what is there is left alone.
# PYTHON names an interpreter with Pillow, .venv/bin/python if it is there, else python3.
set -eu

fail() { echo "datasets.sh: $1" >&2; exit "$2"; }

[ $# -le 1 ] || fail "usage: scripts/datasets.sh [CACHE_DIR]" 2
case "${1:-}" in -*) fail "usage: scripts/datasets.sh [CACHE_DIR]" 2 ;; esac
here=$(cd "$(dirname "$0")" && pwd)
if [ -n "${1:-}" ]; then cache=$1
elif [ -n "${XDG_CACHE_HOME:-}" ]; then cache=$XDG_CACHE_HOME/edgegen
elif [ -n "${HOME:-}" ]; then cache=$HOME/.cache/edgegen
else fail "HOME is not set: name the folder, scripts/datasets.sh CACHE_DIR" 2; fi

idx=/usr/share/datasets/fashion-mnist
archives=/usr/share/sweethome3d/furniture
clipart=/usr/share/openclipart/png

missing=""
[ -e "$idx/train-images-idx3-ubyte.gz" ] || missing="dataset-fashion-mnist"
[ -e "$archives/BlendSwap-CC-0.sh3f" ] || missing="$missing sweethome3d-furniture"
[ -d "$clipart" ] || missing="$missing openclipart-png"
command -v npm >/dev/null || [ -n "${EDGEGEN_PACKAGES:-}" ] || [ -d "$cache/objects" ] || missing="$missing npm"
missing=${missing# }
if [ -n "$missing" ]; then
  command -v apt-get >/dev/null || fail "needs the Debian packages $missing, and there is no apt-get here: install them by hand into /usr/share" 5
  if [ "$(id -u)" -eq 0 ]; then sudo=""
  elif command -v sudo >/dev/null; then sudo=sudo
  else fail "needs the Debian packages $missing: run as root, apt-get install $missing" 5; fi
  echo "installing $missing (up to 300 MB)"
  # shellcheck disable=SC2086  # both are lists of words
  { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } \
    || fail "apt-get could not install $missing; its own message is above" 5
fi

python=${PYTHON:-}
if [ -z "$python" ]; then
  if [ -x "$here/../.venv/bin/python" ]; then python=$here/../.venv/bin/python; else python=python3; fi
fi
"$python" -c 'import PIL' 2>/dev/null || fail "'$python' has no Pillow: make venv, or PYTHON=/path/to/python scripts/datasets.sh" 5

mkdir -p "$cache" || fail "cannot make the folder $cache" 7
if [ -e "$cache/fashion-mnist" ] && [ ! -L "$cache/fashion-mnist" ]; then
  echo "fashion-mnist: $cache/fashion-mnist is a folder of yours, left alone"
else
  ln -sfn "$idx" "$cache/fashion-mnist"
  echo "fashion-mnist: $cache/fashion-mnist -> $idx, 60000 + 10000 images, MIT licence (Zalando SE)"
fi
"$python" "$here/furniture.py" "$archives" "$cache/furniture"
"$python" "$here/objects.py" "$clipart" "$cache/objects"
