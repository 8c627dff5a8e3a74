import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from report.configurations import DATA
from report.pages import PAGES, PLACE, filled, tables, update
from report.tables import HEADLINE_DATA, comparisons, headline, load_scores, repeated

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "report" / "README.md").read_text()


@pytest.fixture(scope="module")
def scores():
    return load_scores()


@pytest.fixture(scope="module")
def made():
    return tables()


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_a_page_are_those_of_the_results(page, made):
    text = (ROOT / page).read_text()
    assert PLACE.search(text)
    assert filled(text, made) == text


def test_all_tables_are_shown_somewhere(made):
    assert {place[2] for place in PLACE.finditer(README + RESULTS)} == set(made)


def test_an_old_table_is_written_anew_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "report").mkdir()
    for page in PAGES:
        (tmp_path / page).write_bytes((ROOT / page).read_bytes())
    # What is opened without naming an encoding is read as on Windows.
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "cp1252")
    assert update(tmp_path) == []
    for old in ("", "| old |\n"):
        text = PLACE.sub(lambda place, old=old: place[1] + old + place[3], README)
        (tmp_path / "README.md").write_text(text, encoding="utf-8")
        assert update(tmp_path) == [tmp_path / "README.md"]
        assert (tmp_path / "README.md").read_text(encoding="utf-8") == README
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "report"]


def test_a_table_that_does_not_exist_is_refused(made):
    with pytest.raises(KeyError, match="nothing"):
        filled("<!-- table: nothing -->\n<!-- end -->", made)


@pytest.mark.parametrize("page", PAGES)
def test_every_target_and_file_it_names_exists(page):
    text = (ROOT / page).read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", text)):
        if text.count(f"`make {target}") or f"\nmake {target}" in text:
            assert re.search(rf"^{target}:", makefile, re.M), target
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link


def test_what_the_readme_says_of_the_losses_holds(scores):
    text = " ".join(README.split())
    assert "the differences lie far within the spread of the folds" in text
    rows = {row["name"]: row["cells"] for row in headline(scores)["rows"]}
    theirs, *ours = (cells[-1] for cells in rows.values())  # ISBI 2012
    assert all(abs(one["mean"] - theirs["mean"]) < theirs["spread"] / 2 for one in ours)

    short, *_, long = (
        table for table in comparisons(scores, lengths=True) if table["key"] == "fib25_neighbours"
    )
    for key in ("agglomeration", "views_agglomeration"):
        (row,) = (row for row in short["rows"] if row["key"] == key)
        told = f"{row['ours']:.3f} against {row['theirs']:.3f} in {row['lower']} of {row['pairs']}"
        assert told in text
    for before, after in zip(short["rows"], long["rows"], strict=True):
        assert before["difference"] < 0
        change = min(before[side] - after[side] for side in ("ours", "theirs"))
        assert change > max(abs(row["difference"]) for row in (before, after))


def test_what_the_readme_says_of_volumes_holds(scores):
    text = " ".join(README.split())
    found = comparisons(scores, "seeds")
    rows = [{row["key"]: row for row in table["all_rows"]} for table in found]
    assert (found[0]["key"], found[0]["labels"]) == ("snemi3d", "MALIS from the start")
    edges = [row["single_linkage"] for row in rows]
    lower, pairs = (sum(edge[key] for edge in edges) for key in ("lower", "pairs"))
    assert f"ahead in {lower} of {pairs} pairs of runs" in text
    assert f"error is {edges[0]['ours']:.3f} against {edges[0]['theirs']:.3f}" in text
    assert edges[0]["error"] > abs(edges[0]["difference"])  # "seeds differ by more than that"
    linkages = ["quantile75", "single_linkage", "mean_linkage"]
    assert [DATA[data].linkage for data in HEADLINE_DATA] == linkages
    assert (found[3]["key"], found[3]["labels"]) == ("fib25_slab", "MALIS alone in the second half")
    assert all(row["difference"] < 0 for row in rows[3].values())  # what the report says
    assert all(edge["lower"] == edge["pairs"] for edge in edges[2:])  # "on FIB-25 in all pairs"
    fly = rows[3]["mean_linkage"]
    assert f"ahead on FIB-25 ({fly['ours']:.3f} against {fly['theirs']:.3f} by the mean)" in text
    for row in rows[:2]:  # "on SNEMI3D differences are small"
        for key in ("quantile75", "mean_linkage"):
            assert abs(row[key]["difference"]) < row[key]["theirs"] / 10
    for row in rows:
        assert row["single_linkage"]["voi_merge_ours"] < row["single_linkage"]["voi_merge_theirs"]


def test_the_scores_of_repeated_trainings_are_theirs(scores):
    methods = repeated(scores, "isbi2012")["methods"]
    text = " ".join(RESULTS.split())
    told = [
        " and ".join(f"{cell['mean']:.3f} ± {cell['spread']:.3f}" for cell in both.values())
        for both in (methods["unet-cross-entropy"], methods["unet-both"])
    ]
    assert f"cross-entropy scored {told[0]} on the four test sections of ISBI 2012" in text
    assert f"both losses {told[1]}." in text


def test_what_it_says_of_speed_holds():
    words = " ".join(README.split())
    assert "takes less than a tenth of the time of two plain spanning trees" in words
    assert "without it, less than half" in words
    loss = json.loads((ROOT / "report/results/benchmark_loss.json").read_text())
    (row,) = (row for row in loss["sizes"] if row["shape"] == [128, 128, 128])
    assert row["ratio_numba"] < 0.1 and row["ratio"] < 0.5


def test_what_the_report_says_of_all_readings_holds(scores):
    found = {(one["key"], one["labels"]): one for one in comparisons(scores)}
    near = {row["key"]: row for row in found["fib25_neighbours", "with a margin"]["all_rows"]}
    for reading in ("views_single_linkage", "views_mean_linkage"):
        assert near[reading]["lower"] == near[reading]["pairs"]
    assert near["views_quantile75"]["difference"] > 0
    plain = {row["key"]: row for row in found["fib25_volume", "labels as they are"]["all_rows"]}
    edge = plain["threshold_watershed"]
    assert edge["difference"] < -2 * edge["error"]
    split, merge = (
        edge[f"{part}_ours"] - edge[f"{part}_theirs"] for part in ("voi_split", "voi_merge")
    )
    assert split < -0.2 and abs(merge) < 0.05
    isbi = [one for key, one in found.items() if key[0] == "isbi2012"]
    for table in isbi:
        rows = {row["key"]: row for row in table["rows"]}
        assert abs(rows["agglomeration"]["difference"]) < rows["agglomeration"]["error"]
        views = rows["views_agglomeration"]
        assert -1.3 * views["error"] < views["difference"] < 0
    (short,) = (
        table
        for table in comparisons(scores, lengths=True)
        if (table["key"], table["steps"]) == ("isbi2012", 375)
    )
    assert np.sum([row["difference"] < 0 for row in short["rows"]]) == 3
    long = comparisons(scores, lengths=True)[2]
    one, *others = long["rows"]
    assert (long["key"], long["steps"]) == ("fib25_neighbours", 5000)
    assert one["difference"] > one["error"]
    assert all(abs(row["difference"]) < row["error"] for row in others)
