"""Ctrl-C and the signals that end a program, at a moment when they do no harm.

A cluster that wants its machine back sends SIGTERM and waits for about half a minute. That is long
enough to end a step and to write a checkpoint, but a signal may come when weights are half changed.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interruptions:
    """Signals that end the program; in a ``with`` block of `held` they wait.

    A signal does what it did before: Ctrl-C raises `KeyboardInterrupt`, and so may the handlers of
    the program. Only where it would end the process at once, it raises `SystemExit` with the exit
    code of a process that was ended so, 128 + its number. In another thread than the main one,
    which gets all signals, nothing is changed.

    Attributes
    ----------
    came : bool
        Whether there was one.
    """

    def __init__(self) -> None:
        self.came = False
        self._waiting: list[int] = []
        self._holds = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruptions":
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None: of a library in C
                    self._before[number] = before
                    signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait until the block ends."""
        self._holds = True
        try:
            yield
        finally:
            self._holds = False
            while self._waiting:
                self._deliver(self._waiting.pop(0), None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if self._holds:
            self._waiting.append(number)
        else:
            self._deliver(number, frame)

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if before is signal.SIG_DFL:
            raise SystemExit(128 + number)
        before(number, frame)
