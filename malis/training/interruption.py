"""Ctrl-C and the signals that end a program, at a moment when they do no harm.

A cluster that wants its machine back sends SIGTERM and waits for about half a minute. That is long
enough to end a step and to write a checkpoint, but a signal may come when weights are half changed.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
CHILD = getattr(signal, "SIGCHLD", None)  # at which PyTorch raises if a process that loads has died


class Interruptions:
    """Signals that end the program; in a ``with`` block of `held` they wait.

    A signal does what it did before: Ctrl-C raises `KeyboardInterrupt`, and so may the handlers of
    the program. Only where it would end the process at once, it raises `SystemExit` with the exit
    code of a process that was ended so, 128 + its number. In another thread than the main one,
    which gets all signals, nothing is changed.

    Attributes
    ----------
    came : int or None
        The last of the signals that end the program, if there was one.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self._waiting: list[int] = []
        self._holds = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruptions":
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._take(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._before):
            self._give_back(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait until the block ends."""
        self._holds = True
        if CHILD and callable(signal.getsignal(CHILD)):
            self._take(CHILD)
        try:
            yield
        finally:
            self._holds = False
            self._give_back(CHILD)
            waiting, self._waiting = self._waiting, []
            for number in waiting:
                if number != CHILD or not self.came:  # else all processes are told to end
                    self.deliver(number)

    def deliver(self, number: int) -> None:
        """Do what a signal does."""
        before = self._before[number] if number in self._before else signal.getsignal(number)
        if before is signal.SIG_DFL:
            raise SystemExit(128 + number)
        before(number, None)

    def _take(self, number: int) -> None:
        before = signal.getsignal(number)
        if before is not None and threading.current_thread() is threading.main_thread():
            self._before[number] = before  # None would be that of a library in C
            signal.signal(number, self._receive)

    def _give_back(self, number: int) -> None:
        if number in self._before:
            signal.signal(number, self._before.pop(number))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number != CHILD:
            self.came = number
        if self._holds:
            self._waiting.append(number)
        else:
            self.deliver(number)
