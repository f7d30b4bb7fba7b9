"""Expands the files and folders of a command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import PurePath

Failure = Callable[[str, OSError], object]


def expand(sources: Sequence[str], exclude: Sequence[str], on_failure: Failure) -> Iterator[str]:
    """Yield the given files, and the files in the given folders, in the order of their names.

    Links to files count as files; links to folders are not followed, so that no circle is walked.

    Args:
        sources: paths of files and folders.
        exclude: patterns as in a shell; a file or folder is left out if its name, or its path below the folder
            that was named, matches one.
        on_failure: called with the path and the error of each folder that cannot be read.
    """
    for source in sources:
        if os.path.isdir(source):
            yield from _files_of(source, exclude, on_failure)
        elif not _is_excluded(PurePath(source).name, exclude):
            yield source


def _files_of(folder: str, exclude: Sequence[str], on_failure: Failure) -> Iterator[str]:
    def failed(error: OSError) -> None:
        on_failure(str(error.filename), error)

    for place, folders, files in os.walk(folder, onerror=failed):
        below = PurePath(place).relative_to(folder)
        folders[:] = sorted(name for name in folders if not _is_excluded(below / name, exclude))
        for name in sorted(files):
            path = os.path.join(place, name)
            if os.path.isfile(path) and not _is_excluded(below / name, exclude):
                yield path


def _is_excluded(path: PurePath | str, exclude: Sequence[str]) -> bool:
    return any(fnmatch(PurePath(path).name, pattern) or fnmatch(str(path), pattern) for pattern in exclude)
