# The gateway for production. The demo's backend comes along for compose.yaml; the demo page needs DEBUG=1 and stays off.
#
#   docker build -t gateway .
#   docker build -t gateway --build-arg OTEL=1 .      # with what traces need: docs/operations.md
#   docker run --rm --env-file .env -v gateway:/data gateway python manage.py migrate
#   docker run --detach --env-file .env -v gateway:/data -p 8000:8000 gateway

ARG PYTHON=3.13

# Wheels are made where compilers are; they and their compilers stay behind.
FROM python:${PYTHON}-slim AS wheels
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ARG OTEL
COPY requirements.txt requirements-otel.txt /
RUN pip wheel --no-cache-dir --wheel-dir /wheels --requirement /requirements.txt ${OTEL:+--requirement /requirements-otel.txt}

FROM python:${PYTHON}-slim AS packages
ARG OTEL
COPY requirements.txt requirements-otel.txt /
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    python -m venv --without-pip /venv && \
    pip --python /venv/bin/python install --no-cache-dir --no-index --find-links /wheels \
    --requirement /requirements.txt ${OTEL:+--requirement /requirements-otel.txt}

FROM python:${PYTHON}-slim
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATABASE_URL=sqlite:////data/gateway.sqlite3 \
    LOG_FORMAT=json
RUN groupadd --gid 10001 gateway && useradd --uid 10001 --gid gateway --no-create-home --shell /usr/sbin/nologin gateway \
    && install --directory --owner gateway --group gateway /data
WORKDIR /app
COPY --from=packages /venv /venv
COPY manage.py pyproject.toml ./
COPY gatewaysite gatewaysite
COPY relay relay
COPY demo demo
# A checkout made under a strict umask is readable to its owner alone.
RUN chmod -R a+rX . && python -m compileall -q .

# By number: Kubernetes' runAsNonRoot can't tell from a name.
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# http.client, not urllib: a proxy in the environment must not be asked for 127.0.0.1.
HEALTHCHECK --interval=10s --timeout=4s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=3); c.request('GET', '/health/live'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "manage.py", "serve", "-b", "0.0.0.0"]
