"""Names in `.env.example` that the service itself does not read."""

from __future__ import annotations

READ_BY_OPENTELEMETRY = {"OTEL_EXPORTER_OTLP_ENDPOINT"}
READ_BY_COMPOSE = {"POSTGRES_PASSWORD"}
READ_BY_CLIENT = {"FERRYMAN_URL", "FERRYMAN_KEY"}
READ_BY_OTHERS = READ_BY_OPENTELEMETRY | READ_BY_COMPOSE | READ_BY_CLIENT
