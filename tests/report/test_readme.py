import re
from pathlib import Path

import numpy as np
import pytest

from report.configurations import ABLATIONS
from report.folds import fold_table, load_folds
from report.gallery import picture_table
from report.readings import gains
from report.runs import load_runs, score_of
from report.table import table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("data", ["isbi2012", "fib25", "fib25_neighbours", "synthetic"])
def test_the_tables_of_results_are_those_of_the_runs(data):
    assert table(data) in README


def test_the_pictures_are_those_of_the_gallery():
    assert picture_table() in README


def test_every_target_and_file_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_numbers_of_the_cross_validation_are_those_of_the_folds():
    table = fold_table("isbi2012")
    rows = {row["key"]: row for row in table["rows"]}
    one, views = rows["agglomeration"], rows["views_agglomeration"]
    text = " ".join(README.split())
    assert f"{one['theirs']:.3f} for cross-entropy and {one['ours']:.3f} for both over" in text
    assert f"over {table['sections']} sections in {table['folds']} folds" in text
    assert f"(difference {one['difference']:.3f} ± {one['error']:.3f};" in text
    assert f"all views {views['theirs']:.3f} and {views['ours']:.3f})" in text


def test_the_numbers_of_the_volumes_are_those_of_the_folds():
    grown, plain = (fold_table("fib25_volume", ablation) for ablation in ABLATIONS)
    text = " ".join(README.split())
    assert f"Cross-validated on {plain['folds']} slabs of one volume of FIB-25" in text
    (plain_row,), (grown_row,) = (
        [row for row in table["rows"] if row["key"] == "agglomeration"] for table in (plain, grown)
    )
    for row, words in (
        (plain_row, "{} for cross-entropy on the labels as they are and {} with MALIS"),
        (grown_row, "with a margin, {} and {}"),
    ):
        assert words.format(f"{row['theirs']:.3f}", f"{row['ours']:.3f}") in text


def test_what_it_says_of_leaks_holds():
    rows = {row["labels"]: row for row in gains() if row["key"] == "fib25_volume"}
    cells = {cell["key"]: cell for cell in rows["labels as they are"]["cells"]}
    cell = cells["views_single_linkage"]
    text = " ".join(README.split())
    assert f"ahead in {cell['ahead']} of 5 folds ({cell['mean']:.3f} ± {cell['error']:.3f})" in text

    rows = {row["key"]: row for row in fold_table("fib25_volume", ABLATIONS[1])["rows"]}
    row = rows["threshold_watershed"]
    assert not row["open_ended"]
    for words in (
        f"watershed scores {row['theirs']:.3f} for cross-entropy and {row['ours']:.3f} with MALIS",
        f"lower in {row['lower_folds']} of 5 folds",
        f"difference {row['difference']:.3f} ± {row['error']:.3f}",
    ):
        assert words in text
    found = load_folds("fib25_volume")
    plain, grown = (
        np.mean([run["scores"]["single_linkage"]["mean"]["cremi_score"] for run in by.values()])
        for by in (found["unet-cross-entropy-as-labelled"], found["unet-cross-entropy"])
    )
    assert f"by single linkage, cross-entropy falls from {plain:.3f} to {grown:.3f}" in text


def test_what_it_says_of_the_sections_holds_for_all_pairs():
    text = " ".join(README.split())
    assert "one weak place decides (3 of 3 pairs, alone and with neighbours)" in text
    assert "without a margin is then level, and ahead with the mean over all views" in text
    for data in ("fib25", "fib25_neighbours"):
        rows = {row["labels"]: row for row in gains() if row["key"] == data}
        grown, plain = (
            {cell["key"]: cell for cell in rows[ablation.title]["cells"]} for ablation in ABLATIONS
        )
        assert grown["single_linkage"]["ahead"] == 3
        assert grown["single_linkage"]["mean"] > grown["quantile75"]["mean"]
        assert plain["mean_linkage"]["mean"] < 0 and plain["quantile75"]["mean"] < 0
        found = load_runs()
        means = {
            (method, kind): np.mean(
                [score_of(run, "cremi_score", kind) for run in found[data, method].values()]
            )
            for method in ("unet-cross-entropy-as-labelled", "unet-both")
            for kind in ("agglomeration", "views_agglomeration")
        }
        apart = {
            kind: means["unet-cross-entropy-as-labelled", kind] - means["unet-both", kind]
            for kind in ("agglomeration", "views_agglomeration")
        }
        assert abs(apart["agglomeration"]) < 0.005 and apart["views_agglomeration"] < 0


def test_by_the_mean_of_a_boundary_malis_splits_more_in_volumes():
    found = load_folds("fib25_volume")
    for ablation in ABLATIONS[1:]:
        means = [
            {
                part: np.mean(
                    [run["scores"]["mean_linkage"]["mean"][part] for run in found[method].values()]
                )
                for part in ("cremi_score", "voi_split")
            }
            for method in (ablation.baseline, ablation.method)
        ]
        assert means[0]["cremi_score"] < means[1]["cremi_score"]
        assert means[0]["voi_split"] < means[1]["voi_split"]
