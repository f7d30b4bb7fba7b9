FROM python:3.12-slim AS build
# Which kinds of presets the image can make: "images tables", one of them, or none.
ARG LANES=""
WORKDIR /build
COPY requirements.txt requirements-otel.txt requirements-images.txt requirements-tables.txt constraints.txt ./
RUN set -- requirements.txt requirements-otel.txt \
    && for lane in $LANES; do set -- "$@" "requirements-$lane.txt"; done \
    && python -m venv --without-pip /venv \
    && for file in "$@"; do \
        python -m pip --python /venv/bin/python install --no-cache-dir -r "$file" -c constraints.txt || exit 1; \
    done

FROM python:3.12-slim
RUN useradd --uid 10001 ferryman && install -d -o ferryman -g ferryman -m 700 /spool
COPY --from=build /venv /venv
WORKDIR /app
COPY *.py ./
COPY migrations migrations
COPY core core
COPY storage storage
COPY access access
COPY intake intake
COPY delivery delivery
COPY events events
COPY processing processing
COPY web web
COPY openapi openapi
COPY ops ops
COPY ferryman ferryman
ENV OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_METRICS_EXPORTER=none OTEL_LOGS_EXPORTER=none OTEL_SERVICE_NAME=ferryman
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HOST=0.0.0.0 PORT=5000 SPOOL_DIR=/spool PROMETHEUS_MULTIPROC_DIR=/tmp/metrics
USER 10001:10001
VOLUME /spool
EXPOSE 5000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD \
    ["python", "-c", "import os, urllib.request as web; web.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]
CMD ["sh", "-c", "flask --app app db upgrade && exec ${OTEL_EXPORTER_OTLP_ENDPOINT:+opentelemetry-instrument} gunicorn -c gunicorn.conf.py 'app:create_app()'"]
