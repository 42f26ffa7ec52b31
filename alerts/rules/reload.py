"""Rules that change while the service runs: a good rulebook replaces the running one, a bad one is only reported."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from alerts.rules.document import RulebookError
from alerts.rules.loader import load, rules_files
from alerts.rules.model import RuleBook
from health.catalogue import Signal

Fingerprint = tuple[tuple[str, int, int], ...]


def reload(
    current: RuleBook, rules_dir: Path, catalogue: Mapping[str, Signal]
) -> tuple[RuleBook, RulebookError | None]:
    """The rulebook to run from now on, and what is wrong with the files if it is still the current one."""
    try:
        book = load(rules_dir, catalogue)
    except RulebookError as error:
        return current, error
    return (current if book.version == current.version else book), None


class RuleWatcher:
    """Reloads when a file was changed, added or removed since the last look; the caller decides how often to look."""

    def __init__(self, rules_dir: Path, catalogue: Mapping[str, Signal]) -> None:
        """Loads the directory. Raises RulebookError: a service does not start on bad rules."""
        self._rules_dir = rules_dir
        self._catalogue = catalogue
        # Taken before loading, so that a change in between is seen by the next look.
        self._seen = self._fingerprint()
        self.book = load(rules_dir, catalogue)
        self.error: RulebookError | None = None

    def poll(self) -> bool:
        """Look once. True if ``book`` was replaced; ``error`` has what is wrong with the files as they stand."""
        seen = self._fingerprint()
        if seen == self._seen:
            return False
        self._seen = seen
        before = self.book
        self.book, self.error = reload(before, self._rules_dir, self._catalogue)
        return self.book is not before

    def _fingerprint(self) -> Fingerprint:
        marks = []
        for path in rules_files(self._rules_dir):
            with contextlib.suppress(FileNotFoundError):  # removed since the directory was listed
                stat = path.stat()
                marks.append((path.name, stat.st_mtime_ns, stat.st_size))
        return tuple(marks)
