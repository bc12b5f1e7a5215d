# imdlbenco: IMDL-BenCo's eleven models in PyTorch, one image for all. CUDA comes as wheels with the lock: no CUDA base.
# Context: requirements.lock, build.lock, runner/, stack/ (orch writes it; see docs/adding-a-stack.md).
ARG BASE_IMAGE=python:3.11-slim

# What comes out of the context has a stage of its own: orch lays a context out like this, compose.yaml names the
# repository's own places, and both find the same layers.
FROM scratch AS files
ARG LOCK=requirements.lock
ARG BUILD_LOCK=build.lock
ARG RUNNER=runner
ARG STACK=stack
COPY ${LOCK} /requirements.lock
COPY ${BUILD_LOCK} /build.lock
COPY ${RUNNER} /runner
COPY ${STACK} /stack

FROM ${BASE_IMAGE}

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=/opt/orch/runner \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The slow layer first: it depends on the locks alone, so editing a predictor rebuilds in seconds. fvcore and iopath are
# published as source distributions: what builds them is locked as well, so nothing is built in isolation.
# The lock leaves out what is never imported (stack.yaml: partial_lock); what it holds must fit together.
COPY --from=files /requirements.lock /build.lock /opt/orch/
# orch passes pip's settings and an own certificate authority as secrets: no layer has them.
ARG PIP_CONFIG_FILE=/run/secrets/pip.conf
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    pip install --cache-dir /var/cache/pip --no-input --disable-pip-version-check --root-user-action=ignore \
    --no-deps --require-hashes --only-binary :all: -r /opt/orch/build.lock \
    && pip install --cache-dir /var/cache/pip --no-input --disable-pip-version-check --root-user-action=ignore \
    --no-deps --require-hashes --no-build-isolation -r /opt/orch/requirements.lock \
    && ! pip check | grep -vE 'which is not installed\.$|^No broken'

# A new volume takes this folder's mode: any user may write into it.
RUN mkdir -m 1777 /cache
COPY --from=files /runner /opt/orch/runner
COPY --from=files /stack /opt/orch/stack
# The package registers its models when it is imported; each of the zoo's must be among them.
RUN python -c "import IMDLBenCo, jpeglib, orch_runner.worker, orch_runner.batches, orch_runner.pipeline"
WORKDIR /opt/orch/stack
RUN python -c "import predictor, random_weights; predictor.Predictor()" \
    && python -c "import IMDLBenCo, zoo; [IMDLBenCo.MODELS.get(one.registry) for one in zoo.ARCHITECTURES.values()]"
WORKDIR /
