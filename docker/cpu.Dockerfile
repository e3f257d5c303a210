# The toolkit with its model package, for CPUs only. Build from the root of the repository:
#   docker build -f docker/cpu.Dockerfile -t remot:cpu .
#   docker build -f docker/cpu.Dockerfile -t remot:ultralytics --build-arg DETECTORS=ultralytics .
# DETECTORS: names of scripts in docker/, each installing the libraries of one detector. Not all fit into one
# environment with the torch of this image: take an image for each, or run the script outside.
FROM python:3.11-slim
ARG DETECTORS=""
WORKDIR /opt/remot
# Compilers for the detectors that build from source; versions follow the base image.
# hadolint ignore=DL3008
RUN if [ -n "$DETECTORS" ]; then \
      apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*; \
    fi
COPY pyproject.toml constraints.txt README.md ./
COPY remot_data remot_data
COPY remot_model remot_model
COPY docker docker
# The makers of torch have an index of builds for CPUs alone, a fifth of the size; pip prefers them where it is
# told of it: --build-arg PIP_EXTRA_INDEX_URL=URL. ultralytics, flow and detectron2 bring a torch of their own.
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1
RUN case " $DETECTORS " in \
      *" ultralytics "*|*" flow "*|*" detectron2 "*) ;; \
      *) pip install --no-cache-dir torch==2.13.0 ;; \
    esac
# The package is the one of this folder: there is no version to pin.
# hadolint ignore=DL3013
RUN for name in $DETECTORS; do "docker/$name.sh" || exit 1; done && pip install --no-cache-dir ".[train,s3,http]"
WORKDIR /data
ENTRYPOINT ["remot"]
CMD ["--help"]
