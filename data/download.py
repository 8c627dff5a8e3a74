"""Fetch the public CREMI samples: python -m data.download A B C [--padded] [--directory DIR].

A file gets its name only when it is complete, opens as HDF5, holds what a CREMI sample holds, and
has the checksum recorded for it, if there is one. CREMI publishes no checksums; the SHA-256 of what
was fetched is therefore written beside it (NAME.sha256), and a later download has to agree with it.
An interrupted transfer leaves NAME.part, and the same command goes on from there. Files that exist
are never touched.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import pooch
import requests
from tqdm import tqdm

from cremi_eval.atomic import Terminated, atomic_write, signals_raise

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None

BASE_URL = "https://cremi.org/static/data"
TRAINING, TEST = ("A", "B", "C"), ("A+", "B+", "C+")
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


class _Resuming:
    """A downloader for pooch that goes on where an earlier transfer broke off."""

    def __init__(self, part: Path, needed: list[str]) -> None:
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
        with part.open("ab") as file:
            if fcntl:
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


def _problem(path: Path, needed: list[str]) -> str | None:
    """Say why a file is not the sample, or None."""
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
        prog="python -m data.download", description="Fetch public CREMI samples."
    )
    parser.add_argument("samples", nargs="+", choices=TRAINING + TEST, metavar="SAMPLE",
                        help=" ".join(TRAINING + TEST))  # fmt: skip
    parser.add_argument("--padded", action="store_true", help="with more raw data around")
    parser.add_argument("--directory", type=Path, default=FOLDER, help="default: data")
    parser.add_argument("--url", default=BASE_URL, help="folder of the server or of a mirror")
    options = parser.parse_args(arguments)
    pooch.get_logger().setLevel("ERROR")  # it would print a hint on hashes for every file
    failed = False
    for sample in options.samples:
        there = (options.directory / file_name(sample, padded=options.padded)).exists()
        try:
            with signals_raise():
                path = fetch(sample, options.directory, padded=options.padded, base_url=options.url)
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
        if there:
            print(f"{path} is there already, not downloaded again")
        else:
            print(f"{path}  sha256 {_recorded(path).removeprefix('sha256:')}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
