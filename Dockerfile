# One image for everything of likering: likering-router, likering-node, likering-replica and the likering command.
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/likering
ENV PATH=/opt/likering/bin:$PATH
WORKDIR /src
# First what changes rarely. Every package has a hash; the build backend is one of them.
COPY requirements-image.lock ./
RUN pip install --require-hashes --only-binary :all: -r requirements-image.lock
COPY pyproject.toml README.md ./
COPY likering likering
COPY router router
COPY shard_node shard_node
RUN pip install --no-deps --no-build-isolation . \
    && pip uninstall --yes setuptools pip \
    && /opt/likering/bin/python -m compileall -q /opt/likering/lib

FROM python:${PYTHON}
# No account of the base image, and not root; Kubernetes is told the same number.
RUN groupadd --gid 10001 likering && useradd --uid 10001 --gid likering --no-create-home --shell /usr/sbin/nologin likering
COPY --from=build /opt/likering /opt/likering
ENV PATH=/opt/likering/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /
# 50051 callers, 50052 operators, 50061 nodes, 50053 health, 9464 metrics.
EXPOSE 50051 50052 50053 50061 9464
# Say which: likering-router …, likering-node …
CMD ["likering", "--help"]
