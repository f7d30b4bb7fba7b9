"""gunicorn's side of a request: a worker for slow clients, and how it reads and refuses requests."""
