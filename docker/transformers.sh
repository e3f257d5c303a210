#!/usr/bin/env bash
# SegFormer clothes: Hugging Face transformers and torch; torchvision is not needed.
#   docker/transformers.sh [VENV]    into VENV (made if it is not there), or the active environment
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${1:-${VIRTUAL_ENV:-}}
if [ -n "$venv" ] && [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
python=${venv:+$venv/bin/}python3

# Installed only where there is none: on a machine with a GPU install the torch for its driver first.
# 2.13.0: a build for CPUs alone, 0.9 GB instead of 5.5 GB. Where torchvision is wanted too, take 2.14.1 with 0.29.1.
"$python" -c 'import torch' 2>/dev/null || "$python" -m pip install 'torch==2.13.0'
# 5.23.0: the tests passed with it; it brings tokenizers, huggingface-hub and safetensors in versions that fit.
"$python" -m pip install 'transformers==5.23.0'
"$python" -m pip install "$root"
"$python" -c 'import transformers, remot_data.detectors.segformer; print("transformers", transformers.__version__)'
