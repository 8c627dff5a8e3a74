import numpy as np
import pytest

from report import figures
from report.configurations import (
    ABLATIONS,
    APART,
    DATA,
    FOLDS,
    METHODS,
    ablations_of,
    fold_of,
    fold_runs,
    run_name,
)
from report.record import add_rows, read_table
from report.scores import LINKAGES
from report.tables import (
    MAIN,
    READINGS,
    comparisons,
    headline,
    load_scores,
    quality_table,
    repeated,
    seed_table,
    speed_facts,
)

BOTH, ALONE = APART[0].method, APART[0].baseline


def write(folder, study, method, seed, values, *, data="isbi2012", steps=1500, valid=0.5, **more):
    """Put a run into the tables; all its readings have the same scores."""
    name = run_name(study, data, method, steps, seed)
    columns = {"study": study, "data": data, "method": method, "steps": steps, "seed": seed}
    title = METHODS[method].title.split(", ", 1)
    row = {"run": name, **columns, "network": title[0], "loss": title[1], "settings": {}}
    scores = []
    for reading in (p + r for p in ("", "views_") for r in READINGS):
        common = {"run": name, "reading": reading, "threshold": 0.5, "open_ended": False} | more
        scores.append({**common, "part": "validation", "cremi_score": valid})
        scores += [
            {**common, "part": "test", "section": section, "cremi_score": value}
            | {"voi_split": 2 * value, "voi_merge": 3 * value, "adapted_rand_error": value / 2}
            for section, value in enumerate(values)
        ]
    add_rows({"runs.csv": [row], "scores.csv.gz": scores, "curves.csv.gz": []}, folder)


@pytest.fixture
def results(tmp_path):
    """Two folds of four sections: both losses are 0.1 and 0.3 better, but in one section."""
    write(tmp_path, "folds", ALONE, 0, [0.4, 0.4, 0.4, 0.4])
    write(tmp_path, "folds", BOTH, 0, [0.3, 0.3, 0.3, 0.3])
    write(tmp_path, "folds", ALONE, 1, [0.5, 0.5, 0.5, 0.5])
    write(tmp_path, "folds", BOTH, 1, [0.1, 0.1, 0.0, 0.6])
    write(tmp_path, "folds", ALONE, 2, [0.0, 0.0, 0.0, 0.0])  # its partner has not run
    return tmp_path


def test_differences_and_their_error_by_hand(results):
    (table,) = comparisons(load_scores(results))
    assert (table["pairs"], table["pieces"], table["unit"]) == (2, 8, "sections")
    assert table["linkage"] == "mean linkage"
    assert table["rows"][0]["key"] == MAIN
    assert len(table["rows"]) == 4 and len(table["all_rows"]) == 2 * len(READINGS)
    for row in table["rows"]:
        assert row["theirs"] == pytest.approx(0.45)
        assert row["ours"] == pytest.approx(0.25)
        assert row["difference"] == pytest.approx(-0.2)
        assert row["error"] == pytest.approx(0.1)  # folds differ by -0.1 and -0.3
        assert (row["lower"], row["pairs"]) == (2, 2)
        assert row["voi_split_ours"] == pytest.approx(2 * 0.25)
        assert row["voi_merge_theirs"] == pytest.approx(3 * 0.45)


def test_trainings_of_another_length_stand_beside_the_usual_ones(results):
    assert comparisons(load_scores(results), lengths=True) == []
    write(results, "folds", ALONE, 0, [0.9, 0.9], steps=75)
    write(results, "folds", ALONE, 1, [0.9, 0.9], steps=75)
    write(results, "folds", BOTH, 0, [0.4, 0.4], steps=75)
    write(results, "folds", BOTH, 1, [0.4, 0.4], steps=75)
    short, usual = comparisons(load_scores(results), lengths=True)
    assert (short["steps"], usual["steps"]) == (75, 1500)
    assert short["rows"][0]["difference"] == pytest.approx(-0.5)
    assert usual["rows"] == comparisons(load_scores(results))[0]["rows"]
    (ax,) = figures.draw_lengths(results).axes
    assert list(ax.get_xticks()) == [75, 1500]
    drawn = ax.lines[0].get_ydata()  # cross-entropy from one view
    assert list(drawn) == pytest.approx([0.9, 0.45])


def test_with_one_fold_there_is_nothing_to_compare(tmp_path):
    write(tmp_path, "folds", ALONE, 0, [0.4])
    write(tmp_path, "folds", BOTH, 0, [0.3])
    assert comparisons(load_scores(tmp_path)) == []


def test_seeds_of_snemi3d_are_compared_as_folds_are(tmp_path):
    where = {"data": "snemi3d", "steps": DATA["snemi3d"].steps}
    for seed in (0, 1):
        write(tmp_path, "seeds", ALONE, seed, [0.5], **where)
        write(tmp_path, "seeds", BOTH, seed, [0.4 + seed / 10], **where)
    assert comparisons(load_scores(tmp_path)) == []
    (table,) = comparisons(load_scores(tmp_path), "seeds")
    assert (table["key"], table["unit"], table["pairs"]) == ("snemi3d", "seeds", 2)
    assert table["rows"][0]["difference"] == pytest.approx(-0.05)
    (column,) = headline(load_scores(tmp_path))["columns"]
    assert column["key"] == "snemi3d"


def test_the_end_of_a_list_of_thresholds_is_marked_and_not_drawn(results):
    write(results, "folds", BOTH, 1, [0.1, 0.1, 0.0, 0.6], open_ended=True)
    (table,) = comparisons(load_scores(results))
    assert all(row["open_ended"] for row in table["rows"])
    figure = figures.draw_gain(results)
    assert not any(len(bars.lines[0].get_xdata()) for ax in figure.axes for bars in ax.containers)


def test_every_reading_is_drawn_in_percent_of_cross_entropy(results):
    for ax in figures.draw_gain(results).axes:
        drawn = [value for bars in ax.containers for value in bars.lines[0].get_xdata()]
        assert drawn == pytest.approx([100 * -0.2 / 0.45] * 4)


def test_the_baseline_is_the_best_on_validation_not_on_test(tmp_path, monkeypatch):
    monkeypatch.setattr("report.tables.HEADLINE_DATA", ("fib25_volume",))
    margin, plain = (one.baseline for one in ABLATIONS)
    steps = fold_of("fib25_volume", 0).steps
    for fold in (0, 1):
        settings = {"data": "fib25_volume", "steps": steps}
        write(tmp_path, "folds", margin, fold, [0.1], valid=0.6, **settings)
        write(tmp_path, "folds", plain, fold, [0.9 + fold / 10], valid=0.5, **settings)
    found = headline(load_scores(tmp_path))
    (cell,) = found["rows"][0]["cells"]
    assert cell["method"] == METHODS[plain].title
    assert cell["mean"] == pytest.approx(0.95) and cell["n"] == 2
    assert cell["spread"] == pytest.approx(0.005**0.5)
    assert found["rows"][2]["cells"] == [None]


def test_seeds_by_hand(tmp_path):
    for seed, score in ((0, 0.2), (1, 0.4)):
        write(tmp_path, "seeds", BOTH, seed, [score - 0.1, score + 0.1], data="synthetic")
    (row,) = seed_table(load_scores(tmp_path), "synthetic")
    assert (row["method"], row["seeds"]) == (BOTH, 2)
    expected = {"mean": pytest.approx(0.3), "spread": pytest.approx(0.02**0.5), "n": 2}
    assert row["readings"][MAIN] == row["readings"]["quantile75"] == expected
    assert row["adapted_rand_error"]["mean"] == pytest.approx(0.15)


def test_both_trainings_of_a_run_are_compared_by_hand(tmp_path):
    for seed, first, second in ((0, 0.3, 0.2), (1, 0.1, 0.4)):
        write(tmp_path, "repeats", BOTH, seed, [first])
        write(tmp_path, "seeds", BOTH, seed, [second])
    write(tmp_path, "repeats", ALONE, 0, [9.0])  # is not there now
    found = repeated(load_scores(tmp_path), "isbi2012")
    assert found["pairs"] == 2
    assert found["difference"] == pytest.approx((0.1 + 0.3) / 2)
    assert found["methods"][BOTH]["first"]["mean"] == pytest.approx(0.2)
    assert repeated(load_scores(tmp_path), "synthetic")["pairs"] == 0


def test_what_the_benchmarks_say_by_hand():
    size = {"shape": [1, 4, 4], "edges": 24, "pair_counts_s": 2.0, "pair_counts_parallel_s": 1.0}
    loss = {
        "sizes": [size | {"two_bpt_canonical_s": 4.0}],
        "labels": [{"shape": [4, 4], "labels": n, "constrained_s": n / 10} for n in (5, 50)],
        "memory": [{"shape": [4, 4], "kind": "masked", "bytes_per_edge": 80}],
        "environment": {},
    }
    facts = speed_facts(loss)
    assert (facts["largest"]["times_as_fast"], facts["largest"]["voxels"]) == (4.0, "4 × 4")
    assert facts["constrained_range"] == [0.5, 5.0]
    rows = [
        {"data": "isbi2012", "methods": {"mean": {"test": {"cremi_score": one}}}}
        for one in (0.1, 0.3)
    ]
    ratio = {"voi_sum": 1.0, "cremi_score": 1.0, "cremi_score_standard_error": 0.0}
    other = {"voi_sum": 1.0, "cremi_score": 1.1, "cremi_score_standard_error": 0.05}
    ratios = {"isbi2012": {"mean": ratio, "quantile75": other}}
    table = quality_table({"rows": rows, "times_waterz": ratios, "waterz": "1"})
    assert table["rows"] == [{"title": "ISBI 2012", "cells": {"mean": pytest.approx(0.2)}}]
    assert table["mean_identical"] and table["samples"] == 2
    assert table["worst_standard_errors"] == pytest.approx(2)


def test_without_results_there_is_nothing(tmp_path):
    scores = load_scores(tmp_path)
    assert comparisons(scores) == [] and seed_table(scores, "isbi2012") == []
    assert headline(scores)["columns"] == []


def test_an_ablation_changes_nothing_but_malis():
    import malis

    for data in DATA:
        for ablation in ablations_of(data):
            theirs, ours = METHODS[ablation.baseline], METHODS[ablation.method]
            (plain,) = (stage.near(DATA[data]) for stage in theirs.stages)
            first, *second = (stage.near(DATA[data]) for stage in ours.stages)
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


def validated(study, data, linkages):
    runs = read_table("runs.csv")
    runs = runs[(runs["study"] == study) & (runs["data"] == data) & (runs["network"] == "U-Net")]
    if study == "folds":
        runs = runs[runs["steps"] == fold_of(data, 0).steps]
    scores = read_table("scores.csv.gz")
    scores = scores[(scores["part"] == "validation") & scores["run"].isin(runs["run"])]
    return scores.groupby("reading")["cremi_score"].mean().reindex(linkages).dropna()


def test_the_linkage_of_a_volume_is_the_best_on_its_validation_sections():
    for data, source in DATA.items():
        means = validated("seeds", data, list(LINKAGES))
        assert means.empty or means.idxmin() == source.linkage, (data, means)
    for data in FOLDS:
        means = validated("folds", data, list(LINKAGES))
        assert means[fold_of(data, 0).linkage] == pytest.approx(means.min(), abs=0.001)


def test_every_section_is_held_out_once():
    scores = load_scores()
    for data in FOLDS:
        test = scores[(scores["study"] == "folds") & (scores["data"] == data)]
        test = test[(test["part"] == "test") & (test["steps"] == fold_of(data, 0).steps)]
        for _, one in test.groupby(["method", "reading"]):
            assert one["section"].is_unique
            flat = len(DATA[data].patch) == 2
            per_fold = len(DATA[data].split.test) if flat else 1
            assert len(one) == FOLDS[data].count * per_fold
            assert np.isfinite(one["cremi_score"]).all()
