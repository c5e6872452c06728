# An image with Luthier in it: for `luthier launch --on kubernetes --image`, and for a machine that has Docker alone.
#
#   docker build -t luthier .
#   docker run --rm -it --gpus all --shm-size 8g -v "$PWD:/workspace" luthier train configs/training_config.yaml
#
# Versions are those of constraints.txt, as in `make env`. torch for Linux brings CUDA's libraries along; of the machine
# it needs NVIDIA's driver and container toolkit, and without a GPU no --gpus.
FROM python:3.12-slim

# Triton compiles a launcher for each kernel when it is first used
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /build
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY src/luthier src/luthier
RUN PIP_CONSTRAINT=/build/constraints.txt pip install --no-cache-dir ".[serve,gguf,sweep]"

# Downloaded weights, tokenized rows and kept answers lie beside the checkpoints, for whoever comes next
ENV XDG_CACHE_HOME=/workspace/.cache
WORKDIR /workspace
ENTRYPOINT ["luthier"]
