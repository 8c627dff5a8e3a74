"""Build a file under a temporary name and give it its own name when it is complete."""

import os
import secrets
import weakref
from pathlib import Path

import h5py


class PendingFile:
    """An HDF5 file that appears under its name only when it is published.

    That happens at the latest when this object is collected or the interpreter ends.

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
        self._publish = weakref.finalize(
            self, _publish, self.h5file, self.temporary, target, overwrite, os.getpid()
        )

    def publish(self) -> None:
        """Close the file and rename it; a second call does nothing."""
        self._publish()

    def discard(self) -> None:
        """Close the file and delete it, unless it is published already."""
        if self._publish.detach():
            self.h5file.close()
            self.temporary.unlink(missing_ok=True)


def _publish(
    h5file: h5py.File, temporary: Path, target: Path, overwrite: bool, process: int
) -> None:
    if os.getpid() != process:  # a forked worker must not finish its parent's file
        return
    h5file.close()
    if not overwrite and target.exists():
        raise FileExistsError(
            f"{target} was created by somebody else meanwhile; what was written lies in {temporary}"
        )
    temporary.replace(target)
