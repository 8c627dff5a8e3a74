"""The numbers of the challenge's table, and their mean over sections."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from .contingency import ContingencyTable
from .rand import adapted_rand_of_table
from .voi import voi_of_table


@dataclass(frozen=True)
class Scores:
    """How well a segmentation agrees with the ground truth.

    Attributes
    ----------
    voi_split, voi_merge, voi_sum : float
        Variation of information in bits, 0 is perfect.
    adapted_rand_error : float
        0 is perfect, 1 is worst.
    rand_precision, rand_recall : float
        Low precision means merges, low recall means splits.
    cremi_score : float
        sqrt(VOI sum x adapted Rand error), 0 is perfect.
    """

    voi_split: float
    voi_merge: float
    voi_sum: float
    adapted_rand_error: float
    rand_precision: float
    rand_recall: float
    cremi_score: float

    def as_dict(self) -> dict[str, float]:
        """Return the scores by name, for tables and JSON."""
        return asdict(self)


def cremi_score(voi_split: float, voi_merge: float, adapted_rand_error: float) -> float:
    """Combine the scores into the one that ranks the challenge: sqrt((split + merge) x error).

    Parameters
    ----------
    voi_split, voi_merge : float
        Variation of information in bits.
    adapted_rand_error : float
        Adapted Rand error in [0, 1].

    Returns
    -------
    float
        The geometric mean of VOI sum and error, 0 is perfect.
    """
    return math.sqrt((voi_split + voi_merge) * adapted_rand_error)


def scores_of_table(table: ContingencyTable) -> Scores:
    """Compute all scores of one contingency table.

    Parameters
    ----------
    table : ContingencyTable
        Without the labels to ignore.

    Returns
    -------
    Scores
        Of the voxels in the table.

    Raises
    ------
    ZeroDivisionError
        If the table is empty.
    """
    split, merge = voi_of_table(table)
    error, precision, recall = adapted_rand_of_table(table)
    return Scores(
        voi_split=split,
        voi_merge=merge,
        voi_sum=split + merge,
        adapted_rand_error=error,
        rand_precision=precision,
        rand_recall=recall,
        cremi_score=cremi_score(split, merge, error),
    )


def mean_of_sections(sections: Sequence[Scores | None]) -> Scores:
    """Average scores of single sections.

    Every section counts the same. These are not the scores of the volume: an object that changes
    its label from one section to the next costs nothing here.

    Parameters
    ----------
    sections : sequence of Scores or None
        As `NeuronIds.section_scores` gives them; sections without a voxel to evaluate are None
        and left out.

    Returns
    -------
    Scores
        The mean of every number, the CREMI score included.

    Raises
    ------
    ValueError
        If no section has scores.
    """
    scored = [section for section in sections if section is not None]
    if not scored:
        raise ValueError("no section has a voxel to evaluate")
    means = (
        math.fsum(getattr(section, field.name) for section in scored) / len(scored)
        for field in fields(Scores)
    )
    return Scores(*means)
