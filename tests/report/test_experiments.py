import dataclasses
import json
import subprocess

import numpy as np
import pytest
from scipy import ndimage

from cremi_eval import Volume
from cremi_eval.io import CremiFile
from malis.training import CosineDecay, checkpoint
from malis.training.augmentation import Augmentation
from malis.training.checkpoint import load_model
from malis.training.dataset import SectionSplit
from report import comparisons, configurations, experiments, gallery, margin, record, ship
from report.runs import load_runs
from report.scoring import LINKAGES
from unet import UNet


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    """A volume of six small sections, and a grid that knows only that volume."""
    rng = np.random.default_rng(0)
    seeds = rng.random((6, 96, 96)) > 0.997
    nearest = ndimage.distance_transform_edt(~seeds, (100, 1, 1), return_indices=True)[1]
    labels = (np.arange(seeds.size).reshape(seeds.shape)[tuple(nearest)] + 1).astype(np.uint64)
    borders = (np.diff(labels, axis=1, prepend=labels[:, :1]) != 0) * 120
    raw = np.clip(180 - borders + rng.normal(0, 10, labels.shape), 0, 255).astype(np.uint8)
    path = tmp_path / "small.hdf"
    with CremiFile(path, "w") as file:
        file.write_raw(Volume(raw, (40.0, 4.0, 4.0)))
        file.write_neuron_ids(Volume(labels, (40.0, 4.0, 4.0)))
    data = configurations.Data(
        str(path),
        SectionSplit(range(3), range(3, 4), range(4, 6)),
        "made for a test",
        patch=(64, 64),
        steps=3,
    )
    monkeypatch.setitem(configurations.DATA, "small", data)
    return tmp_path


def test_a_run_trains_scores_and_keeps_its_model(small_world):
    results = experiments.run("small", "cnn-2009", seed=0, work=small_world / "work")
    json.dumps(results)
    assert results["steps"] == len(results["learning_curve"]["step"]) == 3
    for part in results["scores"].values():
        assert len(part["sections"]) == 2
        assert part["mean"]["cremi_score"] > 0
    model = load_model(small_world / "work" / "small_cnn-2009_0.model")
    assert model.card["scores"] == results["scores"]

    again = experiments.run("small", "cnn-2009", seed=0, work=small_world / "work")
    assert again["scores"] == results["scores"]


def test_a_killed_run_goes_on_a_finished_one_is_left_out_and_both_can_start_anew(
    small_world, monkeypatch, capsys
):
    results, work = small_world / "results", small_world / "work"
    monkeypatch.setattr(experiments, "RESULTS", results)
    monkeypatch.setattr(record, "RESULTS", results)
    monkeypatch.setattr(experiments, "WORK", work)
    asked = ["--only", "small", "--methods", "cnn-2009", "--seeds", "0"]
    path = results / "runs" / "small_cnn-2009_0.json"
    trained_to = work / "small_cnn-2009_0-0.pt"

    experiments.main([*asked, "--quick"])
    assert not path.exists()
    experiments.main(asked)
    first, checkpointed = json.loads(path.read_text()), trained_to.stat().st_mtime_ns
    path.write_text(json.dumps(first | {"title": "kept"}))
    experiments.main([*asked, "--resume"])
    assert "has a result" in capsys.readouterr().out
    assert json.loads(path.read_text())["title"] == "kept"

    path.unlink()
    experiments.main(asked)  # from the checkpoint, which is complete
    assert trained_to.stat().st_mtime_ns == checkpointed
    experiments.main([*asked, "--no-resume"])
    assert trained_to.stat().st_mtime_ns != checkpointed
    anew = json.loads(path.read_text())
    assert anew["title"] == first["title"]
    assert anew["scores"] == first["scores"]


def test_sets_of_sections_do_not_overlap():
    for data in configurations.DATA.values():
        train, validation, test = (set(part) for part in vars(data.split).values())
        assert train and validation and test
        assert not (train & validation or train & test or validation & test)


def test_other_learning_rates_are_tried_without_a_look_at_test_sections(small_world, monkeypatch):
    results = small_world / "results"
    monkeypatch.setattr(experiments, "RESULTS", results)
    monkeypatch.setattr(record, "RESULTS", results)
    monkeypatch.setattr(experiments, "WORK", small_world / "work")
    asked = ["--only", "small", "--methods", "cnn-2009", "--seeds", "0"]
    experiments.main([*asked, "--rates"])
    own = configurations.METHODS["cnn-2009"].peak_learning_rate
    written = [json.loads(path.read_text()) for path in (results / "trials").iterdir()]
    assert sorted(trial["peak_learning_rate"] for trial in written) == [own / 2, 2 * own]
    assert not any("sections" in part for trial in written for part in trial["scores"].values())
    assert comparisons.rate_tables(results) == []  # nothing to compare with

    experiments.main(asked)
    (table,) = comparisons.rate_tables(results)
    (row,) = table["rows"]
    assert (row["name"], row["peak"]) == (configurations.METHODS["cnn-2009"].title, own)
    scores = {trial["peak_learning_rate"]: trial["scores"] for trial in written}
    for rate, factor in {"half": 0.5, "twice": 2}.items():
        assert row[rate]["mean"] == scores[factor * own]["agglomeration"]["validation_cremi"]
    assert row["own"]["n"] == 1
    trials = comparisons.trial_table(results)
    assert trials is None or not trials["rows"]


@pytest.mark.parametrize("other", ["--trials", "--folds"])
def test_trials_of_learning_rates_stand_alone(other, capsys):
    with pytest.raises(SystemExit):
        experiments.main(["--rates", other])
    assert "--rates" in capsys.readouterr().err


def test_results_say_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    path = record.write_results("folder/name", {"answer": 42})
    content = json.loads(path.read_text())
    assert content["answer"] == 42
    assert {"date", "revision", "device", "processor", "versions"} <= set(content["environment"])
    assert list(path.parent.iterdir()) == [path]


def test_a_result_that_is_replaced_does_not_make_its_code_another(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "report" / "results").mkdir(parents=True)
    code, result = tmp_path / "code.py", tmp_path / "report" / "results" / "one.json"
    code.write_text("1")
    result.write_text("1")
    assert record.revision(tmp_path) is None
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    commit = record.revision(tmp_path)
    assert commit and "dirty" not in commit
    result.write_text("2")
    (tmp_path / "new.txt").write_text("untracked")
    assert record.revision(tmp_path) == commit
    code.write_text("2")
    assert record.revision(tmp_path) == f"{commit}-dirty"


def test_stages_follow_each_other_along_one_decay(small_world):
    work = small_world / "work"
    results = experiments.run("small", "unet-ce-then-malis", seed=0, work=work, test=False)
    assert results["learning_curve"]["step"] == [1, 2, 3]
    assert results["validation_curve"]["step"] == [1, 2, 3]
    first, second = results["losses"]
    assert (first["name"], second["name"]) == ("AffinityCrossEntropy", "WindowLoss")
    assert second["losses"][0]["constrained"]
    assert all("mean" not in part for part in results["scores"].values())
    rates = [
        rate
        for number in range(2)
        for rate in checkpoint.read(
            work / f"small_unet-ce-then-malis_0-{number}.pt", checkpoint.CHECKPOINT
        )["history"]["training"]["learning_rate"]
    ]
    whole = CosineDecay(2e-3, 3)
    assert rates == [whole(step) for step in (1, 2, 3)]


def test_charges_with_and_without_a_margin(small_world):
    work = small_world / "work"
    experiments.run("small", "unet-cross-entropy", seed=0, work=work, test=False)
    found = margin.charges(work / "small_unet-cross-entropy_0.model", "small", n_patches=2)
    json.dumps(found)
    assert [row["margin"] for row in found["rows"]] == [0, 1, 2]
    assert found["rows"][0]["background"] == 0
    assert 0.05 < found["rows"][1]["background"] < found["rows"][2]["background"] < 0.6
    assert all(0 < row[kind] < 1 for row in found["rows"] for kind in ("patch", "windows"))


def test_whole_patches_come_after_cross_entropy_where_the_data_say_so():
    small = dataclasses.replace(configurations.DATA["synthetic"], whole=True)
    for name in ("unet-ce-then-malis", "unet-ce-then-both"):
        second = configurations.METHODS[name].stages[1]
        assert "Window" not in repr(second.loss(small))
        assert "Window" in repr(second.loss(configurations.DATA["synthetic"]))


def test_a_margin_is_only_where_the_data_has_one(small_world, monkeypatch):
    data = dataclasses.replace(configurations.DATA["small"], boundary=2)
    monkeypatch.setitem(configurations.DATA, "touching", data)
    plain, grown = "unet-cross-entropy-as-labelled", "unet-cross-entropy"
    grid = configurations.runs(["small", "touching"], [plain, grown], [0])
    assert grid == [("small", grown, 0), ("touching", plain, 0), ("touching", grown, 0)]
    work = small_world / "work"
    margins = [experiments.run(d, m, s, work=work, test=False)["boundary"] for d, m, s in grid]
    assert margins == [0, 0, 2]


def test_a_volume_is_segmented_in_one_piece(small_world, monkeypatch):
    data = dataclasses.replace(
        configurations.DATA["small"],
        patch=(2, 16, 16),
        window=2,
        batch=1,
        mixed_precision=False,
    )
    shape = {"pool_sizes": [(1, 2, 2), (1, 2, 2)]}
    usual = configurations.Method.network_arguments
    monkeypatch.setattr(
        configurations.Method, "network_arguments", lambda self, ndim, _: usual(self, ndim) | shape
    )
    monkeypatch.setitem(configurations.DATA, "small_volume", data)
    results = experiments.run("small_volume", "unet-both", seed=0, work=small_world / "work")
    for part in results["scores"].values():
        assert len(part["sections"]) == 1


def test_the_linkage_of_a_volume_is_the_best_on_its_validation_sections():
    """Of a single view, averaged over all U-Nets that were trained on it."""
    for name, data in configurations.DATA.items():
        scores = [
            {linkage: run["scores"][linkage]["validation_cremi"] for linkage in LINKAGES}
            for (trained_on, method), by_seed in load_runs().items()
            if trained_on == name and configurations.METHODS[method].network is UNet
            for run in by_seed.values()
        ]
        if not scores:
            continue
        means = {linkage: np.mean([score[linkage] for score in scores]) for linkage in LINKAGES}
        assert min(means, key=means.get) == data.linkage, (name, means)


def test_no_section_is_tested_twice_and_none_beside_it_is_trained_on():
    for name, folds in configurations.FOLDS.items():
        split = configurations.DATA[name].split
        n_sections, gap = split.test.stop, max(1, split.test.start - split.validation.stop)
        tested = []
        for number in range(folds.count):
            fold = configurations.fold_of(name, number)
            train, validation, test = (
                {(fold.first + section) % n_sections for section in part}
                for part in vars(fold.split).values()
            )
            assert not (train & validation or train & test or validation & test)
            steps = [step for size in range(1, gap + 1) for step in (-size, size)]
            assert not {(section + step) % n_sections for section in test for step in steps} & train
            assert max(test) - min(test) == len(test) - 1  # the ends of the stack do not meet
            assert max(validation) - min(validation) == len(validation) - 1
            tested += test
        assert len(tested) == len(set(tested)) == folds.count * len(split.test)
        with pytest.raises(ValueError, match=f"0 to {folds.count - 1}, got {folds.count}"):
            configurations.fold_of(name, folds.count)


def test_a_fold_scores_the_sections_that_it_holds_out(small_world, monkeypatch):
    monkeypatch.setitem(configurations.FOLDS, "small", configurations.Folds(3))
    source = configurations.fold_of("small", 2)
    plain = experiments.load_sections(configurations.DATA["small"])
    turned = experiments.load_sections(source)
    np.testing.assert_array_equal(turned.labels, plain.labels[[4, 5, 0, 1, 2, 3]])
    np.testing.assert_array_equal(turned.raw[0], plain.raw[4])
    results = experiments.run("small", "cnn-2009", seed=2, work=small_world / "work", fold=2)
    assert results["first_section"] == 4
    assert len(results["scores"]["agglomeration"]["sections"]) == 2
    assert configurations.fold_runs(["small", "synthetic"], ["unet-both"]) == [
        ("small", "unet-both", 0),
        ("small", "unet-both", 1),
        ("small", "unet-both", 2),
    ]


def test_no_patch_crosses_the_place_where_the_ends_of_a_turned_stack_meet(small_world):
    source = dataclasses.replace(configurations.DATA["small"], first=4)
    turned = experiments.load_sections(source)  # sections 4 5 0 | 1 | 2 3: the seam is before 0
    smooth = Augmentation(elastic_amplitude=0)

    def sizes(**changes):
        parts = experiments.pieces(turned, dataclasses.replace(source, **changes), smooth)
        assert all(part.name == turned.name for part in parts)
        return [len(part.raw) for part in parts]

    assert sizes() == [3]  # sections one by one
    assert sizes(neighbours=1) == [2, 1]
    assert sizes(neighbours=1, first=3) == [3]  # what is trained on ends at the seam
    assert sizes(patch=(2, 64, 64)) == [2]  # one section holds no patch


def test_pictures_are_drawn_once_for_a_network(small_world, monkeypatch):
    work = small_world / "work"
    monkeypatch.setattr(gallery, "WORK", work)
    monkeypatch.setattr(gallery, "GALLERY", small_world / "gallery")
    monkeypatch.setattr(gallery, "SHIPPED", small_world)
    results = experiments.run("small", "unet-both", seed=0, work=work)
    cards = gallery.refresh("small")
    assert [path.parent.name for path in cards] == ["small_4", "small_5"]
    for path in cards:
        card = json.loads(path.read_text())["networks"]["unet-both"]
        assert card["threshold"] == results["scores"]["agglomeration"]["threshold"]
        drawn = {picture.stem for picture in path.parent.glob("*.png")}
        assert drawn == {"raw", "truth", "unet-both", card["affinities"]}
    assert gallery.refresh("small") == []


@pytest.mark.parametrize("options", [[], ["--fold"]])
def test_a_network_ships_with_its_card(small_world, monkeypatch, options):
    work = small_world / "work"
    monkeypatch.setattr(ship, "WORK", work)
    monkeypatch.setattr(ship, "MODELS", small_world / "models")
    folder = work / "folds" if options else work
    results = experiments.run("small", "cnn-2009", seed=0, work=folder)
    monkeypatch.setattr("sys.argv", ["ship", "small", "cnn-2009", "0", *options])
    ship.main()
    shipped = load_model(small_world / "models" / "small.model")
    assert shipped.card["scores"] == results["scores"]
    assert json.loads((small_world / "models" / "small.json").read_text()) == shipped.card


def test_folds_of_another_length_are_kept_apart(small_world, monkeypatch, capsys):
    results = small_world / "results"
    for module in (experiments, record):
        monkeypatch.setattr(module, "RESULTS", results)
    monkeypatch.setattr(experiments, "WORK", small_world / "work")
    monkeypatch.setitem(configurations.FOLDS, "small", configurations.Folds(3))
    asked = ["--folds", "--only", "small", "--methods", "unet-both", "--seeds", "0"]
    experiments.main([*asked, "--steps", "2"])
    experiments.main(asked)
    lengths = {
        str(path.relative_to(results)): json.loads(path.read_text())["steps"]
        for path in results.rglob("*.json")
    }
    assert lengths == {"lengths/2/small_unet-both_0.json": 2, "folds/small_unet-both_0.json": 3}
    with pytest.raises(SystemExit):
        experiments.main(["--only", "small", "--steps", "2"])
    assert "only with --trials or --folds" in capsys.readouterr().err


def test_the_conditions_of_a_table_are_those_of_its_runs():
    rows = {
        (row["title"], row["folds"]): row
        for row in comparisons.budgets(load_runs(), record.RESULTS)
    }
    sections, halves = rows["FIB-25, sections", False], rows["FIB-25, volume", True]
    assert sections["windows"] == [0, 32]  # after cross-entropy, MALIS sees whole patches
    assert halves["windows"] == [24] and halves["steps"] == [3000]
    assert rows["ISBI 2012", False]["precisions"] != rows["ISBI 2012", True]["precisions"]
    for row in rows.values():
        assert all(row[key] for key in ("steps", "batches", "precisions", "processors", "windows"))
