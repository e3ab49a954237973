"""Decoding, in this process or, after a death, in a child of it.

A decoder in C may crash or hang on hostile bytes. In the ordinary way that kills the task's
process (a hang is ended by an alarm); the driver then has the shard made again with care: a child
decodes picture after picture, and the one that kills two children in a row is refused by name.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from infra.errors import RunError
from pipeline.header import BadImage
from pipeline.image import Picture, square

Decoder = Callable[[bytes], Picture]
PATIENCE_S = 60  # of one picture; 64 million pixels take about one second
DEATHS = 2  # of children on one picture, before it is blamed


@contextlib.contextmanager
def decoder(
    *, careful: bool, square: Decoder = square, patience_s: float = PATIENCE_S
) -> Iterator[Decoder]:
    """`square`, made safe: a function from a file's bytes to a `Picture` that raises `BadImage`.

    With `careful` also for a picture that crashes ("kills_decoder") or hangs ("too_slow"); without,
    such a picture ends this process, by SIGALRM if it hangs: nothing softer stops C code.
    """

    def under_alarm(data: bytes) -> Picture:
        signal.setitimer(signal.ITIMER_REAL, patience_s)
        try:
            return square(data)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # what comes after may wait, for storage

    child = _Child(square, patience_s)
    try:
        yield child.decode if careful else under_alarm
    finally:
        child.stop()


class _Child:
    """A process that decodes; started when needed, and again after a death."""

    def __init__(self, square: Decoder, patience_s: float) -> None:
        self._square, self._patience_s = square, patience_s
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def decode(self, data: bytes) -> Picture:
        """Asks the child; after a death asks a fresh one, once."""
        reason = "kills_decoder"
        for _ in range(DEATHS):
            pipe = self._start()
            try:
                pipe.send_bytes(data)
                if pipe.poll(self._patience_s):
                    reply = pipe.recv()
                    break
                reason = "too_slow"
            except (EOFError, OSError):
                reason = "kills_decoder"
            self.stop()
        else:
            raise BadImage(reason)
        if isinstance(reply, Picture):
            return reply
        raise BadImage(reply)

    def _start(self) -> Connection:
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")  # a fork would inherit threads and locks
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._square), daemon=True)
            self._process.start()
            theirs.close()
            try:
                self._pipe.recv()  # it is ready: loading torch is no picture's fault
            except EOFError:
                raise RunError("a child process for decoding cannot start; check memory.") from None
        return self._pipe

    def stop(self) -> None:
        """Ends the child, whatever it is doing."""
        if self._process is not None and self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None


def _serve(pipe: Connection, square: Decoder) -> None:
    """The child: a picture or a reason for each message, until the pipe closes."""
    import torch

    torch.set_num_threads(1)
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            data = pipe.recv_bytes()
            try:
                reply: Picture | str = square(data)
            except BadImage as reason:
                reply = str(reason)
            pipe.send(reply)
