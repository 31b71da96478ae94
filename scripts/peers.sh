#!/usr/bin/env bash
# Environments for `edgegen bench --peer NAME=PYTHON`: one folder for each tool, since their
# requirements exclude each other and edgegen's.
#
#     scripts/peers.sh FOLDER [nncf] [modelopt] [olive]
#     edgegen bench out/a --peer nncf=FOLDER/nncf/bin/python --report report
#
# Versions of the tools are pinned; what was made before is left as it is. `--peer onnxruntime` needs
# none of this. PYTHON names another interpreter, PIP_ARGS what pip is told besides.
set -euo pipefail

if [ $# -eq 0 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
folder=$1
shift
[ $# -gt 0 ] || set -- nncf modelopt olive

for name in "$@"; do
    case $name in
        nncf) wanted=(nncf==3.4.0 openvino==2026.4.1) ;;
        # its extra "onnx" alone cannot import what it needs of "hf"
        modelopt) wanted=("nvidia-modelopt[onnx,hf]==0.47.0" torch==2.13.0) ;;
        # it declares neither requests nor that a newer pydantic breaks it
        olive) wanted=(olive-ai==0.13.0 torch==2.13.0 onnxruntime==1.31.1 onnxscript requests "pydantic<2.12") ;;
        *)
            echo "peers.sh: no tool is called $name; there are nncf, modelopt and olive" >&2
            exit 2
            ;;
    esac
    if [ -f "$folder/$name/made" ]; then
        echo "$name: there already"
        continue
    fi
    rm -rf "${folder:?}/$name"
    mkdir -p "$folder"
    "${PYTHON:-python3}" -m venv "$folder/$name"
    # shellcheck disable=SC2086
    "$folder/$name/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} "${wanted[@]}"
    touch "$folder/$name/made"
    echo "$name: --peer $name=$folder/$name/bin/python"
done
