import re
from pathlib import Path

import numpy as np
import pytest

from report.configurations import ABLATIONS, APART, fold_of
from report.folds import fold_table, fold_tables, length_tables
from report.gathered import collect
from report.pages import PAGES, PLACE, TABLES, filled, update
from report.readings import gains
from report.repeats import load_repeats, repeat_rows
from report.runs import load_runs, score_of

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


def row_of(data, ablation, reading="agglomeration"):
    return next(row for row in fold_table(data, ablation)["rows"] if row["key"] == reading)


def cells_of(data, ablation):
    rows = (row for row in gains() if row["key"] == data and row["labels"] == ablation.title)
    return {cell["key"]: cell for cell in next(rows)["cells"]}


def gain(cell):
    return f"{cell['mean']:.3f} ± {cell['error']:.3f}"


def test_the_readme_gives_the_cross_validations_as_they_are():
    text = " ".join(README.split())
    for data, ablation, words in (
        (
            "isbi2012",
            APART[0],
            "{} with MALIS and {} without on ISBI 2012 (24 sections in 6 folds)",
        ),
        ("fib25_neighbours", ABLATIONS[0], "{} and {} on FIB-25 with neighbours (175 in 5)"),
        ("fib25_volume", ABLATIONS[1], "{} and {} in its volume (5 slabs)"),
    ):
        row = row_of(data, ablation)
        assert words.format(f"{row['ours']:.3f}", f"{row['theirs']:.3f}") in text


def test_from_one_view_malis_neither_gains_nor_loses_much_more_than_the_error():
    for page, said in ((README, "it neither gains"), (RESULTS, "MALIS neither gains")):
        assert f"{said} nor loses much more than the error" in " ".join(page.split())
    for found in fold_tables():
        (row,) = (row for row in found["rows"] if row["key"] == "agglomeration")
        assert abs(row["difference"]) < 1.5 * row["error"], (found["title"], found["labels"])


def test_what_is_said_of_all_views_holds():
    cells = cells_of("fib25_neighbours", ABLATIONS[0])
    single, whole = cells["views_single_linkage"], cells["views_mean_linkage"]
    assert single["ahead"] == whole["ahead"] == 5
    text = " ".join(RESULTS.split())
    assert f"by single linkage in 5 of 5 folds ({gain(single)})" in text
    assert f"by the mean of a boundary in 5 of 5 ({gain(whole)})" in text
    cell = cells["views_threshold_watershed"]
    assert f"threshold and watershed in {cell['ahead']} of 5 ({gain(cell)})" in text
    assert f"by the quantile not ({gain(cells['views_quantile75'])})" in text


def test_the_comparisons_are_counted_right():
    cells = [cell for row in gains() for cell in row["cells"]]
    edge = [c for c in cells if c["key"] in ("views_threshold_watershed", "views_single_linkage")]
    ahead = f"ahead in {sum(cell['mean'] > 0 for cell in edge)} of {len(edge)} comparisons"
    assert ahead in " ".join(RESULTS.split()) and ahead in " ".join(README.split())
    assert np.mean([abs(cell["mean"]) < 2 * cell["error"] for cell in edge]) > 0.5
    whole = [cell["mean"] for cell in cells if cell["key"] == "mean_linkage"]
    assert f"behind in {sum(mean < 0 for mean in whole)} of {len(whole)}" in " ".join(
        RESULTS.split()
    )


def test_what_is_said_of_the_volume_holds():
    text = " ".join(RESULTS.split())
    row = row_of("fib25_volume", ABLATIONS[1], "threshold_watershed")
    assert not row["open_ended"]
    difference = f"difference {row['difference']:.3f} ± {row['error']:.3f}"
    assert f"({row['ours']:.3f} against {row['theirs']:.3f}, {difference})" in text
    split, merge = (row["voi"][part] for part in ("voi_split", "voi_merge"))
    assert split[1] - split[0] > 10 * abs(merge[1] - merge[0])  # fewer splits, not fewer mergers
    row = row_of("fib25_volume", ABLATIONS[1], "views_agglomeration")
    assert f"agglomeration of all views ({row['difference']:.3f} ± {row['error']:.3f})" in text
    assert row["difference"] > 0


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


def test_beside_labels_as_they_are_malis_is_behind_in_sections():
    assert "is behind in all pairs by the quantile" in " ".join(RESULTS.split())
    assert cells_of("fib25", ABLATIONS[1])["quantile75"]["ahead"] == 0
    row = row_of("fib25_neighbours", ABLATIONS[1])
    assert abs(row["difference"]) < row["error"]
    cell = cells_of("fib25_neighbours", ABLATIONS[1])["threshold_watershed"]
    assert f"in {cell['ahead']} of 5 folds ({gain(cell)})" in " ".join(RESULTS.split())


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


def test_what_it_says_of_speed_holds():
    assert "takes less than half of the time of two plain spanning trees" in " ".join(
        README.split()
    )
    assert collect()["speed"]["largest"]["ratio"] < 0.5


def test_what_is_said_of_the_length_of_trainings_holds():
    tables = {(t["key"], t["steps"]): t for t in length_tables()}
    assert all(table["folds"] == table["planned"] for table in tables.values())
    rows = {key: {row["key"]: row for row in t["rows"]} for key, t in tables.items()}
    usual = {data: fold_of(data, 0).steps for data in ("fib25_neighbours", "isbi2012")}
    short, isbi = (rows[data, steps // 4] for data, steps in usual.items())
    middle = rows["fib25_neighbours", usual["fib25_neighbours"]]
    long = rows["fib25_neighbours", 5 * usual["fib25_neighbours"] // 2]
    one, views, edge = "agglomeration", "views_agglomeration", "threshold_watershed"

    text = " ".join(README.split())
    for words, row in (
        ("{} with MALIS and {} without on FIB-25 with neighbours (lower in {} of 5", short[views]),
        ("{} and {} on ISBI 2012 ({} of 6)", isbi[views]),
        ("on FIB-25 they are level ({} and {})", long[views]),
        ("from one view MALIS is behind ({} and {})", long[one]),
    ):
        scores = (f"{row[side]:.3f}" for side in ("ours", "theirs"))
        assert words.format(*scores, row["lower_folds"]) in text
    text = " ".join(RESULTS.split())
    for row in (short[one], short[views], isbi[views], long[one]):
        assert f"({row['difference']:+.3f} ± {row['error']:.3f})" in text
    for row, words in ((long[views], "by agglomeration"), (long[edge], "by threshold")):
        assert f"{row['difference']:+.3f} ± {row['error']:.3f} {words}" in text
    for side in ("ours", "theirs"):
        falls = [f"{table[one][side]:.3f}" for table in (short, middle, long)]
        assert "from {} over {} to {}".format(*falls) in text

    assert all(row["difference"] < 0 for row in short.values())
    assert short[views]["lower_folds"] == 5
    assert short[views]["difference"] < -3 * short[views]["error"]
    assert sum(row["difference"] < 0 for row in isbi.values()) == 3
    assert long[one]["lower_folds"] == 1 and long[one]["difference"] > long[one]["error"]
    for reading, row in long.items():
        assert reading == one or abs(row["difference"]) < row["error"]
        change = [short[reading][side] - row[side] for side in ("ours", "theirs")]
        assert min(change) > max(abs(table[reading]["difference"]) for table in (short, middle))
