# Context: requirements.lock, runner/, stack/ (orch writes it). The base is an argument: base images get deleted.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=/opt/orch/runner \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The slow layer first: it depends on the lock alone, so editing the predictor rebuilds in seconds.
COPY requirements.lock /opt/orch/
# orch passes pip's settings and an own certificate authority as secrets: no layer has them.
ARG PIP_CONFIG_FILE=/run/secrets/pip.conf
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    pip install --cache-dir /var/cache/pip --no-input --disable-pip-version-check --root-user-action=ignore \
    --no-deps --require-hashes --only-binary :all: -r /opt/orch/requirements.lock \
    && pip check

# A new volume takes this folder's mode: any user may write into it.
RUN mkdir -m 1777 /cache
COPY runner /opt/orch/runner
COPY stack /opt/orch/stack
RUN python -c "import orch_runner.worker, orch_runner.batches, orch_runner.pipeline" \
    && python -c "import sys; sys.path.insert(0, '/opt/orch/stack'); import predictor; predictor.Predictor()"
