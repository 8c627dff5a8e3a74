import dataclasses
import json
import subprocess

import numpy as np
import pytest
import torch
from scipy import ndimage

from cremi_eval import Volume
from cremi_eval.io import CremiFile
from malis.training import CosineDecay, checkpoint
from malis.training.augmentation import Augmentation
from malis.training.checkpoint import load_model
from malis.training.dataset import SectionSplit
from report import configurations, experiments, gallery, record
from report.record import TABLES, read_table
from report.scores import LINKAGES, SIMPLE


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


def test_sets_of_sections_do_not_overlap():
    for data in configurations.DATA.values():
        train, validation, test = (set(part) for part in vars(data.split).values())
        assert train and validation and (test or data.test_volume)
        assert not (train & validation or train & test or validation & test)


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


def test_whole_patches_come_after_cross_entropy_where_the_data_say_so():
    small = dataclasses.replace(configurations.DATA["synthetic"], whole=True)
    for name in ("unet-ce-then-malis", "unet-ce-then-both"):
        second = configurations.METHODS[name].stages[1]
        assert "Window" not in repr(second.loss(small))
        assert "Window" in repr(second.loss(configurations.DATA["synthetic"]))


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


@pytest.fixture
def kept(small_world, monkeypatch):
    """Results and trained models go into the small world, too."""
    monkeypatch.setattr(experiments, "RESULTS", small_world / "results")
    monkeypatch.setattr(experiments, "WORK", small_world / "work")
    return small_world / "results"


def without_time(rows):
    return [rows[name] for name in ("scores.csv.gz", "curves.csv.gz")]


def test_a_run_trains_scores_and_keeps_its_model(small_world):
    rows = experiments.run("small", "cnn-2009", seed=0, work=small_world / "work")
    json.dumps(rows)
    (row,) = rows["runs.csv"]
    assert row["run"] == "seeds/small/cnn-2009/3/0"
    assert set(row) == set(TABLES["runs.csv"])
    assert row["split"] == "train 0-2, validation 3-3, test 4-5"
    assert (row["network"], row["loss"]) == ("2009 network", "maximin loss")
    assert {"losses", "patch", "boundary", "threads"} <= set(row["settings"])
    scores = rows["scores.csv.gz"]
    readings = [p + name for p in ("", "views_") for name in (*LINKAGES, *SIMPLE)]
    assert list(dict.fromkeys(one["reading"] for one in scores)) == readings
    for reading in readings:
        own = [one for one in scores if one["reading"] == reading]
        assert [one["part"] for one in own] == ["validation", "test", "test"]
        assert [one.get("section") for one in own] == [None, 4, 5]
        assert len({(one["threshold"], one.get("inside")) for one in own}) == 1
        assert ("inside" in own[0]) == any(name in reading for name in LINKAGES)
        assert all(one["cremi_score"] > 0 for one in own)
    curves = {one["curve"] for one in rows["curves.csv.gz"]}
    assert curves == {"training", "validation"}
    steps = [one["step"] for one in rows["curves.csv.gz"] if one["curve"] == "training"]
    assert steps == [1, 2, 3]
    card = load_model(small_world / "work" / "small_cnn-2009_0.model").card
    assert card["scores"]["agglomeration"] == card["scores"]["mean_linkage"]
    single = [one for one in scores if one["reading"] == "single_linkage"]
    summary = card["scores"]["single_linkage"]
    assert summary["threshold"] == single[0]["threshold"]
    assert summary["validation_cremi"] == single[0]["cremi_score"]
    mean = np.mean([one["cremi_score"] for one in single[1:]])
    assert summary["mean"]["cremi_score"] == pytest.approx(mean)

    again = experiments.run("small", "cnn-2009", seed=0, work=small_world / "work")
    assert without_time(again) == without_time(rows)


def test_a_killed_run_goes_on_a_finished_one_is_left_out_and_both_can_start_anew(
    kept, small_world, capsys
):
    asked = ["--only", "small", "--methods", "cnn-2009", "--seeds", "0"]
    trained_to = small_world / "work" / "small_cnn-2009_0-0.pt"
    experiments.main([*asked, "--quick"])
    assert not kept.exists()
    experiments.main(asked)
    first = {name: read_table(name, kept) for name in TABLES}
    assert [len(table) > 0 for table in first.values()] == [True, True, True]
    checkpointed = trained_to.stat().st_mtime_ns
    experiments.main([*asked, "--resume"])
    assert "has a result" in capsys.readouterr().out

    (kept / "runs.csv").unlink()
    experiments.main(asked)  # from the checkpoint, which is complete
    assert trained_to.stat().st_mtime_ns == checkpointed
    experiments.main([*asked, "--no-resume"])
    assert trained_to.stat().st_mtime_ns != checkpointed
    assert len(read_table("runs.csv", kept)) == 1
    for name in ("scores.csv.gz", "curves.csv.gz"):
        assert read_table(name, kept).equals(first[name])


def test_trials_look_at_no_test_section(kept):
    experiments.main(["--trials", "--only", "small", "--methods", "cnn-2009", "--seeds", "0"])
    (run,) = read_table("runs.csv", kept)["run"]
    assert run == "trials/small/cnn-2009/3/0"
    assert set(read_table("scores.csv.gz", kept)["part"]) == {"validation"}


def test_stages_follow_each_other_along_one_decay(small_world):
    work = small_world / "work"
    rows = experiments.run("small", "unet-ce-then-malis", seed=0, work=work, study="trials")
    for curve in ("training", "validation"):
        steps = [one["step"] for one in rows["curves.csv.gz"] if one["curve"] == curve]
        assert steps == [1, 2, 3]
    first, second = rows["runs.csv"][0]["settings"]["losses"]
    assert (first["class"], second["class"]) == ("AffinityCrossEntropy", "WindowLoss")
    assert second["loss"]["constrained"] and second["loss"]["from_logits"]
    rates = [
        rate
        for number in range(2)
        for rate in checkpoint.read(
            work / f"small_unet-ce-then-malis_0-{number}.pt", checkpoint.CHECKPOINT
        )["history"]["training"]["learning_rate"]
    ]
    whole = CosineDecay(2e-3, 3)
    assert rates == [whole(step) for step in (1, 2, 3)]


def test_a_margin_is_only_where_the_data_has_one(small_world, monkeypatch):
    data = dataclasses.replace(configurations.DATA["small"], boundary=2)
    monkeypatch.setitem(configurations.DATA, "touching", data)
    plain, grown = "unet-cross-entropy-as-labelled", "unet-cross-entropy"
    grid = configurations.runs(["small", "touching"], [plain, grown], [0])
    assert grid == [("small", grown, 0), ("touching", plain, 0), ("touching", grown, 0)]
    margins = [
        configurations.METHODS[method].margin(configurations.DATA[data]) for data, method, _ in grid
    ]
    assert margins == [0, 0, 2]


def test_a_volume_is_segmented_in_one_piece(small_world, monkeypatch):
    data = dataclasses.replace(
        configurations.DATA["small"],
        patch=(2, 16, 16),
        window=2,
        batch=1,
        mixed_precision=False,
        views=False,
    )
    shape = {"pool_sizes": [(1, 2, 2), (1, 2, 2)]}
    usual = configurations.Method.network_arguments
    monkeypatch.setattr(
        configurations.Method, "network_arguments", lambda self, source: usual(self, source) | shape
    )
    monkeypatch.setitem(configurations.DATA, "small_volume", data)
    rows = experiments.run("small_volume", "unet-both", seed=0, work=small_world / "work")
    test = [one for one in rows["scores.csv.gz"] if one["part"] == "test"]
    assert [one["reading"] for one in test] == [*LINKAGES, *SIMPLE]
    assert {one["section"] for one in test} == {4}


def test_another_volume_may_be_tested_with_its_ids_as_labelled(small_world, monkeypatch):
    source = configurations.DATA["small"]
    small = experiments.load_sections(source)
    joined = np.where(small.labels % 2 == 1, 1, small.labels).astype(np.uint64)
    with CremiFile(small_world / "joined.hdf", "w") as file:
        file.write_raw(Volume(small.raw, small.resolution))
        file.write_neuron_ids(Volume(joined, small.resolution))
    scores = {}
    for relabel in (True, False):
        changed = dataclasses.replace(
            source,
            split=SectionSplit(range(3), range(3, 5), range(0)),
            test_volume=str(small_world / "joined.hdf"),  # half of its objects have one id
            relabel=relabel,
            views=False,
        )
        monkeypatch.setitem(configurations.DATA, "two", changed)
        rows = experiments.run("two", "cnn-2009", seed=0, work=small_world / "work")
        assert rows["runs.csv"][0]["split"].endswith(f"test {changed.test_volume}")
        test = [one for one in rows["scores.csv.gz"] if one["part"] == "test"]
        scores[relabel] = np.mean([one["voi_split"] for one in test])
    assert len(test) == 6 * len([*LINKAGES, *SIMPLE])
    assert scores[False] > scores[True] + 0.1


def test_a_slab_network_of_snemi3d_sees_five_sections_and_predicts_three_affinities():
    source = configurations.DATA["snemi3d"]
    for method in source.methods:
        arguments = configurations.METHODS[method].network_arguments(source)
        network = configurations.METHODS[method].network(**arguments)
        assert (network.ndim, network.in_channels, network.out_channels) == (2, 5, 3)
        for stage in configurations.METHODS[method].stages:
            logits = torch.zeros(1, 3 + len(source.far), *source.patch, requires_grad=True)
            labels = torch.ones(1, *source.patch, dtype=torch.int64)
            stage.loss(source)(logits, labels).backward()
            assert all(channel.abs().sum() > 0 for channel in logits.grad[0])
    assert configurations.runs(["snemi3d"], list(configurations.METHODS), [0, 1, 2]) == [
        ("snemi3d", method, seed) for seed in (0, 1, 2) for method in source.methods
    ]


def test_channels_of_longer_edges_go_when_the_network_is_trained():
    source, recipe = configurations.DATA["snemi3d"], configurations.METHODS["unet-both"]
    arguments = recipe.network_arguments(source)
    trained = recipe.network(**(arguments | {"n_classes": 3 + len(source.far)})).eval()
    left = experiments.nearest_only(trained, source, recipe)
    sections = torch.rand(1, 5, 32, 32)
    assert left.out_channels == 3
    torch.testing.assert_close(left(sections), trained(sections)[:, :3])


def test_a_fold_scores_the_sections_that_it_holds_out(small_world, monkeypatch):
    monkeypatch.setitem(configurations.FOLDS, "small", configurations.Folds(3))
    source = configurations.fold_of("small", 2)
    plain = experiments.load_sections(configurations.DATA["small"])
    turned = experiments.load_sections(source)
    np.testing.assert_array_equal(turned.labels, plain.labels[[4, 5, 0, 1, 2, 3]])
    np.testing.assert_array_equal(turned.raw[0], plain.raw[4])
    rows = experiments.run("small", "cnn-2009", 2, study="folds", work=small_world / "work")
    assert rows["runs.csv"][0]["run"] == "folds/small/cnn-2009/3/2"
    assert rows["runs.csv"][0]["settings"]["first_section"] == 4
    test = {one["section"] for one in rows["scores.csv.gz"] if one["part"] == "test"}
    assert test == {2, 3}  # 4 and 5 of the turned stack
    assert configurations.fold_runs(["small", "synthetic"], ["unet-both"]) == [
        ("small", "unet-both", 0),
        ("small", "unet-both", 1),
        ("small", "unet-both", 2),
    ]


def test_folds_of_another_length_are_kept_apart(kept, monkeypatch, capsys):
    monkeypatch.setitem(configurations.FOLDS, "small", configurations.Folds(3))
    asked = ["--folds", "--only", "small", "--methods", "unet-both", "--seeds", "0"]
    experiments.main([*asked, "--steps", "2"])
    experiments.main(asked)
    assert read_table("runs.csv", kept)["run"].tolist() == [
        "folds/small/unet-both/2/0",
        "folds/small/unet-both/3/0",
    ]
    for wrong, message in (
        (["--only", "small", "--steps", "2"], "only with --trials or --folds"),
        (["--quick"], "say on which volumes"),
        (["--only", "small", "--folds", "--trials"], "not allowed with"),
    ):
        with pytest.raises(SystemExit):
            experiments.main(wrong)
        assert message in capsys.readouterr().err


def test_pictures_show_every_network_that_is_at_hand(small_world, monkeypatch):
    work = small_world / "work"
    monkeypatch.setattr(gallery, "WORK", work)
    monkeypatch.setattr(gallery, "GALLERY", small_world / "gallery")
    monkeypatch.setattr(gallery, "MODELS", small_world / "models")
    monkeypatch.setitem(gallery.TITLES, "small", "Small")
    assert gallery.draw_volume("small") is None
    for method in ("unet-cross-entropy", "unet-both"):
        experiments.run("small", method, seed=0, work=work)
    path = gallery.draw_volume("small")
    card = json.loads(path.read_text())
    assert (card["section"], list(card["networks"])) == (5, ["unet-cross-entropy", "unet-both"])
    for method, network in card["networks"].items():
        scores = load_model(work / f"small_{method}_0.model").card["scores"]
        assert network["threshold"] == scores["agglomeration"]["threshold"]
    kinds = ("", "_errors", "_affinities")
    names = {method + kind for method in card["networks"] for kind in kinds}
    assert {one.stem for one in path.parent.glob("*.png")} == {"raw", "truth", *names}


def test_a_network_ships_with_its_card(kept, small_world, monkeypatch):
    monkeypatch.setattr(experiments, "MODELS", small_world / "models")
    experiments.run("small", "cnn-2009", seed=0, work=small_world / "work")
    experiments.main(["--ship", "small_cnn-2009_0"])
    shipped = load_model(small_world / "models" / "small.model")
    assert json.loads((small_world / "models" / "small.json").read_text()) == shipped.card
    assert shipped.card["method"] == "cnn-2009"
