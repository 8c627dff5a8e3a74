"""The gate stands at the door of every public call, and nowhere else."""

import sys
from collections import Counter

import numpy as np
import pytest
from loss_batch import OFFSETS, batch

import malis
from malis import AffinityCrossEntropy, GrowBoundaryLoss, MalisLoss, MaximinLoss, WindowLoss
from malis._checks import check_offsets

GATES = ("check_offsets", "check_affinities", "check_labels")


def count_calls(function, *arguments):
    """Count the calls of every function within malis, by file and name."""
    calls = Counter()

    def trace(frame, event, _):
        path = frame.f_code.co_filename.replace("\\", "/")
        if event == "call" and "/malis/" in path and "/tests/" not in path:
            calls[path.rsplit("/malis/")[-1], frame.f_code.co_name] += 1

    sys.setprofile(trace)
    try:
        result = function(*arguments)
    finally:
        sys.setprofile(None)
    return calls, result


@pytest.mark.parametrize(
    ("loss", "labels_checked"),
    [
        (MalisLoss(OFFSETS), 1),
        (MalisLoss(OFFSETS, backend="parallel"), 1),
        (MaximinLoss(OFFSETS), 1),
        (MaximinLoss(OFFSETS, backend="parallel"), 1),
        (AffinityCrossEntropy(OFFSETS), 1),
        (WindowLoss(MalisLoss(OFFSETS), (3, 5)), 2),  # it changes labels: whoever does, looks first
        (GrowBoundaryLoss(WindowLoss(MalisLoss(OFFSETS), (3, 5))), 3),
    ],
    ids=lambda value: getattr(value, "_get_name", str)(),
)
def test_a_loss_checks_once(loss, labels_checked):
    calls, _ = count_calls(loss, *batch())
    checked = {name: calls["_checks.py", name] for name in GATES}
    assert checked == dict(zip(GATES, (0, 1, labels_checked), strict=True))


@pytest.mark.parametrize("backend", ["higra", "parallel"])
def test_functions_check_once(backend):
    affinities, labels = (x[0].detach().numpy() for x in batch())
    pairs = np.array([[0, 7], [3, 29]])
    calls, _ = count_calls(malis.pair_counts, affinities, labels, OFFSETS)
    assert [calls["_checks.py", name] for name in GATES] == [1, 1, 1]
    calls, _ = count_calls(malis.rand_error, affinities, labels, OFFSETS)
    assert [calls["_checks.py", name] for name in GATES] == [1, 1, 1]
    edges, options = malis.maximin_edges, {"backend": backend}
    calls, _ = count_calls(lambda: edges(affinities, OFFSETS, pairs, **options))
    assert [calls["_checks.py", name] for name in GATES] == [1, 1, 0]


def test_from_labels_to_the_gradient_in_five_chapters_and_the_gate():
    affinities, labels = batch()
    calls, value = count_calls(MalisLoss(OFFSETS, backend="higra"), affinities, labels)
    value.backward()
    chapters = {"loss.py", "pairs.py", "maximin.py", "affinity.py", "edge_loss.py"}
    assert {path for path, _ in calls} == {*chapters, "_checks.py"}


def test_offsets_of_wrong_shape_and_type_are_named():
    for offsets, error, words in (
        ([-1, 0], ValueError, r"must have shape \(C, ndim\), got shape \(2,\)"),
        (np.zeros((0, 2), int), ValueError, r"got shape \(0, 2\)"),
        ([[-1.0, 0.0]], TypeError, "must be integers, got float64"),
        ([[-1, 0], [0, 0]], ValueError, "offset 1 is zero"),
    ):
        with pytest.raises(error, match=words):
            check_offsets(offsets)
