"""Find a volume by its name, wherever it lies."""

import os
from pathlib import Path

from data.download import TEST, TRAINING, file_name
from data.synthetic import sample_path

FOLDER = Path(__file__).resolve().parent


def find_volume(name_or_path: str | Path) -> Path:
    """Find the file of a volume.

    Parameters
    ----------
    name_or_path : str or Path
        A path; or the name of a file in the folder that the environment variable MALIS_DATA_DIR
        names, or in `data`; or a CREMI sample ("A", "B+"); or "synthetic", which is made at
        the first call if MALIS_DATA_DIR holds none.

    Returns
    -------
    Path
        A file that exists.

    Raises
    ------
    FileNotFoundError
        If there is none; the message lists where it was looked for, and how to get it.
    """
    name = str(name_or_path)
    folders = [Path(os.environ["MALIS_DATA_DIR"])] if os.environ.get("MALIS_DATA_DIR") else []
    if name == "synthetic":
        files = [folder / "synthetic.hdf" for folder in folders]
        return next(filter(Path.is_file, files), None) or sample_path()
    if name in TRAINING + TEST:
        wanted = [Path(file_name(name)), Path(file_name(name, padded=True))]
    else:
        wanted = [Path(name).expanduser()]
    places = wanted + [
        folder / file for folder in [*folders, FOLDER] for file in wanted if not file.is_absolute()
    ]
    for place in places:
        if place.is_file():
            return place
    looked = "\n".join(f"  {place.absolute()}" for place in places)
    raise FileNotFoundError(f"no volume {name!r}; looked for\n{looked}\n{_advice(name)}")


def _advice(name: str) -> str:
    samples = [s for s in TRAINING + TEST if Path(name).name in (s, file_name(s))]
    padded = [s for s in TRAINING + TEST if Path(name).name == file_name(s, padded=True)]
    if samples:
        return f"python -m data.download {samples[0]} fetches it."
    if padded:
        return f"python -m data.download {padded[0]} --padded fetches it."
    return (
        "Give a path, or set MALIS_DATA_DIR to the folder it lies in; "
        '"synthetic" needs no download, data/README.md lists the other volumes.'
    )
