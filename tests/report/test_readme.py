import re
from pathlib import Path

import numpy as np
import pytest

from report.configurations import ABLATIONS, APART
from report.folds import fold_table, load_folds
from report.pages import PAGES, PLACE, TABLES, filled, update
from report.readings import gains
from report.repeats import load_repeats, repeat_rows
from report.runs import load_runs, score_of, statistics

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "report" / "README.md").read_text()
WHEN = ("earlier", "now")


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_a_page_are_those_of_the_results(page):
    text = (ROOT / page).read_text()
    assert PLACE.search(text)
    assert filled(text) == text


def test_all_tables_are_shown_somewhere():
    assert {place[2] for place in PLACE.finditer(README + RESULTS)} == set(TABLES)


def test_an_old_table_is_written_anew_and_nothing_else(tmp_path):
    (tmp_path / "report").mkdir()
    for page in PAGES:
        (tmp_path / page).write_text((ROOT / page).read_text())
    assert update(tmp_path) == []
    old = PLACE.sub(lambda place: f"{place[1]}| old |{place[3]}", README)
    (tmp_path / "README.md").write_text(old)
    assert update(tmp_path) == [tmp_path / "README.md"]
    assert (tmp_path / "README.md").read_text() == README
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "report"]


def test_a_table_that_does_not_exist_is_refused():
    with pytest.raises(KeyError, match="nothing"):
        filled("<!-- table: nothing -->\n\n<!-- end -->")


@pytest.mark.parametrize("page", PAGES)
def test_every_target_and_file_it_names_exists(page):
    text = (ROOT / page).read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link


def test_the_readme_gives_the_cross_validation_as_it_is():
    (row,) = (
        row for row in fold_table("isbi2012", APART[0])["rows"] if row["key"] == "agglomeration"
    )
    said = f"{row['theirs']:.3f} for cross-entropy and {row['ours']:.3f} for both on ISBI 2012"
    assert f"cross-validated, {said}" in " ".join(README.split())


def test_the_numbers_of_the_cross_validation_are_those_of_the_folds():
    start, half = (fold_table("isbi2012", ablation) for ablation in APART)
    text = " ".join(RESULTS.split())
    assert f"over {start['sections']} sections in {start['folds']} folds" in text
    rows = [{row["key"]: row for row in table["rows"]}["agglomeration"] for table in (start, half)]
    first, second = (f"{row['difference']:.3f} ± {row['error']:.3f}" for row in rows)
    assert (
        f"{rows[0]['theirs']:.3f} for cross-entropy, {rows[0]['ours']:.3f} for both losses "
        f"(difference {first}) and {rows[1]['ours']:.3f} for cross-entropy, then MALIS ({second})"
    ) in text
    assert all(abs(row["difference"]) < 1.5 * row["error"] for row in rows)  # "level"
    views = [
        {row["key"]: row for row in table["rows"]}["views_agglomeration"] for table in (start, half)
    ]
    assert (
        f"all views {views[0]['theirs']:.3f}, {views[0]['ours']:.3f} and {views[1]['ours']:.3f}"
    ) in text
    assert all(abs(row["difference"]) < 1.5 * row["error"] for row in views)


def test_the_numbers_of_repeated_trainings_are_theirs():
    (row,) = (row for row in repeat_rows() if row["key"] == "isbi2012")
    alone, both = (row["methods"][f"unet-{name}"] for name in ("cross-entropy", "both"))
    text = " ".join(RESULTS.split())
    told = [
        " and ".join(f"{one[when]['mean']:.3f} ± {one[when]['spread']:.3f}" for when in WHEN)
        for one in (alone, both)
    ]
    assert f"cross-entropy scored {told[0]} on sections 20-23 of ISBI 2012" in text
    assert f"both losses {told[1]}: first far ahead with every seed, then behind" in text
    first = {
        (earlier["method"], earlier["seed"]): score_of(earlier, "cremi_score")
        for earlier, _ in load_repeats()
        if earlier["data"] == "isbi2012"
    }
    for seed in range(3):
        assert first["unet-both", seed] < first["unet-cross-entropy", seed]
    assert both["now"]["mean"] > alone["now"]["mean"]


def test_the_numbers_of_the_volumes_are_those_of_the_folds():
    grown, plain = (fold_table("fib25_volume", ablation) for ablation in ABLATIONS)
    text = " ".join(RESULTS.split())
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
    text = " ".join(RESULTS.split())
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
    text = " ".join(RESULTS.split())
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


def test_threshold_and_watershed_of_sections_is_as_it_says():
    found = load_runs()
    scores = [
        statistics(
            [
                score_of(run, "cremi_score", "threshold_watershed")
                for run in found["fib25_neighbours", f"unet-{name}"].values()
            ]
        )
        for name in ("both", "cross-entropy", "cross-entropy-as-labelled")
    ]
    both, grown, plain = (f"{one['mean']:.3f} ± {one['spread']:.3f}" for one in scores)
    said = (
        f"both losses are ahead of either ({both} against {grown} with and {plain} without a margin"
    )
    assert said in " ".join(RESULTS.split())


def test_malis_from_scratch_is_behind_where_it_says_so():
    assert "behind by threshold and watershed on ISBI 2012" in " ".join(RESULTS.split())
    found = load_runs()
    for data, kind in (
        ("isbi2012", "threshold_watershed"),
        ("fib25", "agglomeration"),
        ("fib25_neighbours", "agglomeration"),
    ):
        scratch, both = (
            np.mean([score_of(run, "cremi_score", kind) for run in found[data, method].values()])
            for method in ("unet-malis", "unet-both")
        )
        assert scratch > 1.05 * both


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
