from dataclasses import replace

import numpy as np
import pytest
from skimage.measure import label as connected_components

from cremi_eval import CremiFile
from data.synthetic import make_sample, sample_path, write_sample
from data.synthetic.__main__ import main
from data.synthetic.drawing import boundary_distance
from data.synthetic.picture import BORDER, panels
from data.synthetic.sample import NO_CLEFT

RESOLUTION = (40.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def sample():
    return make_sample((5, 256, 320), seed=3)


def sites(annotations):
    """Voxels of every annotation by id."""
    return {
        number: tuple(round(x / r) for x, r in zip(place, RESOLUTION, strict=True))
        for number, place in zip(annotations.ids(), annotations.locations(), strict=True)
    }


def test_shape_and_types_are_those_of_a_cremi_sample(sample):
    assert sample.raw.shape == sample.neuron_ids.shape == sample.clefts.shape == (5, 256, 320)
    assert sample.raw.dtype == np.uint8
    assert sample.neuron_ids.dtype == sample.clefts.dtype == np.uint64
    assert sample.resolution == RESOLUTION


def test_every_voxel_is_labelled_and_every_id_is_one_piece(sample):
    ids = np.unique(sample.neuron_ids)
    assert ids[0] == 1
    assert len(ids) == ids[-1] > 20
    pieces = connected_components(sample.neuron_ids.astype(np.int64), connectivity=1)
    assert pieces.max() == len(ids)


def test_the_same_seed_gives_the_same_sample_and_another_one_does_not():
    first, again, other = (make_sample((2, 96, 96), seed=s) for s in (5, 5, 6))
    assert np.array_equal(first.raw, again.raw)
    assert np.array_equal(first.neuron_ids, again.neuron_ids)
    assert np.array_equal(first.clefts, again.clefts)
    assert first.annotations.pre_post_partners == again.annotations.pre_post_partners
    assert not np.array_equal(first.raw, other.raw)


def test_neurites_are_of_very_different_calibre(sample):
    areas = np.concatenate(
        [np.bincount(section.ravel().astype(int)) for section in sample.neuron_ids]
    )
    areas = areas[areas > 0]
    assert areas.max() > 5 * np.median(areas) > 15 * np.percentile(areas, 5)
    profiles = connected_components(sample.neuron_ids[0].astype(np.int64), connectivity=1)
    assert np.bincount(profiles.ravel())[1:].min() >= 1500 / 16


def test_neurites_run_on_through_the_sections(sample):
    same = sample.neuron_ids[1:] == sample.neuron_ids[:-1]
    assert 0.6 < same.mean() < 0.98


def test_membranes_are_dark_lines_between_neurites(sample):
    intact = [z for z in range(5) if z not in sample.damaged]
    distance = np.stack([boundary_distance(sample.neuron_ids[z], 4.0) for z in intact])
    raw = sample.raw[intact]
    assert raw[distance < 6].mean() < raw[(distance > 40)].mean() - 30


def test_gray_values_are_those_of_cremi(sample):
    # Percentiles of real sample B are 86, 139 and 170.
    low, middle, high = np.percentile(sample.raw, (5, 50, 95))
    assert 70 < low < 105
    assert 120 < middle < 155
    assert 155 < high < 190


def test_partners_lie_in_two_neurons_across_a_cleft(sample):
    place, kinds = (
        sites(sample.annotations),
        dict(zip(sample.annotations.ids(), sample.annotations.types(), strict=True)),
    )
    assert sample.annotations.pre_post_partners
    for pre, post in sample.annotations.pre_post_partners:
        assert (kinds[pre], kinds[post]) == ("presynaptic_site", "postsynaptic_site")
        assert sample.neuron_ids[place[pre]] != sample.neuron_ids[place[post]]
        z, y, x = place[pre]
        near = sample.clefts[z, max(0, y - 20) : y + 21, max(0, x - 20) : x + 21]
        assert np.any(near != NO_CLEFT)
        apart = np.subtract(place[pre], place[post]) * RESOLUTION
        assert np.linalg.norm(apart) < 250
    assert {i for pair in sample.annotations.pre_post_partners for i in pair} == set(kinds)


def test_clefts_are_numbered_and_run_along_membranes(sample):
    clefts = np.unique(sample.clefts)
    assert clefts[-1] == NO_CLEFT == 2**64 - 1
    assert clefts[:-1].tolist() == list(range(1, len(clefts)))
    distance = np.stack([boundary_distance(section, 4.0) for section in sample.neuron_ids])
    assert distance[sample.clefts != NO_CLEFT].max() < 25


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 64, 64), (3, 8, 8), (2, 9, 200)])
def test_any_size_can_be_made(shape):
    sample = make_sample(shape, seed=0)
    assert sample.raw.shape == shape
    assert sample.neuron_ids.min() == 1


def test_isotropic_volumes_have_neurites_of_the_same_size_in_nm():
    sample = make_sample((20, 100, 100), seed=1, resolution=(8, 8, 8))
    assert (sample.neuron_ids[1:] == sample.neuron_ids[:-1]).mean() > 0.9
    assert sample.annotations.ids()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (24, 512)}, "shape must be three"),
        ({"shape": (0, 8, 8)}, "shape must be three"),
        ({"shape": (1.5, 8, 8)}, "shape must be three"),
        ({"resolution": (40, 4, 0)}, "resolution must be three positive"),
        ({"resolution": (40, 4, float("nan"))}, "resolution must be three positive"),
        ({"resolution": (40, 4, 8)}, "pixels must be square"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_sample(**arguments)


def test_file_holds_the_whole_sample(tmp_path, sample):
    path = tmp_path / "sample.hdf"
    write_sample(path, replace(sample, damaged={2: "fold"}))
    with CremiFile(path, "r") as file:
        raw, ids, clefts = file.read_raw(), file.read_neuron_ids(), file.read_clefts()
        assert np.array_equal(raw.data, sample.raw)
        assert np.array_equal(ids.data, sample.neuron_ids)
        assert np.array_equal(clefts.data, sample.clefts)
        assert tuple(raw.resolution) == tuple(ids.resolution) == RESOLUTION
        assert raw.comment == "synthetic, version 2, seed 3; damaged sections: 2 (fold)"
        annotations = file.read_annotations()
    assert sites(annotations) == sites(sample.annotations)
    assert annotations.pre_post_partners == sample.annotations.pre_post_partners


def test_file_is_replaced_only_on_request(tmp_path, sample):
    path = tmp_path / "sample.hdf"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write_sample(path, sample)
    assert path.read_text() == "mine"
    write_sample(path, sample, overwrite=True)
    assert path.read_bytes()[1:4] == b"HDF"
    assert [p.name for p in tmp_path.iterdir()] == ["sample.hdf"]


def test_sample_path_makes_the_file_once(tmp_path):
    path = sample_path(folder=tmp_path, shape=(1, 32, 32), seed=2)
    assert path == tmp_path / "synthetic.hdf"
    made = path.stat()
    assert sample_path(folder=tmp_path, shape=(1, 32, 32), seed=2).stat() == made


def test_sample_path_replaces_only_what_an_older_version_made(tmp_path):
    path = sample_path(folder=tmp_path, shape=(1, 32, 32))

    def outcome(comment):
        with CremiFile(path, "a") as file:
            file.h5file["volumes/raw"].attrs["comment"] = comment
        sample_path(folder=tmp_path, shape=(1, 32, 32))
        with CremiFile(path, "r") as file:
            return file.read_raw().comment

    current = "synthetic, version 2, seed 0; damaged sections: none"
    for outdated in ("synthetic, seed 0; damaged", "synthetic, version 1, seed 0; damaged"):
        assert outcome(outdated) == current
    for other in ("mine", "synthetic, version 2, seed 9; damaged", "synthetic, version 3, seed 0"):
        assert outcome(other) == other


def test_command_writes_a_file_and_says_what_is_in_it(tmp_path, capsys):
    path = tmp_path / "out.hdf"
    assert main([str(path), "--shape", "2", "64", "80", "--seed", "4"]) == 0
    assert "2x64x80" in capsys.readouterr().out
    with CremiFile(path, "r") as file:
        assert np.array_equal(file.read_raw().data, make_sample((2, 64, 80), seed=4).raw)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("there.hdf", [], "exists already"),
        ("no/where.hdf", [], "does not exist"),
        ("new.hdf", ["--shape", "0", "1", "1"], "shape must be"),
        ("new.hdf", ["--resolution", "40", "4", "5"], "square"),
    ],
)
def test_command_reports_errors_in_one_line(tmp_path, capsys, name, options, message):
    (tmp_path / "there.hdf").write_text("mine")
    assert main([str(tmp_path / name), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["there.hdf"]


def test_picture_shows_a_section_its_labels_and_the_next_section(sample):
    picture = panels(sample, (1, 16, 32), size=128)
    assert picture.shape == (128, 4 * 128 + 24, 3)
    assert np.array_equal(picture[:, :128, 0], sample.raw[1, 16:144, 32:160])
    assert np.array_equal(picture[:, -128:, 2], sample.raw[2, 16:144, 32:160])
    border = np.all(picture[:, 136:264] == BORDER, axis=-1)
    cleft = sample.clefts[1, 16:144, 32:160] != NO_CLEFT
    assert np.all(
        boundary_distance(sample.neuron_ids[1, 16:144, 32:160], 4.0)[border & ~cleft] <= 2
    )
    assert border.mean() > 0.03
