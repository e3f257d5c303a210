#!/usr/bin/env bash
# MMPose (RTMPose body and whole body) into VENV (made if it is not there), or the active environment:
#   docker/mmpose.sh [VENV]                 with mmcv-lite, which needs no compiler: enough for every RTMPose model
#   docker/mmpose.sh --build [VENV]         with mmcv and its operators, compiled here: half an hour on two cores
#   docker/mmpose.sh --wheel FILE [VENV]    with an mmcv wheel that was built before, for the same Python and torch
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
how=lite wheel=
case ${1:-} in
  --build) how=build; shift ;;
  --wheel) how=wheel; wheel=${2:?"--wheel needs a file"}; shift 2 ;;
esac
venv=${1:-${VIRTUAL_ENV:-}}
if [ -n "$venv" ] && [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
python=${venv:+$venv/bin/}python3

# Installed only where there is none: on a machine with a GPU install the torch for its driver first.
# 2.13.0: mmcv 2.1.0 compiles against it; torch 2.14 wants C++20, which mmcv's setup.py does not ask for.
# torchvision is left out: MMPose only draws with it, and the detector does without.
"$python" -c 'import torch' 2>/dev/null || "$python" -m pip install 'torch==2.13.0'

# setuptools below 81: MMEngine, mmcv's and xtcocotools' setup.py import pkg_resources, which later ones no longer have.
# psutil, ninja: mmcv's setup.py counts cores with the one and compiles with the other.
"$python" -m pip install 'setuptools<81' wheel cython ninja psutil numpy
# What MMEngine, mmcv, mmdet and MMPose import. Their own lists are not used: they ask for opencv-python, which overwrites
# the headless build of the toolkit, and MMPose for chumpy, which no longer installs and which nothing here needs.
"$python" -m pip install addict yapf termcolor rich Pillow matplotlib scipy json-tricks munkres pycocotools shapely \
  terminaltables six packaging pyyaml
"$python" -m pip install --no-deps 'mmengine==0.10.7'

# mmcv 2.1.0: mmdet 3.3.0 refuses 2.2.0 and later.
case $how in
  lite) "$python" -m pip install --no-deps 'mmcv-lite==2.1.0' ;;
  build) MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-2} FORCE_CUDA=${FORCE_CUDA:-0} \
    "$python" -m pip install --no-build-isolation --no-deps --no-binary mmcv 'mmcv==2.1.0' ;;
  wheel) "$python" -m pip install --no-deps "$wheel" ;;
esac

# From source: its wheels are built for NumPy 1 and fail to import beside NumPy 2.
"$python" -m pip install --no-build-isolation --no-deps --no-binary xtcocotools 'xtcocotools==1.14.3'
# mmdet 3.3.0 has the backbone of RTMPose; both are the last releases.
"$python" -m pip install --no-deps 'mmpose==1.3.2' 'mmdet==3.3.0'

"$python" -m pip install "$root"
"$python" -c 'import remot_data.detectors.mmpose_pose as m; print("MMPose", m.library().version)'
