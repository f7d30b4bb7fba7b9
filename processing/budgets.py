"""The limits of a child, for its process and for what its lane takes."""

from __future__ import annotations

from config import MIB, Config
from core.errors import Unprocessable
from core.file_row import FileRow

IMAGE_MEMORY, IMAGE_CPU_SECONDS, IMAGE_FILE = 1024 * MIB, 30, 64 * MIB
TABLE_FILE = 4 * 1024 * MIB
FILES = 64
PATIENCE = 1.5
"""How much longer than its computing a child may take."""


def limits_of(kind: str, parent: FileRow, config: Config) -> dict[str, int]:
    """Return the limits for an original.

    Args:
        kind: of the preset.
        parent: the original.
        config: the settings.

    Raises:
        Unprocessable: it is too large.
    """
    is_table = kind == "table"
    if is_table and parent.size > config.TABLE_MAX_BYTES:
        raise Unprocessable(f"The table has {parent.size} bytes, {config.TABLE_MAX_BYTES} are processed at most.")
    cpu = config.PROCESS_SECONDS if is_table else min(IMAGE_CPU_SECONDS, config.PROCESS_SECONDS)
    memory = config.PROCESS_MEMORY_BYTES if is_table else min(IMAGE_MEMORY, config.PROCESS_MEMORY_BYTES)
    return {
        "memory": memory,
        "cpu": cpu,
        "seconds": int(max(cpu * PATIENCE, 2 * IMAGE_CPU_SECONDS)),
        "file": TABLE_FILE if is_table else IMAGE_FILE,
        "files": FILES,
        "pixels": config.IMAGE_MAX_PIXELS,
        "unpacked": config.TABLE_MAX_UNPACKED_BYTES,
        "cells": config.TABLE_MAX_CELLS,
        "rejected_percent": config.TABLE_MAX_REJECTED_PERCENT,
        "size": parent.size,
    }
