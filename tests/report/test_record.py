import multiprocessing

import pandas as pd
import pytest

from report.record import RESULTS, TABLES, add_rows, read_table


def run_of(name, **columns):
    return {"run": name, "seed": 0, "settings": {"patch": [64, 64]}, **columns}


def score_of(name, section, cremi):
    return {"run": name, "reading": "single_linkage", "part": "test", "section": section} | {
        "threshold": 0.30000000000000004,
        "cremi_score": cremi,
    }


def rows_of(name, cremi, **columns):
    scores = [score_of(name, section, cremi + section) for section in range(3)]
    return {
        "runs.csv": [run_of(name, **columns)],
        "scores.csv.gz": scores,
        "curves.csv.gz": [{"run": name, "curve": "training", "step": 1, "loss": 0.5}],
    }


def test_what_is_added_is_read(tmp_path):
    add_rows(rows_of("b", 0.123456789, loss="both, or not"), tmp_path)
    add_rows(rows_of("a", 0.25), tmp_path)
    runs, scores, curves = (read_table(name, tmp_path) for name in TABLES)
    assert runs["run"].tolist() == ["a", "b"]
    assert runs["loss"][1] == "both, or not" and runs["settings"][0] == {"patch": [64, 64]}
    assert scores["cremi_score"].tolist() == [0.25, 1.25, 2.25, 0.123457, 1.123457, 2.123457]
    assert set(scores["threshold"]) == {0.30000000000000004}
    assert list(curves["loss"]) == [0.5, 0.5]
    assert not list(tmp_path.glob("*.part"))


def test_a_run_that_is_made_again_replaces_its_own_rows_only(tmp_path):
    add_rows(rows_of("a", 1.0), tmp_path)
    add_rows(rows_of("b", 2.0), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in TABLES}
    add_rows(rows_of("a", 3.0), tmp_path)
    scores = read_table("scores.csv.gz", tmp_path)
    assert scores.groupby("run")["cremi_score"].min().to_dict() == {"a": 3.0, "b": 2.0}
    add_rows(rows_of("a", 1.0), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in TABLES} == before


def test_without_results_the_tables_are_empty(tmp_path):
    for name, columns in TABLES.items():
        table = read_table(name, tmp_path)
        assert table.empty and list(table) == columns


def _add_many(folder, letter, start):
    start.wait()
    for number in range(8):
        add_rows(rows_of(f"{letter}{number}", number), folder)


def test_processes_that_end_at_once_both_keep_their_rows(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    processes = [
        context.Process(target=_add_many, args=(tmp_path, letter, start)) for letter in "pq"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    names = [f"{letter}{number}" for letter in "pq" for number in range(8)]
    assert read_table("runs.csv", tmp_path)["run"].tolist() == names
    assert (read_table("scores.csv.gz", tmp_path).groupby("run").size() == 3).all()


def test_the_committed_tables_belong_together():
    runs, scores, curves = (read_table(name) for name in TABLES)
    assert runs["run"].is_unique
    assert set(scores["run"]) == set(runs["run"]) >= set(curves["run"])
    assert not scores.duplicated(["run", "reading", "part", "section"]).any()
    test = scores[scores["part"] == "test"]
    expected = ((test["voi_split"] + test["voi_merge"]) * test["adapted_rand_error"]) ** 0.5
    pd.testing.assert_series_equal(expected, test["cremi_score"], atol=2e-4, check_names=False)


@pytest.mark.parametrize("name", TABLES)
def test_the_committed_tables_are_written_as_they_would_be_again(name, tmp_path):
    table = read_table(name)
    first = table[table["run"] == table["run"][0]].to_dict("records")
    rows = {key: [] for key in TABLES} | {"runs.csv": [run_of(table["run"][0])], name: first}
    (tmp_path / name).write_bytes((RESULTS / name).read_bytes())
    add_rows(rows, tmp_path)
    assert (tmp_path / name).read_bytes() == (RESULTS / name).read_bytes()


def test_the_folder_of_the_results_stays_small():
    size = sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file())
    assert size <= 6e6
