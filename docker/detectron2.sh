#!/usr/bin/env bash
# detectron2 without compiled operators: keypoint R-CNN and Mask R-CNN, on the CPU or a GPU.
#   docker/detectron2.sh [VENV]    into VENV (made if it is not there), or the active environment
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${1:-${VIRTUAL_ENV:-}}
if [ -n "$venv" ] && [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
python=${venv:+$venv/bin/}python3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Installed only where there is none: on a machine with a GPU install the pair for its driver first.
# detectron2 calls torchvision's operators (NMS, RoIAlign), which must be built for the same torch: these two are.
"$python" -c 'import torch, torchvision' 2>/dev/null || "$python" -m pip install 'torch==2.14.1' 'torchvision==0.29.1'

# setuptools below 81: detectron2's setup.py and its model zoo import pkg_resources, which later ones no longer have.
"$python" -m pip install 'setuptools<81' wheel
# What detectron2 0.6 imports. Its own list is not used: it pins black 21.4b2, which nothing here needs.
# fvcore and iopath: the last of the series that detectron2 0.6 asks for. omegaconf below 2.4: what hydra-core 1.3 takes.
"$python" -m pip install 'fvcore==0.1.5.post20221221' 'iopath==0.1.9' 'omegaconf<2.4' 'hydra-core>=1.1' \
  'yacs>=0.1.8' tabulate cloudpickle termcolor tqdm matplotlib 'Pillow>=7.1' 'pycocotools>=2.0.2'

# No package is called detectron2. pb1-detectron2 is version 0.6 repackaged, without the C++ sources that its setup.py
# still wants to build, and with the configs where setup.py does not look for them.
"$python" -m pip download --no-build-isolation --no-deps --no-binary :all: -d "$work" 'pb1-detectron2==0.6'
tar -xzf "$work"/pb1[-_]detectron2-0.6.tar.gz -C "$work"
source=$(dirname "$(ls "$work"/*/setup.py)")
sed -i 's/ext_modules=get_extensions()/ext_modules=[]/' "$source/setup.py"
mv "$source/detectron2/model_zoo/configs" "$source/configs"
"$python" -m pip install --no-build-isolation --no-deps "$source"

"$python" -m pip install "$root"
"$python" -c 'import remot_data.detectors.detectron2_pose as d; d.library(); import detectron2; print("detectron2", detectron2.__version__)'
