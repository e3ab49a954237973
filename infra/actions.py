"""Every action that changes storage passes here, so that a test can stop the process at each.

Durable actions are numbered by whoever observes them: `open`, `write`, `flush`, `rename`, `link`,
`unlink` and `settle` (the folder's fsync) on disk, `put`, `parts` and `delete` on S3. An observer
is told before and after each one; with none, as always outside tests, this costs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

observers: list[Callable[[str], None]] = []


@contextlib.contextmanager
def action(kind: str, name: str) -> Iterator[None]:
    """Around one durable action on the object or file `name`."""
    _tell(f"before {kind} {name}")
    yield
    _tell(f"after {kind} {name}")


def _tell(what: str) -> None:
    for observer in observers:
        observer(what)
