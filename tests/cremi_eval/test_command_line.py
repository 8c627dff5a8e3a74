import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cremi_eval import Annotations, Volume
from cremi_eval.__main__ import main
from cremi_eval.command import score_files
from cremi_eval.io import CremiFile

ROOT = Path(__file__).parents[2]


def write(path, labels=None, clefts=None, annotations=None):
    with CremiFile(path, "w") as file:
        if labels is not None:
            file.write_neuron_ids(Volume(labels, (40.0, 4.0, 4.0)))
        if clefts is not None:
            file.write_clefts(Volume(clefts, (40.0, 4.0, 4.0)))
        if annotations is not None:
            file.write_annotations(annotations)
    return str(path)


@pytest.fixture
def files(cases):
    return [str(cases / "test.hdf"), str(cases / "truth.hdf")]


def test_the_table_of_the_challenge(files, expected, tmp_path):
    command = [sys.executable, "-m", "cremi_eval", *files, "--json", str(tmp_path / "out.json")]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert run.stderr == ""
    rows = dict(
        line.strip().rsplit(maxsplit=1) for line in run.stdout.splitlines() if line[:1] == " "
    )
    pair = expected["hdf_pair"]
    split, merge = pair["voi"]
    assert float(rows["VOI split"]) == pytest.approx(split, abs=1e-4)
    assert float(rows["VOI merge"]) == pytest.approx(merge, abs=1e-4)
    assert float(rows["VOI sum"]) == pytest.approx(split + merge, abs=1e-4)
    assert float(rows["adapted Rand error"]) == pytest.approx(pair["adapted_rand"], abs=1e-4)
    assert float(rows["CREMI score"]) == pytest.approx(
        np.sqrt((split + merge) * pair["adapted_rand"]), abs=1e-4
    )
    assert rows["false positives beyond 200 nm"] == "36"
    assert float(rows["F-score"]) == pytest.approx(pair["synaptic_partners"]["fscore"], abs=1e-4)

    stored = json.loads((tmp_path / "out.json").read_text())
    volume = stored["neuron_ids"]["whole_volume"]
    assert [volume["voi_split"], volume["voi_merge"]] == pytest.approx(pair["voi"], rel=1e-9)
    assert stored["synaptic_clefts"]["false_positives"] == 36
    assert stored["synaptic_partners"]["fn"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_sections_border_and_ignored_ids(files, expected, capsys, tmp_path):
    out = tmp_path / "out.json"
    assert main([*files, "--per-section", "--border", "25", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "whole volume at once, ignoring 25 nm around borders" in text
    assert "mean of 10 sections scored one by one" in text
    neurons = json.loads(out.read_text())["neuron_ids"]
    voi = expected["hdf_pair"]["border25"]["voi"]
    assert neurons["whole_volume"]["voi_split"] == pytest.approx(voi[0], rel=1e-9)
    assert len(neurons["sections"]) == 10
    mean = np.mean([section["voi_merge"] for section in neurons["sections"]])
    assert neurons["mean_of_sections"]["voi_merge"] == pytest.approx(mean)

    labels = np.zeros((1, 2, 4), np.uint64)
    labels[..., 2:] = 1
    truth = write(tmp_path / "truth.hdf", labels)
    merged = write(tmp_path / "merged.hdf", np.ones_like(labels))
    assert score_files(merged, truth)["neuron_ids"]["whole_volume"]["voi_merge"] == 1
    command = [merged, truth, "--ignore", "0", "--json"]
    before = out.read_bytes()
    assert main([*command, str(out)]) == 1
    assert "out.json exists; --overwrite replaces it" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*command, truth, "--overwrite"]) == 1
    assert "truth.hdf is an input" in capsys.readouterr().err
    assert score_files(merged, truth)["neuron_ids"]["whole_volume"]["voi_merge"] == 1
    assert main([*command, str(out), "--overwrite"]) == 0
    assert json.loads(out.read_text())["neuron_ids"]["whole_volume"]["voi_merge"] == 0


def test_files_that_do_not_match_give_one_line(files, capsys, tmp_path):
    labels = np.ones((2, 8, 8), np.uint64)
    good = write(tmp_path / "good.hdf", labels)
    other = write(tmp_path / "other.hdf", labels[:, :4])
    clefts = write(tmp_path / "clefts.hdf", clefts=labels)
    ignored = write(tmp_path / "ignored.hdf", np.full_like(labels, 2**64 - 1))
    (tmp_path / "cut.hdf").write_bytes(Path(good).read_bytes()[:1500])
    (tmp_path / "text.hdf").write_text("none")
    for arguments, message in [
        ([good, other], "shape (2, 8, 8), but the ground truth has shape (2, 4, 8)"),
        (
            [good, clefts],
            "share neither neuron ids nor clefts nor synaptic partners; the first "
            "holds volumes/labels/neuron_ids (2, 8, 8) uint64, the second volumes/labels/clefts",
        ),
        ([good, ignored], "no voxel to evaluate"),
        ([str(tmp_path / "cut.hdf"), good], "cut.hdf is truncated"),
        ([str(tmp_path / "text.hdf"), good], "text.hdf is not an HDF5 file"),
        ([good, str(tmp_path / "none.hdf")], "none.hdf does not exist"),
        ([good, good, "--border", "-1"], "border_threshold must be at least 0"),
        ([good, good, "--json", str(tmp_path / "no/out.json")], "its folder does not exist"),
    ]:
        assert main(arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("cremi_eval: ") and captured.err.count("\n") == 1
        assert message in captured.err
    assert not list(tmp_path.glob("*.json"))


def test_only_what_both_files_have_is_scored(capsys, tmp_path):
    labels = np.ones((2, 8, 8), np.uint64)
    empty = np.full_like(labels, 2**64 - 1)
    points = Annotations()
    points.add_annotation(1, "presynaptic_site", (0, 0, 0))
    points.add_annotation(2, "postsynaptic_site", (0, 4, 4))
    points.set_pre_post_partners(1, 2)
    lonely = Annotations()
    lonely.add_annotation(1, "presynaptic_site", (0, 0, 0))
    a = write(tmp_path / "a.hdf", labels, labels, points)
    b = write(tmp_path / "b.hdf", labels, empty, lonely)
    c = write(tmp_path / "c.hdf", labels)

    assert set(score_files(a, c)) == {"submission", "truth", "neuron_ids"}
    assert set(score_files(b, b)) == {"submission", "truth", "neuron_ids", "synaptic_clefts"}
    assert score_files(a, a)["synaptic_partners"]["fscore"] == 1
    assert score_files(b, a)["synaptic_partners"]["fscore"] == 0
    out = tmp_path / "out.json"
    assert main([b, a, "--json", str(out)]) == 0  # no detected cleft: no distances, none finite
    rows = capsys.readouterr().out
    assert "precision                  nan" in rows
    stored = json.loads(out.read_text())
    assert stored["synaptic_clefts"]["false_positive_distances_nm"] is None
    assert stored["synaptic_clefts"]["false_negative_distances_nm"]["mean"] is None
    assert stored["synaptic_clefts"]["false_negatives"] == labels.size
    assert stored["synaptic_partners"]["precision"] is None
