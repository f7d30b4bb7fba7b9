"""The lines of a text, with their ends; lines can be given back."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from processing.lanes.outcome import Unprocessable

LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)")
BREAK = re.compile(r"\r\n|\r|\n")
LONGEST_LINE = 4 << 20


class Lines:
    """Yields the lines of a text that comes in chunks; only CR, LF and CRLF end a line.

    Args:
        text: the chunks.
    """

    def __init__(self, text: Iterator[str]) -> None:
        self.taken: list[str] = []
        """The lines that were handed out since `forget`."""
        self.count = 0
        """How many were forgotten."""
        self.newlines = {"CRLF": 0, "LF": 0, "CR": 0}
        self.nuls = 0
        self.replacements = 0
        self._text = text
        self._pending: deque[str] = deque()
        self._rest = ""
        self._is_over = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while not self._pending:
            if self._is_over:
                raise StopIteration
            self._fill()
        line = self._pending.popleft()
        self.taken.append(line)
        return line

    def forget(self) -> None:
        """Forget the lines that were handed out."""
        self.count += len(self.taken)
        self.taken.clear()

    def give_back(self, number: int) -> None:
        """Take the last lines back, to hand them out again."""
        for _ in range(number):
            self._pending.appendleft(self.taken.pop())

    def _fill(self) -> None:
        chunk = next(self._text, None)
        text = self._rest + (chunk or "")
        if chunk is None:
            self._is_over, held = True, ""
        else:  # half a CRLF, or half a line
            held = "\r" if text.endswith("\r") else ""
            text = text.removesuffix("\r") if held else text
        self._count(text)
        used = max(text.rfind("\n"), text.rfind("\r")) + 1
        lines = LINE.findall(text[:used])  # of text without a line's end it would look at every place in vain
        self._rest = text[used:] + held
        self._uncount(text[used:])
        if self._is_over and self._rest:
            lines.append(self._rest)
            self._rest = ""
        if len(self._rest) > LONGEST_LINE:
            line = self.count + len(self.taken) + len(lines) + 1
            raise Unprocessable(f"Line {line} has more than {LONGEST_LINE >> 20} MiB.")
        self._pending.extend(lines)

    def _count(self, text: str) -> None:
        pairs = text.count("\r\n")
        self.newlines["CRLF"] += pairs
        self.newlines["LF"] += text.count("\n") - pairs
        self.newlines["CR"] += text.count("\r") - pairs
        self.nuls += text.count("\0")
        self.replacements += text.count("\ufffd")

    def _uncount(self, rest: str) -> None:
        """Take back what will be counted again with the rest of its line, unless nothing follows."""
        if not self._is_over:
            self.nuls -= rest.count("\0")
            self.replacements -= rest.count("\ufffd")
