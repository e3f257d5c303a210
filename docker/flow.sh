#!/usr/bin/env bash
# Flow by networks: the RAFT of torchvision, and ptlflow with FlowNet2, PWC-Net, RAFT and some 80 more.
#   docker/flow.sh [VENV]    into VENV (made if it is not there), or the active environment
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${1:-${VIRTUAL_ENV:-}}
if [ -n "$venv" ] && [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
python=${venv:+$venv/bin/}python3

# Installed only where there is none: on a machine with a GPU install the pair for its driver first.
# torchvision must be built for the same torch: these two are.
"$python" -c 'import torch, torchvision' 2>/dev/null || "$python" -m pip install 'torch==2.14.1' 'torchvision==0.29.1'
"$python" -m pip install "$root"
# What ptlflow 0.4.2 imports to run a network. The rest of its list serves training and plots, and holds opencv-python
# below 4.14, which would write over the headless build, and requests below 2.34, which others here have newer.
# lightning below 2.7, jsonargparse below 5, loguru below 0.8, einops below 0.9, timm below 1.1, scipy below 1.18: its limits.
"$python" -m pip install 'lightning==2.6.6' 'jsonargparse[signatures]==4.53.0' 'loguru==0.7.3' 'einops==0.8.2' \
  'timm==1.0.31' 'scipy==1.17.1' requests
"$python" -m pip install --no-deps 'ptlflow==0.4.2'
"$python" -c 'import remot_data.detectors.ptlflow_flow as d; print("ptlflow", len(d._ptlflow().get_model_names()), "networks")'
