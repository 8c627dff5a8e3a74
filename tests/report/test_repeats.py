import json

import pytest

from report.repeats import load_repeats, repeat_rows


def write(folder, method, seed, score, **settings):
    run = {
        "data": "isbi2012",
        "method": method,
        "seed": seed,
        "steps": 10,
        "environment": {"processor": folder.name},
        "scores": {"agglomeration": {"mean": {"cremi_score": score}}},
        **settings,
    }
    folder.mkdir(exist_ok=True)
    (folder / f"isbi2012_{method}_{seed}.json").write_text(json.dumps(run))


@pytest.fixture
def results(tmp_path):
    """Two runs that were made again, one that was not, and one that is gone."""
    for method, seed, score in (("unet-both", 0, 0.2), ("unet-both", 1, 0.4)):
        write(tmp_path / "runs", method, seed, score)
    write(tmp_path / "runs", "unet-cross-entropy", 0, 0.1)
    write(tmp_path / "repeats", "unet-both", 0, 0.3)
    write(tmp_path / "repeats", "unet-both", 1, 0.1)
    write(tmp_path / "repeats", "unet-malis", 0, 9.0)
    return tmp_path


def test_both_trainings_are_compared_by_hand(results):
    (row,) = repeat_rows(results)
    assert (row["key"], row["pairs"]) == ("isbi2012", 2)
    assert row["processors"] == [["repeats"], ["runs"]]
    assert row["difference"] == pytest.approx((0.1 + 0.3) / 2)
    assert list(row["methods"]) == ["unet-both"]
    both = row["methods"]["unet-both"]
    assert both["earlier"]["mean"] == pytest.approx(0.2)
    assert both["now"]["mean"] == pytest.approx(0.3)
    assert both["all"]["mean"] == pytest.approx(0.25)
    assert (both["now"]["n"], both["all"]["n"]) == (2, 4)


def test_another_configuration_is_no_repetition(results):
    write(results / "repeats", "unet-both", 1, 0.1, steps=20)
    with pytest.raises(ValueError, match=r"unet-both_1\.json is no repetition, it differs in"):
        load_repeats(results)


def test_committed_repeats_are_of_runs_that_are_shown():
    assert all(earlier["scores"] != now["scores"] for earlier, now in load_repeats())


def test_without_repeats_there_is_nothing(tmp_path):
    assert repeat_rows(tmp_path) == []
