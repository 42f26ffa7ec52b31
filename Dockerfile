# Two stages: one installs the locked requirements and Kizashi into /opt/venv, the other holds that venv and nothing else.
# Pin the base by digest for a release: docker build --build-arg BASE=python:3.13.9-slim-bookworm@sha256:… .
ARG BASE=python:3.13.9-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN ["python", "-m", "venv", "/opt/venv"]
COPY requirements/build.txt requirements/run.txt requirements/
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: \
      -r requirements/build.txt -r requirements/run.txt
COPY . .
RUN /opt/venv/bin/pip install --no-cache-dir --no-build-isolation --no-deps . \
 && /opt/venv/bin/pip uninstall --yes --quiet setuptools pip

FROM ${BASE}
LABEL org.opencontainers.image.title="Kizashi" \
      org.opencontainers.image.description="Turns product events into explained churn-risk alerts" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KIZASHI_HOST=0.0.0.0 \
    KIZASHI_METRICS_HOST=0.0.0.0
WORKDIR /opt/venv
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8000 9100
ENTRYPOINT ["kizashi"]
CMD ["serve"]
