"""An HDF5 file that appears, or changes, only when it is complete."""

import errno
import logging
import os
import shutil
from pathlib import Path

import h5py

from .atomic import cannot_write, delete_leftovers, publish, temporary_beside

logger = logging.getLogger(__name__)

ROOM = 1 << 18  # bytes that the HDF5 library may need to close a file


class PendingFile:
    """An HDF5 file under a temporary name, which gets its own name when it is published.

    After a write that fails on a full disk, the HDF5 library cannot close its file any more, and
    may crash when Python ends. So room is taken from the disk before the library writes. On a full
    disk `reserve` fails, and there is always enough left to close the file.

    Parameters
    ----------
    path : Path
        Where the file shall appear.
    overwrite : bool
        Whether a file that is there already may be replaced.
    copy : bool
        Begin with a copy of the file that is there, which the result replaces.

    Attributes
    ----------
    h5file : h5py.File
        The open file, in the same folder as the target so that renaming is atomic.

    Raises
    ------
    OSError
        If the file cannot be created, or the disk is full.
    """

    def __init__(self, path: Path, overwrite: bool, copy: bool = False) -> None:
        target = path.resolve()
        self._path, self._target, self._temporary = path, target, temporary_beside(target)
        delete_leftovers(target)
        self._overwrite = overwrite or copy
        self._replaces = overwrite and not copy and target.exists()
        self._before = _state(target) if copy else None
        self._spoiled = ""
        self._pending, self._process = True, os.getpid()
        try:
            self._temporary.touch()
            if copy:
                shutil.copyfile(target, self._temporary)
                shutil.copymode(target, self._temporary)
            _take_room(self._temporary, self._temporary.stat().st_size, ROOM)
            self.h5file = h5py.File(self._temporary, "r+" if copy else "w")
            _take_room(self._temporary, self.h5file.id.get_filesize(), ROOM)
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError):
                raise cannot_write(path, error) from error
            raise

    def reserve(self, size: int) -> None:
        """Take room from the disk for what will be written next.

        Parameters
        ----------
        size : int
            Bytes, at most what the next writes add to the file.

        Raises
        ------
        OSError
            If the disk has not enough room.
        """
        end = self.h5file.id.get_filesize()
        try:
            _take_room(self._temporary, end, size + size // 64 + ROOM)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def spoil(self, error: BaseException) -> None:
        """Note an error that left a dataset half written: such a file is never published."""
        # As text: with its traceback, the error would keep alive whoever holds this object.
        self._spoiled = self._spoiled or str(error) or type(error).__name__

    def publish(self) -> None:
        """Close the file and rename it; a second call does nothing.

        Raises
        ------
        OSError
            If something could not be written, or the target was created or changed meanwhile; then
            the target stays as it was.
        """
        if not self._pending:
            return
        try:
            if self._spoiled:
                raise OSError(f"{self._path} stays as it is, as a write failed: {self._spoiled}")
            self.h5file.close()
            h5py.File(self._temporary, "r+").close()  # gives back room that was not used
            if self._before and (not self._target.exists() or _state(self._target) != self._before):
                raise FileExistsError(
                    f"{self._path} was changed by another program meanwhile; it stays as that one "
                    "left it"
                )
            publish(self._temporary, self._target, overwrite=self._overwrite)
        finally:
            self.discard()

    def discard(self) -> None:
        """Close the file and delete it, unless it is published already."""
        self._pending = False
        try:
            if hasattr(self, "h5file"):
                self.h5file.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def end(self) -> None:
        """Publish a file that nobody has closed, when it is collected or the interpreter ends.

        A file that would replace another one is discarded, as the program may have failed half-way.
        """
        if not self._pending or os.getpid() != self._process:  # a forked worker's copy
            return
        if self._replaces or self._spoiled:
            logger.warning("%s was not closed after it was written: it is discarded", self._path)
            self.discard()
        else:
            self.publish()


def _take_room(path: Path, start: int, size: int) -> None:
    """Allocate bytes of a file, or raise an OSError that says why there are none."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                return os.posix_fallocate(file.fileno(), start, size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _state(target: Path) -> tuple[int, ...]:
    """Return what changes when another program writes to a file."""
    found = target.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
