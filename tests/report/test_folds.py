import itertools
import json

import numpy as np
import pytest

import malis
from report import folds, gain_figures, readings
from report.configurations import ABLATIONS, DATA, FOLDS, METHODS, ablations_of, fold_of, fold_runs
from report.runs import is_open_ended
from report.scoring import LINKAGES


@pytest.fixture
def results(tmp_path):
    """Two folds of four sections: both losses are 0.1 and 0.3 better, but in one section."""
    (tmp_path / "folds").mkdir()
    baseline, method = ABLATIONS[0].baseline, ABLATIONS[0].method
    scores = {
        (baseline, 0): [0.4, 0.4, 0.4, 0.4],
        (method, 0): [0.3, 0.3, 0.3, 0.3],
        (baseline, 1): [0.5, 0.5, 0.5, 0.5],
        (method, 1): [0.1, 0.1, 0.0, 0.6],
        (baseline, 2): [0.0, 0.0, 0.0, 0.0],  # its partner has not run
    }
    for (name, fold), values in scores.items():
        one = {
            "threshold": 0.5,
            "sections": [{"cremi_score": value} for value in values],
            "mean": {
                "cremi_score": sum(values) / len(values),
                "voi_split": 2 * sum(values) / len(values),
                "voi_merge": 3 * sum(values) / len(values),
            },
        }
        run = {
            "data": "isbi2012",
            "first_section": 4 * fold,
            "seed": fold,
            "method": name,
            "losses": [{"name": "AffinityCrossEntropy" if name == baseline else "MalisLoss"}],
            "scores": dict.fromkeys(
                [p + r for p in ("", "views_") for r in ("agglomeration", *readings.READINGS)], one
            ),
        }
        (tmp_path / "folds" / f"isbi2012_{name}_{fold}.json").write_text(json.dumps(run))
    return tmp_path


def test_differences_and_their_error_by_hand(results):
    table = folds.fold_table("isbi2012", results=results)
    assert (table["folds"], table["planned"], table["sections"]) == (2, 6, 8)
    assert (table["scored"], table["unit"]) == (8, "sections")
    assert [row["key"] for row in table["rows"]] == list(folds.READINGS)
    for row in table["rows"]:
        assert row["theirs"] == pytest.approx(0.45)
        assert row["ours"] == pytest.approx(0.25)
        assert row["difference"] == pytest.approx(-0.2)
        assert row["error"] == pytest.approx(0.1)  # folds differ by -0.1 and -0.3
        assert (row["lower"], row["lower_folds"]) == (7, 2)
        assert row["voi"]["voi_split"] == pytest.approx([2 * 0.25, 2 * 0.45])
        assert row["voi"]["voi_merge"] == pytest.approx([3 * 0.25, 3 * 0.45])


def test_trainings_of_another_length_stand_beside_the_usual_ones(results):
    assert folds.length_tables(results) == [] and gain_figures.draw_lengths(results) is None
    folder = results / "lengths" / "75"
    folder.mkdir(parents=True)
    for path in (results / "folds").iterdir():
        run = json.loads(path.read_text())
        if run["method"] == "unet-cross-entropy":
            for section in run["scores"]["mean_linkage"]["sections"]:
                section["cremi_score"] += 0.3
        (folder / path.name).write_text(json.dumps(run))
    short, usual = folds.length_tables(results)
    assert (short["steps"], usual["steps"]) == (75, fold_of("isbi2012", 0).steps)
    assert usual["rows"] == folds.fold_table("isbi2012", results=results)["rows"]
    assert short["rows"][0]["difference"] == pytest.approx(-0.5)
    assert folds.missing_folds(results)[0]["runs"] == 3 * 6 - 5  # other lengths do not count
    figure = gain_figures.draw_lengths(results)
    (ax,) = (ax for ax in figure.axes if ax.axison)
    assert list(ax.get_xticks()) == [75, usual["steps"]]
    first, *_ = (bars.lines[0].get_ydata() for bars in ax.containers)
    assert list(first) == pytest.approx([0.5, 0.2])


def test_sections_have_their_numbers_in_the_volume(results):
    run = folds.load_folds("isbi2012", results)["unet-both"][1]
    assert folds.held_out_scores(run, "agglomeration") == {0: 0.1, 1: 0.1, 2: 0.0, 3: 0.6}


def test_with_one_fold_there_is_nothing_to_compare(results):
    (results / "folds" / "isbi2012_unet-both_1.json").unlink()
    assert folds.fold_table("isbi2012", results=results) is None
    assert gain_figures.draw_folds(results) is None


def test_what_is_missing_has_a_command(results):
    row, *others = folds.missing_folds(results)
    assert row["runs"] == 3 * 6 - 5
    assert [other["runs"] for other in others] == [4 * 5, 4 * 5]
    assert row["command"] == "python -m report.experiments --folds --only isbi2012"


def test_every_section_is_drawn(results):
    figure = gain_figures.draw_folds(results)
    drawn = [point for ax in figure.axes for line in ax.lines[:-1] for point in line.get_xydata()]
    assert len(drawn) == 8 * len(gain_figures.SHOWN)


def test_what_both_losses_gain_by_hand(results):
    (row,) = readings.gains(results)
    assert (row["key"], row["unit"], row["pairs"]) == ("isbi2012", "folds", 2)
    assert [cell["key"] for cell in row["cells"]][:4] == list(readings.READINGS)
    for cell in row["cells"]:
        assert cell["mean"] == pytest.approx(0.2)
        assert cell["error"] == pytest.approx(0.1)
        assert cell["ahead"] == 2


def test_the_end_of_a_list_of_thresholds_is_no_result(results):
    path = results / "folds" / "isbi2012_unet-both_1.json"
    run, kind = json.loads(path.read_text()), "threshold_watershed"
    candidates = [0.5, 0.95, 0.99]
    for threshold, tried, is_open in (
        (0.95, None, True),
        (0.95, candidates, False),
        (0.99, candidates, True),
    ):
        run["scores"][kind] |= {"threshold": threshold}
        if tried:
            run["scores"][kind]["candidates"] = {"threshold": tried}
        path.write_text(json.dumps(run))
        assert is_open_ended(run, kind) == is_open
        assert not is_open_ended(run, "single_linkage")
        (row,) = readings.gains(results)
        assert (kind in [cell["key"] for cell in row["cells"]]) != is_open
        (row,) = (
            r for r in folds.fold_table("isbi2012", results=results)["rows"] if r["key"] == kind
        )
        assert row["open_ended"] == is_open
        assert [one["command"] for one in folds.open_ended_folds(results)] == [
            "python -m report.experiments --folds --only isbi2012 --methods unet-both --seeds 1 "
            "--no-resume"
        ] * is_open
        figure = gain_figures.draw_readings(results)
        (line,) = (one for one in figure.axes[0].lines if one.get_marker() == "o")
        assert len(line.get_xdata()) == 4 - is_open
        assert line.get_xdata()[-1] == pytest.approx(3)


def test_where_labels_touch_malis_is_added_with_and_without_a_margin(results):
    scores = {one: (0.5, 0.3) if one.title == "with a margin" else (0.5, 0.4) for one in ABLATIONS}
    for ablation, pair in scores.items():
        for fold, (method, score) in itertools.product(
            (0, 1), zip((ablation.baseline, ablation.method), pair, strict=True)
        ):
            run = json.loads((results / "folds" / f"isbi2012_unet-both_{fold}.json").read_text())
            for part in run["scores"].values():
                part["mean"] = part["mean"] | {"cremi_score": score}
            run["data"] = "fib25_volume"
            (results / "folds" / f"fib25_volume_{method}_{fold}.json").write_text(json.dumps(run))
    _, grown, plain = readings.gains(results)
    assert grown["key"] == plain["key"] == "fib25_volume"
    assert grown["touching"] and grown["labels"] == "with a margin"
    assert plain["labels"] == "labels as they are"
    assert {round(cell["mean"], 6) for cell in grown["cells"]} == {0.2}
    assert {round(cell["mean"], 6) for cell in plain["cells"]} == {0.1}
    figure = gain_figures.draw_readings(results)
    flat, _, solid, _ = (ax.get_legend_handles_labels()[1] for ax in figure.axes)
    assert flat == ["ISBI 2012, 2 folds"]
    assert solid == ["FIB-25, volume, 2 folds", gain_figures.HOLLOW]


def test_an_ablation_changes_nothing_but_malis():
    for data in DATA:
        for ablation in ablations_of(data):
            theirs, ours = METHODS[ablation.baseline], METHODS[ablation.method]
            (plain,) = (stage.loss(DATA[data]) for stage in theirs.stages)
            first, *second = (stage.loss(DATA[data]) for stage in ours.stages)
            assert type(plain) is malis.AffinityCrossEntropy
            assert type(first if second else first.losses[1]) is malis.AffinityCrossEntropy
            for part in ("network", "peak_learning_rate", "boundary"):
                assert getattr(theirs, part) == getattr(ours, part)
            assert sum(stage.share for stage in theirs.stages + ours.stages) == 2


def test_a_baseline_of_two_pairs_is_run_once():
    for data in FOLDS:
        planned = fold_runs([data])
        assert len(planned) == len(set(planned))
    assert [m for _, m, _ in fold_runs(["isbi2012"], folds=[0])] == [
        "unet-cross-entropy",
        "unet-both",
        "unet-ce-then-malis",
    ]


def test_without_folds_seeds_are_paired(results):
    (results / "folds").rename(results / "runs")
    (row,) = readings.gains(results)
    assert (row["unit"], row["pairs"]) == ("seeds", 2)
    assert row["cells"][0]["mean"] == pytest.approx(0.2)
    assert gain_figures.draw_readings(results) is not None


def test_the_linkage_of_a_cross_validation_is_the_best_on_its_validation_sections():
    for data in FOLDS:
        scores = [
            {name: run["scores"][name]["validation_cremi"] for name in LINKAGES}
            for by_fold in folds.load_folds(data).values()
            for run in by_fold.values()
        ]
        if scores:
            means = {name: np.mean([one[name] for one in scores]) for name in LINKAGES}
            assert means[fold_of(data, 0).linkage] == pytest.approx(min(means.values()), abs=0.001)


def test_a_volume_is_one_score_a_fold():
    tables = [table for table in folds.fold_tables() if table["key"] == "fib25_volume"]
    assert [table["labels"] for table in tables] == [one.title for one in ABLATIONS]
    for table in tables:
        assert (table["scored"], table["unit"], table["linkage"]) == (5, "slabs", "75 % quantile")
        for row in table["rows"]:
            assert row["lower"] == row["lower_folds"]
