# amrcnn: Attribute Mask R-CNN in TensorFlow 2.11. The cuda variant's lock brings CUDA 11.8 and cuDNN 8.6 as wheels rather
# than a base of nvidia/cuda:11.2: NVIDIA deletes old tags, and 11.8's libraries have code for Hopper. One file serves
# both variants: without those wheels the link below leads nowhere, and nobody follows it.
# Context: requirements.lock, runner/, sources/, stack/ (orch writes it; see docs/adding-a-stack.md).
ARG BASE_IMAGE=python:3.9-slim
FROM ${BASE_IMAGE}

# TensorFlow opens CUDA's libraries by name alone, so the path must be set before Python starts; ptxas and XLA's own
# files are looked for in the other two.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=/opt/orch/runner \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TF_FORCE_GPU_ALLOW_GROWTH=true \
    CUDA_LIBRARIES=/opt/orch/cuda/cuda_runtime/lib:/opt/orch/cuda/cublas/lib:/opt/orch/cuda/cufft/lib:/opt/orch/cuda/curand/lib:/opt/orch/cuda/cusolver/lib:/opt/orch/cuda/cusparse/lib:/opt/orch/cuda/cudnn/lib \
    XLA_FLAGS=--xla_gpu_cuda_data_dir=/opt/orch/cuda/cuda_nvcc \
    ORCH_GRAPHS=/opt/orch/graphs
ENV LD_LIBRARY_PATH=${CUDA_LIBRARIES} PATH=/opt/orch/cuda/cuda_nvcc/bin:${PATH}

# The slow layer first: it depends on the lock alone, so editing a predictor rebuilds in seconds.
# The lock leaves out what is never imported (stack.yaml: partial_lock); what it holds must fit together.
COPY requirements.lock /opt/orch/
# orch passes pip's settings and an own certificate authority as secrets: no layer has them.
ARG PIP_CONFIG_FILE=/run/secrets/pip.conf
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    pip install --cache-dir /var/cache/pip --no-input --disable-pip-version-check --root-user-action=ignore \
    --no-deps --require-hashes --only-binary :all: -r /opt/orch/requirements.lock \
    && ! pip check | grep -vE 'which is not installed\.$|^No broken' \
    && ln -s "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia" /opt/orch/cuda

# A new volume takes this folder's mode: any user may write into it.
RUN mkdir -m 1777 /cache
COPY runner /opt/orch/runner
COPY sources /opt/orch/sources
COPY stack /opt/orch/stack
# The graphs of the default settings, so that no worker has to build them; it is the smoke test of upstream's code too.
RUN python -c "import orch_runner.worker, orch_runner.batches, orch_runner.pipeline" \
    && python /opt/orch/stack/make_graphs.py /opt/orch/sources/tpu "${ORCH_GRAPHS}" \
    && python -c "import sys; sys.path.insert(0, '/opt/orch/stack'); import predictor, random_weights; predictor.Predictor()"
