"""What schemathesis must be told: the bytes of a resumable upload are bytes."""

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def as_bytes(context: object, value: object) -> bytes:
    """Return generated data as a body."""
    return value if isinstance(value, bytes) else str(value).encode()
