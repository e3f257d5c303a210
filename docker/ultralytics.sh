#!/usr/bin/env bash
# Ultralytics YOLO: poses, person masks, person boxes. The library and its weights are AGPL-3.0.
#   docker/ultralytics.sh [VENV]    into VENV (made if it is not there), or the active environment
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${1:-${VIRTUAL_ENV:-}}
if [ -n "$venv" ] && [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
python=${venv:+$venv/bin/}python3

# Installed only where there is none: on a machine with a GPU install the pair for its driver first.
# Ultralytics calls torchvision's NMS, which must be built for the same torch: these two are.
"$python" -c 'import torch, torchvision' 2>/dev/null || "$python" -m pip install 'torch==2.14.1' 'torchvision==0.29.1'
# The toolkit first: it brings opencv-python-headless.
"$python" -m pip install "$root"
# 8.4.190: the tests passed with it. Its own list is not used for two reasons: opencv-python would write over the headless
# build and wants a display's libraries; ultralytics-platform is the client of a paid service. The rest of the list:
"$python" -m pip install 'ultralytics-thop==2.2.3' 'matplotlib>=3.3' 'pillow>=7.1.2' 'requests>=2.23' 'polars>=0.20' \
  'nvidia-ml-py>=12'
# The library's trackers want lap, and would install it in the middle of a run.
"$python" -m pip install 'lap==0.5.13'
"$python" -m pip install --no-deps 'ultralytics==8.4.190'
"$python" -c 'import remot_data.detectors.ultralytics_pose as d; print("ultralytics", d._ultralytics().__version__)'
