#!/usr/bin/env bash
# SCHP human parsing: the toolkit and torch, nothing else.
#   docker/schp.sh [VENV]    into VENV (made if it is not there), or the active environment
# The checkpoints cannot be fetched by a script: the authors keep them on a drive that asks a person. See docs/detectors.md.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${1:-${VIRTUAL_ENV:-}}
if [ -n "$venv" ] && [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
python=${venv:+$venv/bin/}python3

# Installed only where there is none: on a machine with a GPU install the torch for its driver first.
# 2.13.0: the tests last passed with it. Any torch from 2.4 on has what the network needs.
"$python" -c 'import torch' 2>/dev/null || "$python" -m pip install 'torch==2.13.0'
"$python" -m pip install "$root"
"$python" -c 'import remot_data.detectors._schp_network as n; print("SCHP:", sum(p.numel() for p in n.AugmentedCE2P(18).parameters()), "parameters")'
