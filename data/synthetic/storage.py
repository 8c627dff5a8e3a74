"""Synthetic samples as CREMI files."""

import logging
import re
from pathlib import Path

from cremi_eval import CremiFile, Volume
from data.synthetic.fields import Shape
from data.synthetic.sample import SyntheticSample, make_sample

logger = logging.getLogger(__name__)

DATA_FOLDER = Path(__file__).resolve().parents[1]
VERSION = 2  # raise it when the same seed gives another sample than before


def write_sample(path: str | Path, sample: SyntheticSample, *, overwrite: bool = False) -> None:
    """Write a sample as a CREMI file.

    Parameters
    ----------
    path : str or Path
        The file; it appears under this name only when it is complete.
    sample : SyntheticSample
        What to write. Seed and damaged sections go into the comment of the raw data.
    overwrite : bool
        Whether a file that exists may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is not set.
    FileNotFoundError
        If its folder does not exist.
    """
    damaged = ", ".join(f"{z} ({kind})" for z, kind in sample.damaged.items()) or "none"
    comment = f"synthetic, version {VERSION}, seed {sample.seed}; damaged sections: {damaged}"
    with CremiFile(path, "w", overwrite=overwrite) as file:
        file.write_raw(Volume(sample.raw, sample.resolution, comment=comment))
        file.write_neuron_ids(Volume(sample.neuron_ids, sample.resolution, comment=comment))
        file.write_clefts(Volume(sample.clefts, sample.resolution, comment=comment))
        file.write_annotations(sample.annotations)


def sample_path(
    name: str = "synthetic",
    *,
    folder: str | Path = DATA_FOLDER,
    shape: Shape = (24, 512, 512),
    seed: int = 0,
) -> Path:
    """Return the path of a synthetic sample, made at the first call.

    Parameters
    ----------
    name : str
        Name of the file, without its ending.
    folder : str or Path
        Where it lies; by default the folder `data`.
    shape : (int, int, int)
        Sections, height and width, if it has to be made.
    seed : int
        Seed, if it has to be made.

    Returns
    -------
    Path
        A CREMI file. One that exists is taken as it is, unless an older version of this code made
        it: then it is made anew.
    """
    path = Path(folder) / f"{name}.hdf"
    if not path.exists() or _outdated(path):
        logger.info("making %s, this takes some seconds", path)
        # Should another process make the same sample now, either file will do.
        write_sample(path, make_sample(shape, seed), overwrite=True)
    return path


def _outdated(path: Path) -> bool:
    """Tell whether a file was made by an older version of this code."""
    with CremiFile(path, "r") as file:
        comment = file.read_raw().comment if file.has_raw() else ""
    version = re.match(r"synthetic, (?:version (\d+), )?seed", comment)
    return version is not None and int(version[1] or 1) < VERSION
