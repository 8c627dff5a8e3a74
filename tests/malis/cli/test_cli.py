import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import malis
from cremi_eval import Volume, grid
from cremi_eval.command import score_files
from cremi_eval.io import CremiFile
from malis.cli import main, one_line
from malis.cli.files import open_part
from malis.inference import predict
from malis.inference.neighbours import stack_neighbours
from malis.inference.views import predict_views
from malis.segmentation import hierarchy_of
from malis.training.checkpoint import CHECKPOINT, load_model, save_model, write
from unet import UNet

ROOT = Path(__file__).parents[3]
RESOLUTION, OFFSET = (40.0, 4.0, 4.0), (80.0, 0.0, 400.0)
THRESHOLD = 0.625
ARGUMENTS = {"depth": 2, "wf": 2, "padding": True}


def cells(shape=(3, 40, 48)):
    """Square cells with dark membranes between them."""
    _, y, x = np.indices(shape)
    labels = ((y // 12) * 10 + x // 12 + 1).astype(np.uint64)
    raw = np.where((y % 12 == 0) | (x % 12 == 0), 30, 200).astype(np.uint8)
    return raw, labels


def write_volume(path, raw=None, labels=None, resolution=RESOLUTION):
    with CremiFile(path, "w") as file:
        if raw is not None:
            file.write_raw(Volume(raw, resolution, OFFSET))
        if labels is not None:
            file.write_neuron_ids(Volume(labels, resolution, OFFSET))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a volume and a network."""
    monkeypatch.chdir(tmp_path)
    write_volume(Path("sample.hdf"), *cells())
    torch.manual_seed(0)
    card = {"scores": {"agglomeration": {"threshold": THRESHOLD}}}
    network = UNet(**ARGUMENTS)
    save_model("net.model", network, ARGUMENTS, malis.nearest_offsets(2), card, half=False)
    return tmp_path


@pytest.fixture
def affinities(folder):
    """What the network predicts, by the function that the notebooks call."""
    return predict(load_model("net.model").network, cells()[0], progress=False)


def means_of_views():
    network, offsets = load_model("net.model").network, malis.nearest_offsets(2)
    return predict_views(network, cells()[0], offsets, progress=False)


def assert_same_objects(one, other):
    """The same partition of the voxels, by whatever numbers."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def read_ids(path):
    with CremiFile(path, "r") as file:
        return file.read_neuron_ids().load()


class TestExitCodes:
    @pytest.mark.parametrize("command", ["train", "predict", "segment", "evaluate", "view"])
    def test_help_teaches(self, command, capsys):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        text = capsys.readouterr().out
        assert stopped.value.code == 0
        assert f"python -m malis {command} " in text.partition("example")[2]

    def test_a_command_written_wrongly(self, capsys):
        for arguments in ([], ["fly"], ["segment", "a.hdf"], ["predict", "a", "b"],
                          ["evaluate", "a", "b", "--border", "wide"],
                          ["train", "a", "b", "--set", "steps"]):  # fmt: skip
            with pytest.raises(SystemExit) as stopped:
                main(arguments)
            assert stopped.value.code == 2
            assert "usage: python -m malis" in capsys.readouterr().err

    def test_the_program_itself(self, folder):
        def run(*arguments):
            command = [sys.executable, "-m", "malis", *arguments]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            return subprocess.run(command, capture_output=True, text=True, env=environment)

        bad = run("segment", "none.hdf", "out.hdf", "--checkpoint", "net.model")
        assert (bad.returncode, bad.stdout) == (1, "")
        assert bad.stderr == "malis segment: none.hdf does not exist\n"
        good = run("segment", "sample.hdf", "out.hdf", "--checkpoint", "net.model")
        assert good.returncode == 0
        assert good.stdout.startswith("out.hdf: ") and "predict: 100%" in good.stderr

    def test_traceback_on_demand(self, folder):
        with pytest.raises(FileNotFoundError):
            main(["evaluate", "none.hdf", "sample.hdf", "--traceback"])

    def test_an_interruption(self, folder, monkeypatch, capsys):
        def interrupted(*arguments, **settings):
            raise KeyboardInterrupt

        monkeypatch.setattr("malis.cli.segment.predicted", interrupted)
        assert main(["segment", "sample.hdf", "out.hdf", "--checkpoint", "net.model"]) == 130
        assert capsys.readouterr().err == "malis segment: interrupted\n"
        assert not Path("out.hdf").exists()

    def test_messages_are_one_line(self):
        error = OSError("first\n  second")
        error.add_note("while it was read")
        assert one_line(error) == "first second; while it was read"
        assert one_line(KeyError("name")) == "name is missing"
        assert one_line(RuntimeError("out of memory")) == "RuntimeError: out of memory"
        assert one_line(ValueError()) == "ValueError:"


class TestPredict:
    def test_is_the_library_s(self, folder, affinities, capsys):
        assert main(["predict", "sample.hdf", "out.hdf", "--checkpoint", "net.model"]) == 0
        assert capsys.readouterr().out == "out.hdf: affinities of sample.hdf/volumes/raw\n"
        with h5py.File("out.hdf") as file:
            found = file["affinities"]
            np.testing.assert_array_equal(found, affinities)
            assert found.dtype == np.float32
            assert tuple(found.attrs["resolution"]) == RESOLUTION
            assert tuple(found.attrs["offset"]) == OFFSET
            np.testing.assert_array_equal(found.attrs["offsets"], [[0, -1, 0], [0, 0, -1]])

    @pytest.mark.parametrize("tile", ["32", "32 36"])
    def test_tiles(self, folder, affinities, tile):
        command = f"predict sample.hdf out.h5 --checkpoint net.model --quiet --tile {tile}"
        assert main(command.split()) == 0
        np.testing.assert_allclose(open_part("out.h5", "affinities")[:], affinities, atol=1e-5)

    def test_views(self, folder, affinities):
        command = ["predict", "sample.hdf", "out.h5", "--checkpoint", "net.model", "--quiet"]
        assert main([*command, "--views"]) == 0
        found = open_part("out.h5", "affinities")[:]
        np.testing.assert_array_equal(found, means_of_views())
        assert np.abs(found - affinities)[:, :, 1:, 1:].max() > 1e-3

    def test_blocks(self, folder, affinities):
        pytest.importorskip("dask", reason="needs the extra scale")
        command = ["predict", "sample.hdf", "out.zarr", "--checkpoint", "net.model", "--quiet"]
        assert main([*command, "--block", "2", "24", "24", "--workers", "0"]) == 0
        found = open_part("out.zarr", "affinities")
        np.testing.assert_allclose(found[:], affinities, atol=1e-5)
        assert (found.resolution, found.offset) == (RESOLUTION, OFFSET)


class TestSegment:
    def expected(self, affinities, threshold, **settings):
        offsets = [(0, -1, 0), (0, 0, -1)]
        settings |= {"threshold": threshold, "sampling": RESOLUTION}
        return malis.segment(affinities, offsets, **settings)

    def test_is_the_library_s(self, folder, affinities, capsys):
        assert main(["segment", "sample.hdf", "out.hdf", "--checkpoint", "net.model"]) == 0
        labels, expected = read_ids("out.hdf"), self.expected(affinities, THRESHOLD)
        np.testing.assert_array_equal(labels.data, expected)
        assert tuple(labels.resolution) == RESOLUTION and tuple(labels.offset) == OFFSET
        n_objects = len(np.unique(expected[expected > 0]))
        said = f"out.hdf: {n_objects} objects in sample.hdf/volumes/raw, threshold 0.625\n"
        assert capsys.readouterr().out == said

    def test_threshold_and_smallest_size(self, folder, affinities):
        command = ["segment", "sample.hdf", "out.hdf", "--checkpoint", "net.model", "--quiet"]
        assert main([*command, "--threshold", "0.3", "--min-size", "20"]) == 0
        np.testing.assert_array_equal(
            read_ids("out.hdf").data, self.expected(affinities, 0.3, min_size=20)
        )

    def test_small_regions_join_others(self, folder, affinities):
        command = ["segment", "sample.hdf", "out.hdf", "--checkpoint", "net.model", "--quiet"]
        assert main([*command, "--absorb", "20"]) == 0
        expected = self.expected(affinities, THRESHOLD, absorb=20)
        np.testing.assert_array_equal(read_ids("out.hdf").data, expected)
        assert (expected != self.expected(affinities, THRESHOLD)).any()

    def test_the_card_says_what_is_small_but_not_in_sections_on_their_own(self, folder, affinities):
        model = load_model("net.model")
        card = {"scores": {"agglomeration": {"threshold": THRESHOLD, "absorb": 20}}}
        save_model("some.model", model.network, ARGUMENTS, model.offsets, card, half=False)
        command = ["segment", "sample.hdf", "out.hdf", "--checkpoint", "some.model", "--quiet"]
        assert main(command) == 0
        expected = self.expected(affinities, THRESHOLD, absorb=20)
        np.testing.assert_array_equal(read_ids("out.hdf").data, expected)
        apart = self.expected(affinities, THRESHOLD, sections=True)
        assert main([*command, "--sections", "--overwrite"]) == 0
        np.testing.assert_array_equal(read_ids("out.hdf").data, apart)
        pytest.importorskip("dask", reason="needs the extra scale")
        command[2] = "out.zarr"
        assert main([*command, "--sections", "--workers", "0"]) == 0
        blocks = open_part("out.zarr", "labels")[:]
        assert (np.bincount(blocks.ravel().astype(int))[1:] < 20).any()  # nothing was absorbed

    def test_sections_that_nothing_links(self, folder, affinities):
        command = "segment sample.hdf out.hdf --checkpoint net.model --quiet --sections"
        assert main(command.split()) == 0
        labels = read_ids("out.hdf").data[:]
        np.testing.assert_array_equal(labels, self.expected(affinities, THRESHOLD, sections=True))
        for above, below in itertools.pairwise(labels):
            assert not np.intersect1d(above[above > 0], below).size
        pytest.importorskip("dask", reason="needs requirements-scale.txt")
        blocks = "segment sample.hdf out.zarr --checkpoint net.model --workers 0 --quiet --sections"
        assert main(blocks.split()) == 0
        assert_same_objects(labels, open_part("out.zarr", "labels")[:])

    @pytest.mark.parametrize("resolution", [(40.0, 4.0, 4.0), (4.0, 4.0, 4.0)])
    def test_a_network_for_sections_with_affinities_across_them(self, folder, resolution):
        """Fragments of thick sections, merged in 3D; of voxels with equal sides, in 3D as well."""
        torch.manual_seed(1)
        arguments = ARGUMENTS | {"in_channels": 3, "n_classes": 3}
        network, offsets = UNet(**arguments), malis.nearest_offsets(3)
        raw = cells((4, 40, 48))[0]
        affinities = predict(network, stack_neighbours(raw, 1), progress=False)
        hierarchy = hierarchy_of(affinities, offsets, sampling=resolution, inside=0.5)
        settings = {"threshold": float(np.median(hierarchy.scores)), "inside": 0.5}
        card = {"scores": {"agglomeration": settings}}
        save_model("slab.model", network, arguments, offsets, card, half=False)
        volume = write_volume(Path("volume.hdf"), raw, resolution=resolution)
        command = ["--checkpoint", "slab.model", "--quiet"]
        assert main(["segment", str(volume), "out.hdf", *command]) == 0
        expected = malis.segment(affinities, offsets, sampling=resolution, **settings)
        np.testing.assert_array_equal(read_ids("out.hdf").data, expected)
        assert len(np.intersect1d(expected[0], expected[-1])) > 1
        apart = malis.segment(affinities, offsets, per_section=True, **settings)
        assert np.array_equal(expected, apart) == (resolution[0] > resolution[1])
        pytest.importorskip("dask", reason="needs requirements-scale.txt")
        blocks = ["--block", "2", "40", "48", "--workers", "0"]
        assert main(["segment", str(volume), "out.zarr", *command, *blocks]) == 0
        assert_same_objects(expected, open_part("out.zarr", "labels")[:])

    def test_views(self, folder):
        command = "segment sample.hdf out.hdf --checkpoint net.model --quiet --views"
        assert main(command.split()) == 0
        expected = self.expected(means_of_views(), THRESHOLD)
        np.testing.assert_array_equal(read_ids("out.hdf").data, expected)

    def test_from_affinities(self, folder, affinities):
        main(["predict", "sample.hdf", "affinities.hdf", "--checkpoint", "net.model", "--quiet"])
        assert main(["segment", "affinities.hdf", "out.hdf", "--threshold", "0.4"]) == 0
        np.testing.assert_array_equal(read_ids("out.hdf").data, self.expected(affinities, 0.4))

    def test_affinities_of_bytes(self, folder, affinities):
        grey = np.round(affinities * 255).astype(np.uint8)
        with h5py.File("bytes.hdf", "w") as file:
            file["affinities"] = grey
            attributes = {"resolution": RESOLUTION, "offsets": [(0, -1, 0), (0, 0, -1)]}
            file["affinities"].attrs.update(attributes)
        assert main(["segment", "bytes.hdf", "out.hdf", "--threshold", "0.4"]) == 0
        expected = self.expected(grey / np.float32(255), 0.4)
        np.testing.assert_array_equal(read_ids("out.hdf").data, expected)

    def test_block_by_block(self, folder, capsys):
        pytest.importorskip("dask", reason="needs the extra scale")
        rest = ["--checkpoint", "net.model", "--quiet"]
        main(["segment", "sample.hdf", "out.hdf", *rest])
        blocks = [*rest, "--block", "3", "24", "24", "--workers", "0"]
        assert main(["segment", "sample.hdf", "out.zarr", *blocks]) == 0
        said = "out.zarr: labels of sample.hdf/volumes/raw, threshold 0.625\n"
        assert capsys.readouterr().out.endswith(said)
        assert main(["evaluate", "out.zarr", "out.hdf", "--json", "scores.json"]) == 0
        assert json.loads(Path("scores.json").read_text())["whole_volume"]["voi_sum"] < 0.01
        # and from Zarr, affinities included
        from_zarr = ["segment", "out.zarr", "again.zarr", "--threshold", str(THRESHOLD)]
        assert main([*from_zarr, "--block", "3", "24", "24", "--workers", "0", "--quiet"]) == 0
        labels = [open_part(name, "labels")[:] for name in ("out.zarr", "again.zarr")]
        np.testing.assert_array_equal(*labels)

    def test_two_workers(self, folder):
        pytest.importorskip("dask", reason="needs the extra scale")
        command = ["segment", "sample.hdf", "out.zarr", "--checkpoint", "net.model", "--quiet"]
        limits = ["--workers", "2", "--memory-per-worker", "4GB"]
        assert main([*command, "--block", "3", "24", "24", *limits]) == 0
        assert open_part("out.zarr", "labels")[:].max() > 0


class TestEvaluate:
    @pytest.fixture
    def pair(self, folder):
        labels = cells()[1]
        merged = np.where(labels == 2, 1, labels)
        merged[1:, :6] += 100
        write_volume(Path("found.hdf"), labels=merged)
        return ["found.hdf", "sample.hdf"]

    def test_numbers_are_cremi_eval_s(self, pair, capsys):
        expected = score_files(*pair, per_section=True)["neuron_ids"]
        assert main(["evaluate", *pair, "--per-section", "--json", "scores.json"]) == 0
        whole = expected["whole_volume"]
        text = capsys.readouterr().out
        rows = [line.rsplit(maxsplit=1) for line in text.splitlines() if line[:1] == " "]
        assert [name.strip() for name, _ in rows[:5]] == [
            "VOI split", "VOI merge", "VOI sum", "adapted Rand error", "CREMI score"
        ]  # fmt: skip
        keys = ["voi_split", "voi_merge", "voi_sum", "adapted_rand_error", "cremi_score"]
        assert min(whole[key] for key in keys) > 0.01
        np.testing.assert_allclose(
            [float(value) for _, value in rows],
            [expected[part][key] for part in ("whole_volume", "mean_of_sections") for key in keys],
            atol=1e-4,
        )
        stored = json.loads(Path("scores.json").read_text())
        assert stored["whole_volume"] == whole
        assert stored["sections"] == expected["sections"]
        assert stored["truth"] == "sample.hdf/volumes/labels/neuron_ids"

    def test_border_and_ignored_ids(self, pair):
        command = ["evaluate", *pair, "--json", "scores.json", "--overwrite"]
        main([*command, "--border", "8"])
        assert (
            json.loads(Path("scores.json").read_text())["whole_volume"]
            == (score_files(*pair, border_threshold=8)["neuron_ids"]["whole_volume"])
        )
        main([*command, "--ignore", "1", "2"])
        scores = json.loads(Path("scores.json").read_text())
        assert scores["ignored_ids"] == [2**64 - 1, 1, 2]
        assert scores["whole_volume"]["voi_merge"] == 0

    def test_datasets_by_name(self, pair):
        with h5py.File("sample.hdf", "a") as file:
            file.copy("volumes/labels/neuron_ids", "volumes/labels/other")
            file["volumes/labels/other"][:] = 1
        main(["evaluate", "sample.hdf::volumes/labels/other", *pair[1:], "--json", "s.json"])
        scores = json.loads(Path("s.json").read_text())["whole_volume"]
        assert scores["voi_split"] == 0 and scores["voi_merge"] > 1

    def stored(self, path, labels, offset=None):
        with h5py.File(path, "w") as file:
            file["volumes/labels/neuron_ids"] = labels
            attributes = {"resolution": RESOLUTION} | ({} if offset is None else {"offset": offset})
            file["volumes/labels/neuron_ids"].attrs.update(attributes)

    def test_a_segmentation_of_a_part(self, pair, capsys):
        labels = cells()[1]
        box, place = np.s_[1:3, 8:40, 4:30], np.add(OFFSET, np.multiply((1, 8, 4), RESOLUTION))
        self.stored("truth.hdf", labels[box], place)
        found = np.where(labels == 2, 1, labels)
        self.stored("found.hdf", found[box], place)
        assert main(["evaluate", "found.hdf", "truth.hdf", "--json", "alone.json"]) == 0
        capsys.readouterr()
        command = ["evaluate", "found.hdf", "sample.hdf", "--per-section", "--json", "part.json"]
        assert main(command) == 0
        said = capsys.readouterr().err
        assert said == (
            "found.hdf/volumes/labels/neuron_ids covers [1:3, 8:40, 4:30] of "
            "sample.hdf/volumes/labels/neuron_ids\n"
        )
        alone, part = (json.loads(Path(f"{name}.json").read_text()) for name in ("alone", "part"))
        assert part["whole_volume"] == alone["whole_volume"]
        assert part["whole_volume"]["voi_merge"] > 0 and len(part["sections"]) == 2

    def test_a_part_without_offset_lies_at_zero(self, pair, capsys):
        labels = cells()[1]
        self.stored("whole.hdf", labels)
        self.stored("part.hdf", labels[:2])
        assert main(["evaluate", "part.hdf", "whole.hdf", "--json", "s.json"]) == 0
        assert "names no offset: it is taken to lie at 0" in capsys.readouterr().err
        assert json.loads(Path("s.json").read_text())["whole_volume"]["voi_sum"] == 0
        assert main(["evaluate", "part.hdf", "sample.hdf"]) == 1  # whose offset is another
        assert "does not cover part.hdf/volumes/labels/neuron_ids" in capsys.readouterr().err

    def test_offsets_that_contradict_each_other(self, pair, capsys):
        labels = cells()[1]
        self.stored("there.hdf", labels, (80.0, 0.0, 4000.0))
        self.stored("nowhere.hdf", labels)
        for name, words in (("there.hdf", "(80.0, 0.0, 4000.0) nm, but the"), ("nowhere.hdf", "")):
            grid._warn_once.cache_clear()
            assert main(["evaluate", name, "sample.hdf", "--per-section"]) == 0
            errors = capsys.readouterr().err
            assert words in errors and errors.count("\n") <= 1 and bool(errors) == bool(words)

    def test_a_resolution_that_no_file_names(self, folder):
        for name in ("a.hdf", "b.hdf"):
            with h5py.File(name, "w") as file:
                file["labels"] = cells()[1]
        assert main(["evaluate", "a.hdf", "b.hdf"]) == 1
        assert main(["evaluate", "a.hdf", "b.hdf", "--resolution", "40", "4", "4"]) == 0


class TestOtherGreyValues:
    """What segment makes of a picture does not depend on how its grey values were written."""

    KINDS = {  # noqa: RUF012
        "12 bits": (lambda raw: raw.astype(np.uint16) * 16, "0 4080"),
        "unit": (lambda raw: raw / np.float32(255), "0 1"),
        "floats": (lambda raw: raw.astype(np.float32), "0 255"),
    }

    @staticmethod
    def write(raw):
        with h5py.File("other.hdf", "w") as file:
            file["raw"] = raw

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_range_makes_them_the_same(self, folder, capsys, kind):
        convert, limits = self.KINDS[kind]
        self.write(convert(cells()[0]))
        command = "other.hdf out.hdf --checkpoint net.model --resolution 40 4 4 --quiet"
        for name in ("predict", "segment"):
            assert main([name, *command.split()]) == 1
            message = capsys.readouterr().err
            assert "say which values are black and white (--range LOW HIGH)" in message
            assert not Path("out.hdf").exists()
        assert main(["predict", *command.split(), "--range", *limits.split()]) == 0
        main(["predict", "sample.hdf", "same.hdf", "--checkpoint", "net.model", "--quiet"])
        for name in ("out.hdf", "same.hdf"):
            assert open_part(name, "affinities").resolution == RESOLUTION
        np.testing.assert_array_equal(
            open_part("out.hdf", "affinities")[:], open_part("same.hdf", "affinities")[:]
        )

    @pytest.mark.parametrize("trained", [[0, 4080], ["0%", "100%"]])
    def test_the_range_of_the_training_is_taken(self, folder, capsys, trained):
        model = load_model("net.model")
        card = {**model.card, "grey_range": trained}
        save_model("ranged.model", model.network, ARGUMENTS, model.offsets, card, half=False)
        raw = cells()[0]
        raw[0, 0, :2] = 0, 255
        self.write(raw.astype(np.uint16) * 16)
        write_volume(Path("bytes.hdf"), raw)
        options = "--resolution 40 4 4 --quiet --checkpoint"
        for source, model in (("other", "ranged"), ("bytes", "net"), ("bytes", "ranged")):
            command = f"predict {source}.hdf {source}-{model}.hdf {options} {model}.model"
            assert main(command.split()) == 0, capsys.readouterr().err
        expected = open_part("bytes-net.hdf", "affinities")[:]
        for name in ("other-ranged.hdf", "bytes-ranged.hdf"):
            np.testing.assert_array_equal(open_part(name, "affinities")[:], expected)

    def test_blocks_take_the_range_too_and_note_it(self, folder, capsys):
        zarr = pytest.importorskip("zarr")
        self.write(cells()[0].astype(np.uint16) * 16)
        command = "segment other.hdf out.zarr --checkpoint net.model --resolution 40 4 4 --quiet"
        command += " --block 3 40 48"
        assert main(command.split()) == 1
        assert "--range LOW HIGH" in capsys.readouterr().err
        assert not Path("out.zarr").exists()
        assert main([*command.split(), "--range", "0", "4080"]) == 0
        main(["predict", "sample.hdf", "same.hdf", "--checkpoint", "net.model", "--quiet"])
        np.testing.assert_allclose(
            open_part("out.zarr", "affinities")[:],
            open_part("same.hdf", "affinities")[:],
            atol=1e-5,
        )
        settings = zarr.open_group("out.zarr/progress").attrs["settings"]
        assert settings["source"][5] == [0, 4080]


class TestBadInput:
    """One clear line each, exit code 1, and no file that was not there."""

    def refused(self, capsys, command, words):
        before = {path: path.stat().st_mtime_ns for path in Path().iterdir()}
        assert main(command.split()) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        assert captured.err.startswith(f"malis {command.split()[0]}: ")
        assert words in captured.err, captured.err
        assert {path: path.stat().st_mtime_ns for path in Path().iterdir()} == before

    @pytest.fixture(autouse=True)
    def files(self, folder):
        raw, labels = cells()
        write_volume(Path("small.hdf"), raw[:, :24], labels[:, :24])
        write_volume(Path("coarse.hdf"), raw, labels, (40.0, 8.0, 8.0))
        write_volume(Path("raw.hdf"), raw)
        with h5py.File("in.hdf", "w") as file:
            file["affinities"] = np.full((2, *raw.shape), 0.5, np.float32)
            file["affinities"].attrs["resolution"] = RESOLUTION
        write_volume(Path("ignored.hdf"), labels=np.full_like(labels, 2**64 - 1))
        Path("text.hdf").write_text("no volume")
        Path("cut.hdf").write_bytes(Path("sample.hdf").read_bytes()[:3000])
        Path("empty").mkdir()
        Path("cut.model").write_bytes(Path("net.model").read_bytes()[:500])
        write("training.checkpoint", {"kind": CHECKPOINT, "model": None})
        solid = {"depth": 2, "wf": 1, "ndim": 3, "n_classes": 3}
        save_model("solid.model", UNet(**solid), solid, malis.nearest_offsets(3))
        content = torch.load("net.model", weights_only=True)
        write("other.model", content | {"network": "Transformer"})
        write("wider.model", content | {"arguments": ARGUMENTS | {"wf": 3}})

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("segment none.hdf out.hdf --checkpoint net.model", "none.hdf does not exist"),
            ("segment text.hdf out.hdf --checkpoint net.model", "text.hdf is no volume"),
            ("segment cut.hdf out.hdf --checkpoint net.model", "cut.hdf is damaged or truncated"),
            ("segment sample.hdf::volumes/x out.hdf --checkpoint net.model", "'volumes/x'"),
            ("predict ignored.hdf out.hdf --checkpoint net.model", "ignored.hdf holds no raw"),
            ("segment sample.hdf out.hdf", "without --checkpoint, IN must hold affinities"),
            ("segment sample.hdf out.hdf --checkpoint none.model", "none.model does not exist"),
            ("segment sample.hdf out.hdf --checkpoint cut.model", "cut.model is damaged"),
            (
                "segment sample.hdf out.hdf --checkpoint training.checkpoint",
                "does not say how its network",
            ),
            ("segment sample.hdf out.hdf --checkpoint other.model", "holds a Transformer, known"),
            ("segment sample.hdf out.hdf --checkpoint wider.model", "shape"),
            ("segment sample.hdf out.hdf --checkpoint solid.model --tile 4 4 4", "tile (4, 4, 4)"),
            ("segment sample.hdf net.model --checkpoint net.model", "net.model should end in"),
            ("segment sample.hdf raw.hdf --checkpoint net.model", "raw.hdf exists; --overwrite"),
            ("predict sample.hdf raw.hdf --checkpoint net.model", "raw.hdf exists; --overwrite"),
            ("predict sample.hdf no/out.hdf --checkpoint net.model", "its folder does not exist"),
            ("predict sample.hdf out.hdf --checkpoint net.model --block 8 8 8", "end in .zarr"),
            ("predict sample.hdf out.hdf --checkpoint net.model --workers 1", "--workers is for"),
            ("segment in.hdf out.hdf --scheduler tcp://host:1", "--scheduler is for blocks"),
            ("segment in.hdf out.hdf --memory-per-worker 1GB", "--memory-per-worker is for blocks"),
            ("segment in.hdf out.hdf --views", "--views is for the network, but there is no --ch"),
            ("segment in.hdf out.zarr --tile 32", "--tile is for the network"),
            ("segment in.hdf out.hdf --device cpu", "--device is for the network"),
            ("segment sample.hdf out.hdf --checkpoint net.model --threshold 2", "in [0, 1], got 2"),
            ("evaluate sample.hdf small.hdf", "(3, 40, 48), but the ground truth has shape (3, 24"),
            ("evaluate sample.hdf coarse.hdf", "but the ground truth has resolution (40.0, 8.0"),
            ("evaluate raw.hdf sample.hdf", "raw.hdf holds no labels"),
            ("evaluate sample.hdf ignored.hdf", "every voxel of ignored.hdf"),
            ("evaluate sample.hdf sample.hdf --json raw.hdf", "raw.hdf exists; --overwrite"),
            ("segment sample.hdf sample.hdf --checkpoint net.model --overwrite", "is an input"),
            ("predict sample.hdf ./sample.hdf --checkpoint net.model --overwrite", "is an input"),
            ("evaluate small.hdf sample.hdf --json sample.hdf --overwrite", "is an input"),
            ("evaluate sample.hdf sample.hdf --border -1", "must be at least 0"),
            ("view sample.hdf raw.hdf", "raw.hdf holds no labels"),
        ],
    )
    def test_is_refused(self, capsys, command, words):
        self.refused(capsys, command, words)

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("segment empty out.zarr --checkpoint net.model", "empty"),
            ("segment sample.hdf out.zarr --checkpoint net.model --block 3 4 4", "field of view"),
            ("segment sample.hdf empty.zarr --checkpoint none.model", "none.model does not exist"),
            ("segment sample.hdf out.zarr --checkpoint net.model --min-size 3", "--min-size is"),
            ("predict sample.hdf out.zarr --checkpoint net.model --views", "--views is not for"),
            ("segment in.zarr in.zarr --threshold 0.5 --overwrite", "in.zarr holds the source"),
            ("segment in.zarr::affinities in.zarr --threshold 0.5 --overwrite", "holds the source"),
            ("segment sample.hdf out.zarr --checkpoint net.model --views", "--views is not for"),
            ("view sample.hdf small.hdf", "has shape (3, 40, 48), but small.hdf"),
            ("view sample.hdf sample.hdf coarse.hdf", "but coarse.hdf"),
            ("view sample.hdf sample.hdf --affinities raw.hdf", "raw.hdf holds no affinities"),
        ],
    )
    def test_is_refused_at_scale(self, capsys, command, words):
        pytest.importorskip("dask", reason="needs the extra scale")
        pytest.importorskip("neuroglancer", reason="needs the extra scale")
        if "in.zarr" in command:
            predict_zarr = "predict sample.hdf in.zarr --checkpoint net.model --workers 0 --quiet"
            assert main(predict_zarr.split()) == 0
            capsys.readouterr()
        self.refused(capsys, command, words)

    def test_a_finished_zarr(self, capsys):
        pytest.importorskip("dask", reason="needs the extra scale")
        command = "segment sample.hdf out.zarr --checkpoint net.model --workers 0 --quiet"
        assert main(command.split()) == 0
        capsys.readouterr()
        self.refused(capsys, command, "out.zarr is complete already; overwrite")
        assert main([*command.split(), "--overwrite"]) == 0

    def test_an_output_is_replaced_on_demand_only_when_complete(self, capsys, monkeypatch):
        command = "segment sample.hdf small.hdf --checkpoint net.model --overwrite --quiet"
        before = Path("small.hdf").read_bytes()
        self.refused(capsys, command.replace("net.model", "cut.model"), "damaged")
        assert Path("small.hdf").read_bytes() == before
        assert main(command.split()) == 0
        assert read_ids("small.hdf").data.shape == (3, 40, 48)


def test_view_prints_the_link_and_serves_until_interrupted(folder, monkeypatch, capsys):
    neuroglancer = pytest.importorskip("neuroglancer", reason="needs the extra scale")
    opened = []

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("malis.cli.view.time.sleep", interrupted)
    monkeypatch.setattr("malis.cli.view.webbrowser.open", opened.append)
    assert main(["view", "sample.hdf", "sample.hdf", "sample.hdf"]) == 0
    link = capsys.readouterr().out.splitlines()[0]
    assert link.startswith("http://127.0.0.1:") and opened == [link]
    assert main(["view", "sample.hdf", "sample.hdf", "--no-browser"]) == 0
    assert len(opened) == 1
    neuroglancer.stop()
