"""Write files completely or not at all, whatever ends the program.

A file is made under a temporary name beside its place and renamed when it is complete. Until then,
a file that was there before stays as it was. The temporary file is deleted if the program ends by
an exception; `signals_raise` turns signals that would end it otherwise into an exception. What a
killed process leaves behind is deleted by the next one that writes the same file.
"""

import contextlib
import errno
import glob
import os
import platform
import secrets
import signal
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # file systems that have none


@contextlib.contextmanager
def atomic_write(
    target: str | Path, *, overwrite: bool = True, durable: bool = True
) -> Iterator[Path]:
    """Write a file under a temporary name, which becomes its own at the end of the ``with`` block.

    Parameters
    ----------
    target : str or Path
        The file. Of two programs that write it at a time, the last one wins.
    overwrite : bool
        Whether a file that exists when the block ends may be replaced.
    durable : bool
        Wait until the file is on the disk, as far as the file system can tell, so that it survives
        a power cut, and delete first what killed processes left of it. Not worth the milliseconds
        for a file of which there are thousands.

    Yields
    ------
    Path
        The temporary name, in the same folder; the block has to write this file and close it.

    Raises
    ------
    FileExistsError
        If the target exists in the end and `overwrite` is not set.
    OSError
        If the file cannot be written, for instance because the disk is full.
    """
    shown, target = Path(target), Path(target).resolve()
    if durable:
        delete_leftovers(target)
    temporary = temporary_beside(target)
    try:
        yield temporary
        publish(temporary, target, overwrite=overwrite, durable=durable)
    except FileExistsError:
        raise
    except OSError as error:
        raise cannot_write(shown, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(target: Path) -> Path:
    """Return a name for a temporary file that no other writer takes, on any machine."""
    return target.with_name(f"{_start(target)}{os.getpid()}-{secrets.token_hex(4)}.part")


def delete_leftovers(target: Path) -> None:
    """Delete temporary files of a target whose processes have ended without doing so."""
    start = _start(target)
    for left in target.parent.glob(f"{glob.escape(start)}*.part"):
        if not _is_alive(left.name.removeprefix(start).partition("-")[0]):
            left.unlink(missing_ok=True)


def publish(temporary: Path, target: Path, *, overwrite: bool, durable: bool = True) -> None:
    """Give a file that is complete its own name.

    Raises
    ------
    FileExistsError
        If the target exists and `overwrite` is not set.
    OSError
        If the disk is full, or the file cannot be renamed.
    """
    if durable:
        _sync(temporary, os.O_RDWR, NO_FSYNC)
    if not overwrite and target.exists():
        raise FileExistsError(
            f"{target} was created by another program meanwhile; it stays as it is"
        )
    temporary.replace(target)
    if durable and os.name == "posix":  # so that the new name, too, survives a power cut
        with contextlib.suppress(OSError):  # many file systems cannot, and the file is whole
            _sync(target.parent, os.O_RDONLY)


def cannot_write(target: Path, error: OSError) -> OSError:
    """Return the error that says which file cannot be written, and what is there instead."""
    kept = "the earlier file is kept" if target.exists() else "there is no file"
    reason = error.strerror or str(error)
    return OSError(error.errno, f"{target} cannot be written ({reason}); {kept}")


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C asks the program to end; the text names it."""


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the ``with`` block as Ctrl-C does, by an exception.

    Schedulers and container engines stop programs by SIGTERM; by default, Python then ends without
    running ``finally`` and ``with`` blocks. A signal that is ignored (as nohup does) or handled
    already stays so.

    Raises
    ------
    Terminated
        When such a signal comes.
    """
    changed = []
    if threading.current_thread() is threading.main_thread():
        process = os.getpid()

        def end(number: int, frame: FrameType | None) -> NoReturn:
            if os.getpid() != process:  # a forked worker ends as it would without us
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            raise Terminated(f"ended by {signal.Signals(number).name}")

        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)
                changed.append(number)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _start(target: Path) -> str:
    """Return how names of temporary files begin on this machine, or in this container."""
    machine = platform.node()
    with contextlib.suppress(OSError):  # process ids are unique within
        machine += str(Path("/proc/self/ns/pid").stat().st_ino)
    return f".{target.name}.{zlib.crc32(machine.encode()):08x}-"


def _is_alive(process: str) -> bool:
    if os.name != "posix":  # elsewhere os.kill would end it
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, PermissionError):
        return True
    return True


def _sync(path: Path, flags: int, passed_over: tuple[int, ...] = ()) -> None:
    """Bring a file or folder onto the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in passed_over:
            raise
    finally:
        os.close(descriptor)
