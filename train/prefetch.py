"""Loads what comes next in threads while the current batch computes, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(load: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`load(item)` for each item, in order, at most `threads` + 1 of them ahead.

    Threads suffice: decoding releases the interpreter's lock. An item's exception is raised where
    its result would have come. Leaving the loop forgets what was not begun.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(load, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
