import re
from pathlib import Path

import pytest

from report.folds import fold_table
from report.gallery import picture_table
from report.readings import RIVALS
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
    plain, margin = (fold_table("fib25_volume", baseline=rival) for rival in reversed(RIVALS))
    text = " ".join(README.split())
    assert f"Cross-validated on {plain['folds']} volumes" in text
    rows = [{row["key"]: row for row in table["rows"]} for table in (plain, margin)]
    for key, words in (
        (
            "threshold_watershed",
            "{} with cross-entropy on labels as they are, {} with a margin, and {}",
        ),
        ("agglomeration", "({}); with a margin it reaches {} with cross-entropy and {} with both"),
    ):
        as_labelled, grown = (row[key] for row in rows)
        assert as_labelled["ours"] == grown["ours"]
        scores = as_labelled["theirs"], grown["theirs"], grown["ours"]
        assert words.format(*(f"{score:.3f}" for score in scores)) in text
