# fformer: FashionFormer on the published stack (Python 3.8) or the modern one (3.10); which, the variant's lock says.
# Context: requirements.lock, build.lock, runner/, sources/, stack/ (orch writes it; see docs/adding-a-stack.md).
ARG BASE_IMAGE=python:3.8-slim
FROM ${BASE_IMAGE}

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=/opt/orch/runner \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The slow layers first: they depend on the locks alone, so editing a predictor rebuilds in seconds.
COPY requirements.lock build.lock /opt/orch/
# mmcv is published as a source distribution: what builds it is locked as well, so nothing is built in isolation.
# orch passes pip's settings and an own certificate authority as secrets: no layer has them.
ARG PIP_CONFIG_FILE=/run/secrets/pip.conf
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    pip install --cache-dir /var/cache/pip --no-input --disable-pip-version-check --root-user-action=ignore \
    --no-deps --require-hashes --only-binary :all: -r /opt/orch/build.lock \
    && pip install --cache-dir /var/cache/pip --no-input --disable-pip-version-check --root-user-action=ignore \
    --no-deps --require-hashes --no-build-isolation -r /opt/orch/requirements.lock

# The variant cu111: torch from the wheel index of its makers, of which no lock knows digests; TORCH may instead be
# addresses of wheels, with #sha256=… at their end.
ARG TORCH=""
ARG TORCH_INDEX=""
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    [ -z "${TORCH}" ] || pip install --cache-dir /var/cache/pip --no-input --disable-pip-version-check \
    --root-user-action=ignore --no-deps --only-binary :all: --index-url "${TORCH_INDEX}" ${TORCH}

# mmcv's compiled ops, for those who want to see for themselves that inference calls none. Some ten minutes of compiling.
ARG COMPILED_OPS=0
COPY stack/ops-*.txt /opt/orch/ops/
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    [ "${COMPILED_OPS}" = 0 ] || { apt-get update -q && apt-get install -y -q --no-install-recommends g++ \
    && version=$(python -c "import mmcv; print(mmcv.__version__)") && pip uninstall -q -y mmcv \
    && MMCV_WITH_OPS=1 pip install --cache-dir /var/cache/pip --no-input --disable-pip-version-check \
    --root-user-action=ignore --no-deps --require-hashes --no-build-isolation -r "/opt/orch/ops/ops-${version}.txt" \
    && rm -rf /var/lib/apt/lists/*; }
# The lock leaves out what is never imported (stack.yaml: partial_lock); what it holds must fit together.
RUN ! pip check | grep -vE 'which is not installed\.$|^No broken'

# A new volume takes this folder's mode: any user may write into it.
RUN mkdir -m 1777 /cache
COPY runner /opt/orch/runner
COPY sources /opt/orch/sources
COPY stack /opt/orch/stack
RUN python -c "import orch_runner.worker, orch_runner.batches, orch_runner.pipeline" \
    && python -c "import sys; sys.path.insert(0, '/opt/orch/stack'); import predictor, upstream; \
upstream.register('/opt/orch/sources/fashionformer'); predictor.Predictor()"
