"""Fetch public volumes: python -m data.download A B C snemi3d [--padded] [--directory DIR].

A, B, C, A+, B+ and C+ are the samples of CREMI. ``snemi3d`` is the archive of the SNEMI3D
challenge; its TIFF stacks become CREMI files: snemi3d_ac4.hdf with labels, snemi3d_ac3.hdf without,
because the archive has no labels of the test volume.

A file gets its final name only when it is complete, opens as HDF5, has the contents of a CREMI
sample, and has the checksum recorded for it, if there is one. CREMI publishes no checksums; the
SHA-256 of what was fetched is therefore written beside it (NAME.sha256), and a later download has
to agree with it. An interrupted transfer leaves NAME.part, and the same command resumes it. Files
that exist are never touched.
"""

import argparse
import contextlib
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import pooch
import requests
from tqdm import tqdm

from cremi_eval import CremiFile, Volume
from cremi_eval.atomic import Terminated, atomic_write, signals_raise
from data.convert import read_stack

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None

BASE_URL = "https://cremi.org/static/data"
TRAINING, TEST = ("A", "B", "C"), ("A+", "B+", "C+")
SNEMI3D_URL = "https://zenodo.org/records/7142003/files"
SNEMI3D_MD5 = "3d25a7025f66698f33c7850ace885939"  # of snemi.zip, from the record
SNEMI3D_VOXEL = (30.0, 6.0, 6.0)
SNEMI3D_FILES = {  # the stacks of the archive that become a file: raw, labels
    "snemi3d_ac4.hdf": ("train-input.tif", "train-labels.tif"),
    "snemi3d_ac3.hdf": ("test-input.tif", None),
}
FOLDER = Path(__file__).resolve().parent
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 18


class DownloadError(OSError):
    """A file could not be fetched; the message says why and what to do."""


def file_name(sample: str, *, padded: bool = False) -> str:
    """Return the name of a CREMI sample's file.

    Parameters
    ----------
    sample : {"A", "B", "C", "A+", "B+", "C+"}
        Training samples, and test samples (+), which hold raw data only.
    padded : bool
        The version with more raw data around the labelled volume.

    Returns
    -------
    str
        For instance "sample_A_20160501.hdf".

    Raises
    ------
    ValueError
        If there is no such sample.
    """
    if sample not in TRAINING + TEST:
        raise ValueError(f"sample must be one of {', '.join(TRAINING + TEST)}, got {sample!r}")
    date = "20160501" if sample in TRAINING else "20160601"
    return f"sample_{sample}{'_padded' if padded else ''}_{date}.hdf"


def fetch(
    sample: str,
    folder: str | Path = FOLDER,
    *,
    padded: bool = False,
    base_url: str = BASE_URL,
) -> Path:
    """Fetch a CREMI sample, unless it is there.

    Parameters
    ----------
    sample : {"A", "B", "C", "A+", "B+", "C+"}
        Which one.
    folder : str or Path
        Where to put it; made if need be.
    padded : bool
        The version with more raw data around the labelled volume.
    base_url : str
        The server's folder, or that of a mirror.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DownloadError
        If the server cannot be reached or lacks the file, the transfer broke off, there is no
        room, what came is not the sample, or a file of that name is none.
    """
    path = Path(folder) / file_name(sample, padded=padded)
    needed = ["volumes/raw"] + ["volumes/labels/neuron_ids"] * (sample in TRAINING)
    if path.exists():
        problem = _problem(path, needed)
        if problem:
            raise DownloadError(f"{path} exists already but {problem}; move it away and try again")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(
            f"{base_url.rstrip('/')}/{path.name}",
            known_hash=_recorded(path),
            fname=path.name,
            path=path.parent,
            downloader=_Resuming(path.with_name(f"{path.name}.part"), needed),
        )
        with atomic_write(_checksum_file(path)) as temporary:
            temporary.write_text(f"{pooch.file_hash(str(path))}  {path.name}\n")
    except DownloadError:
        raise
    except ValueError as error:  # pooch: the checksum differs
        raise DownloadError(
            f"{path.name} does not have the checksum in {_checksum_file(path)}: {error}"
        ) from error
    except OSError as error:
        raise DownloadError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    return path


def fetch_snemi3d(folder: str | Path = FOLDER, *, base_url: str = SNEMI3D_URL) -> list[Path]:
    """Fetch the archive of SNEMI3D and bring its stacks into CREMI layout, unless they are there.

    Parameters
    ----------
    folder : str or Path
        Where to put the files and the archive, which is kept; made if need be.
    base_url : str
        The server's folder, or that of a mirror.

    Returns
    -------
    list of Path
        snemi3d_ac4.hdf with raw data and labels, snemi3d_ac3.hdf with raw data only.

    Raises
    ------
    DownloadError
        As `fetch`, and if the archive is not the published one or lacks a stack.
    """
    folder = Path(folder)
    missing = {
        name: stacks for name, stacks in SNEMI3D_FILES.items() if not (folder / name).exists()
    }
    if missing:
        archive = folder / "snemi.zip"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pooch.retrieve(
                f"{base_url.rstrip('/')}/{archive.name}",
                known_hash=f"md5:{SNEMI3D_MD5}",
                fname=archive.name,
                path=folder,
                downloader=_Resuming(archive.with_name(f"{archive.name}.part"), None),
            )
            with zipfile.ZipFile(archive) as stacks:
                for name, parts in missing.items():
                    _unpack(stacks, *parts, folder / name)
        except DownloadError:
            raise
        except ValueError as error:  # pooch: the checksum differs
            raise DownloadError(f"{archive} is not the published archive: {error}") from error
        except OSError as error:
            reason = error.strerror or error
            raise DownloadError(f"cannot write to {folder}: {reason}") from error
    return [folder / name for name in SNEMI3D_FILES]


def _unpack(archive: zipfile.ZipFile, raw: str, labels: str | None, output: Path) -> None:
    """Write stacks of an archive, in whatever folder they are, to a CREMI file."""
    places = {Path(name).name: name for name in archive.namelist()}
    lacking = [name for name in (raw, labels) if name and name not in places]
    if lacking:
        raise DownloadError(f"{archive.filename} has no {' and no '.join(lacking)}")
    with tempfile.TemporaryDirectory() as folder, CremiFile(output, "w") as file:
        comment = "SNEMI3D challenge, Kasthuri et al., Cell 2015; CC BY 4.0"
        stack = read_stack(archive.extract(places[raw], folder))
        file.write_raw(Volume(stack, SNEMI3D_VOXEL, comment=comment))
        if labels:
            stack = read_stack(archive.extract(places[labels], folder))
            file.write_neuron_ids(Volume(stack, SNEMI3D_VOXEL, comment=comment))


class _Resuming:
    """A downloader for pooch that resumes a transfer that broke off."""

    def __init__(self, part: Path, needed: list[str] | None) -> None:
        self.part = part
        self.needed = needed

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        with _alone(self.part):
            self._fetch(url)
            self.part.replace(output_file)

    def _fetch(self, url: str) -> None:
        name = url.rsplit("/", 1)[-1]
        try:
            _transfer(url, self.part)
        except requests.HTTPError as error:
            status = error.response.status_code
            reason = "there is no such file (404)" if status == 404 else f"HTTP status {status}"
            raise DownloadError(f"{url}: {reason}") from error
        except requests.Timeout as error:
            raise DownloadError(f"{url}: no answer for {TIMEOUT} s, try again later") from error
        except requests.ConnectionError as error:
            if self.part.exists() and self.part.stat().st_size:
                raise DownloadError(f"{name}: the connection broke off; {_AGAIN}") from error
            raise DownloadError(f"{url}: cannot reach the server (offline?)") from error
        except requests.RequestException as error:
            raise DownloadError(f"{name}: the transfer broke off ({error}); {_AGAIN}") from error
        problem = _problem(self.part, self.needed)
        if problem:
            self.part.unlink()
            raise DownloadError(f"{url}: what the server sent {problem}")


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keep others from fetching the same file at the same time."""
    try:
        if not fcntl:  # on Windows, where no file that is open can be renamed either
            yield
            return
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DownloadError(f"{part} is being written by another download") from None
            except OSError:  # a file system without locks
                pass
            yield
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()


_AGAIN = "run the same command again to go on from there"


def _transfer(url: str, part: Path) -> None:
    """Fetch the bytes that a partial file lacks."""
    done = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing after what is there: complete, or another file
            if response.headers.get("Content-Range") == f"bytes */{done}":
                return
            part.unlink()
            _transfer(url, part)
            return
        response.raise_for_status()
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if response.status_code != 206 or not resumed:
            done = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with (
            part.open("ab" if done else "wb") as file,
            tqdm(
                total=total, initial=done, unit="B", unit_scale=True, desc=part.stem, disable=None
            ) as bar,
        ):
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise requests.RequestException(f"{part.stat().st_size} of {total} bytes came")


def _problem(path: Path, needed: list[str] | None) -> str | None:
    """Say why a file is not the sample, or, where no datasets are needed, no archive; or None."""
    if needed is None:
        return None if zipfile.is_zipfile(path) else "is not a zip archive"
    try:
        with h5py.File(path, "r", locking=False) as file:  # it is locked already, by `_alone`
            missing = [name for name in needed if not isinstance(file.get(name), h5py.Dataset)]
    except OSError as error:
        kind = "is a truncated HDF5 file" if "truncated" in str(error) else "is not an HDF5 file"
        return kind
    return f"has no dataset {' and no dataset '.join(missing)}" if missing else None


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    """Return the checksum recorded beside a file."""
    record = _checksum_file(path)
    words = record.read_text().split() if record.exists() else []
    return f"sha256:{words[0]}" if words else None


def main(arguments: list[str] | None = None) -> int:
    """Fetch the samples named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data.download", description="Fetch public volumes: CREMI and SNEMI3D."
    )
    parser.add_argument("samples", nargs="+", choices=(*TRAINING, *TEST, "snemi3d"),
                        metavar="SAMPLE", help=" ".join((*TRAINING, *TEST, "snemi3d")))  # fmt: skip
    parser.add_argument("--padded", action="store_true", help="with more raw data around")
    parser.add_argument("--directory", type=Path, default=FOLDER, help="default: data")
    parser.add_argument("--url", help="folder of a mirror, in the place of the server's")
    options = parser.parse_args(arguments)
    pooch.get_logger().setLevel("ERROR")  # it would print a hint on hashes for every file
    failed = False
    for sample in options.samples:
        names = (
            list(SNEMI3D_FILES)
            if sample == "snemi3d"
            else [file_name(sample, padded=options.padded)]
        )
        there = {name for name in names if (options.directory / name).exists()}
        mirror = {"base_url": options.url} if options.url else {}
        try:
            with signals_raise():
                if sample == "snemi3d":
                    paths = fetch_snemi3d(options.directory, **mirror)
                else:
                    padded = options.padded
                    paths = [fetch(sample, options.directory, padded=padded, **mirror)]
        except DownloadError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        except Terminated as signal:
            print(f"\n{signal}; {_AGAIN}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"\ninterrupted; {_AGAIN}", file=sys.stderr)
            return 130
        for path in paths:
            checksum = (_recorded(path) or "").replace("sha256:", "  sha256 ")
            here = " is there already, not downloaded again" if path.name in there else checksum
            print(f"{path}{here}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
