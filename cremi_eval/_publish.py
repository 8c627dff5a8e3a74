"""Build a file under a temporary name and give it its own name when it is complete."""

import logging
import os
import secrets
import weakref
from pathlib import Path

import h5py

logger = logging.getLogger(__name__)


class PendingFile:
    """An HDF5 file that appears under its name only when it is published.

    That happens at the latest when this object is collected or the interpreter ends, unless it
    would replace a file: a program that ends before it has published must not have replaced a whole
    file by half of one. Then what was written is discarded.

    Parameters
    ----------
    target : Path
        Where the file shall appear.
    overwrite : bool
        Whether a file that is there already may be replaced.

    Attributes
    ----------
    h5file : h5py.File
        The open file, in the same folder as the target so that renaming is atomic.
    """

    def __init__(self, target: Path, overwrite: bool) -> None:
        self.temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        self.h5file = h5py.File(self.temporary, "x")
        self._target, self._overwrite = target, overwrite
        replaces = overwrite and target.exists()
        self._end = weakref.finalize(
            self, _end, self.h5file, self.temporary, target, replaces, os.getpid()
        )

    def publish(self) -> None:
        """Close the file and rename it; a second call does nothing."""
        if self._end.detach():
            _publish(self.h5file, self.temporary, self._target, self._overwrite)

    def discard(self) -> None:
        """Close the file and delete it, unless it is published already."""
        if self._end.detach():
            _discard(self.h5file, self.temporary)


def _end(h5file: h5py.File, temporary: Path, target: Path, replaces: bool, process: int) -> None:
    """Do what is right for a file that nobody has published or discarded."""
    if os.getpid() != process:  # a forked worker must not finish its parent's file
        return
    if replaces:
        logger.warning("%s was not closed after it was written anew: it stays as it was", target)
        _discard(h5file, temporary)
    else:
        _publish(h5file, temporary, target, overwrite=False)


def _discard(h5file: h5py.File, temporary: Path) -> None:
    h5file.close()
    temporary.unlink(missing_ok=True)


def _publish(h5file: h5py.File, temporary: Path, target: Path, overwrite: bool) -> None:
    h5file.close()
    if not overwrite and target.exists():
        raise FileExistsError(
            f"{target} was created by somebody else meanwhile; what was written lies in {temporary}"
        )
    temporary.replace(target)
