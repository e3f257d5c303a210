# The toolkit for machines with NVIDIA GPUs. torch brings the CUDA libraries, the machine brings the driver (570 or newer
# for CUDA 12.8 and later) and the NVIDIA container toolkit. Build from the root of the repository:
#   docker build -f docker/cuda.Dockerfile -t remot:cuda .
#   docker build -f docker/cuda.Dockerfile -t remot:cuda-pose --build-arg DETECTORS="ultralytics transformers" .
#   docker run --gpus all --shm-size 8g -v "$PWD:/data" remot:cuda train STORE --stage all --preset paper --out RUN
# DETECTORS: names of scripts in docker/ (ultralytics, transformers, flow, schp, detectron2: they share this torch).
# mmpose with compiled operators wants torch 2.13.0 and nvcc: run docker/mmpose.sh --build in an image of NVIDIA's "devel" line.
FROM python:3.11-slim
ARG DETECTORS=""
WORKDIR /opt/remot
COPY pyproject.toml constraints.txt README.md ./
COPY remot_data remot_data
COPY remot_model remot_model
COPY docker docker
ENV PIP_NO_CACHE_DIR=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# The pair that the detectors' scripts were tested with; torchvision must be built for the same torch.
RUN pip install --no-cache-dir torch==2.14.1 torchvision==0.29.1
# The package is the one of this folder: there is no version to pin.
# hadolint ignore=DL3013
RUN for name in $DETECTORS; do "docker/$name.sh" || exit 1; done && pip install --no-cache-dir ".[train,s3,http,metrics]"
WORKDIR /data
ENTRYPOINT ["remot"]
CMD ["--help"]
