"""gunicorn's side of a request: a worker for slow clients, reading and refusing of requests."""
