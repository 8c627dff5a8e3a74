import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.io import imsave

from cremi_eval import CremiFile
from data.convert import label_cells, main, read_stack
from malis.inference.grey_values import to_bytes

RAW = np.random.default_rng(0).integers(0, 256, (12, 20, 30), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 2**40, (12, 20, 30), dtype=np.uint64)


def test_isbi_mask_becomes_cells_numbered_through_the_stack():
    mask = np.zeros((2, 5, 7), np.uint8)
    mask[0, :, :3] = 255
    mask[0, :, 4:] = 255
    mask[1, 1:4, 1:6] = 255
    mask[1, 0, 0] = 255  # touches the other cell at a corner only
    labels = label_cells(mask)
    assert labels.dtype == np.uint64
    assert labels[0, 2].tolist() == [1, 1, 1, 0, 2, 2, 2]
    assert labels[1, 0].tolist() == [3, 0, 0, 0, 0, 0, 0]
    assert labels[1, 2].tolist() == [0, 4, 4, 4, 4, 4, 0]
    assert mask[0, 0, 0] == 255


def test_all_kinds_of_stacks_are_read(tmp_path):
    imsave(tmp_path / "stack.tif", RAW, check_contrast=False)
    np.save(tmp_path / "stack.npy", RAW)
    (tmp_path / "pictures").mkdir()
    for z, section in enumerate(RAW):  # iso.10.png comes after iso.9.png
        imsave(tmp_path / "pictures" / f"iso.{z}.png", section, check_contrast=False)
    (tmp_path / "pictures" / "notes.txt").touch()
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["some/stack"] = RAW
    for source in ("stack.tif", "stack.npy", "pictures", "stack.h5:some/stack"):
        assert np.array_equal(read_stack(tmp_path / source), RAW)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("options", [{}, {"photometric": "minisblack"}, {"imagej": True}])
def test_few_sections_are_no_colours(tmp_path, n, options):
    tifffile.imwrite(tmp_path / "stack.tif", RAW[:n], **options)
    np.testing.assert_array_equal(read_stack(tmp_path / "stack.tif"), RAW[:n])


@pytest.mark.parametrize("shape", [(20, 30, 3), (4, 20, 30, 3)])
def test_colours_are_no_sections(tmp_path, shape):
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros(shape, np.uint8), photometric="rgb")
    with pytest.raises(ValueError, match=r"rgb\.tif must hold gray pictures.*YXS"):
        read_stack(tmp_path / "rgb.tif")


def test_pictures_of_different_sizes_are_no_stack(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(RAW[0])
        file.write(RAW[0, :10])
    with pytest.raises(ValueError, match=r"two\.tif: the pictures are of different sizes"):
        read_stack(tmp_path / "two.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_stacks_are_read(tmp_path, dtype, compression):
    stack = (RAW[:3].astype(np.int64) * 200 % (2**15 if dtype == np.uint16 else 256)).astype(dtype)
    pages = [Image.fromarray(section) for section in stack]
    pages[0].save(
        tmp_path / "stack.tif", save_all=True, append_images=pages[1:], compression=compression
    )
    result = read_stack(tmp_path / "stack.tif")
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, stack)
    (tmp_path / "folder").mkdir()
    for z, page in enumerate(pages):
        page.save(tmp_path / "folder" / f"{z}.tif", compression=compression)
    np.testing.assert_array_equal(read_stack(tmp_path / "folder"), stack)


@pytest.mark.parametrize(
    "raw, limits",
    [
        (RAW.astype(np.uint16) * 16, ["0", "4080"]),
        (RAW / np.float32(255), ["0", "1"]),
        (RAW.astype(np.float32), ["0%", "100%"]),
    ],
)
def test_other_grey_values_need_a_range(tmp_path, capsys, raw, limits):
    np.save(tmp_path / "raw.npy", raw)
    np.save(tmp_path / "labels.npy", LABELS)
    arguments = [str(tmp_path / name) for name in ("raw.npy", "labels.npy", "out.hdf")]
    arguments += ["--resolution", "50", "4", "4"]
    if raw.max() != 255:
        assert main(arguments) == 1
        message = capsys.readouterr().err
        assert "whole numbers from 0 to 255" in message and "--range LOW HIGH" in message
    assert main([*arguments, "--range", *limits]) == 0
    with CremiFile(tmp_path / "out.hdf", "r") as file:
        np.testing.assert_array_equal(file.read_raw().data, RAW)
    assert main([*arguments, "--range", "9", "3", "--overwrite"]) == 1
    assert "must be LOW and HIGH" in capsys.readouterr().err


def test_a_range_cuts_off_what_lies_beyond(tmp_path):
    np.save(tmp_path / "raw.npy", RAW)
    np.save(tmp_path / "labels.npy", LABELS)
    arguments = [str(tmp_path / name) for name in ("raw.npy", "labels.npy", "out.hdf")]
    assert main([*arguments, "--resolution", "50", "4", "4", "--range", "100", "200"]) == 0
    with CremiFile(tmp_path / "out.hdf", "r") as file:
        np.testing.assert_array_equal(file.read_raw().data, to_bytes(RAW, (100, 200)))


def test_one_picture_is_one_section(tmp_path):
    np.save(tmp_path / "one.npy", RAW[0])
    assert read_stack(tmp_path / "one.npy").shape == (1, 20, 30)


def test_flyem_supervoxels_become_bodies(tmp_path):
    with h5py.File(tmp_path / "truth.h5", "w") as file:
        file["stack"] = np.array([[[5, 2, 9]]])
        file["transforms"] = np.array([[9, 1], [2, 7], [5, 7], [4, 4]], np.uint64)
    assert read_stack(tmp_path / "truth.h5:stack").tolist() == [[[7, 7, 1]]]
    with h5py.File(tmp_path / "truth.h5", "a") as file:
        file["stack"][...] = 3
    with pytest.raises(ValueError, match="does not name every label"):
        read_stack(tmp_path / "truth.h5:stack")


def test_command_writes_a_cremi_file(tmp_path, capsys):
    np.save(tmp_path / "raw.npy", RAW)
    np.save(tmp_path / "labels.npy", LABELS)
    output = tmp_path / "out.hdf"
    arguments = [str(tmp_path / "raw.npy"), str(tmp_path / "labels.npy"), str(output)]
    arguments += ["--resolution", "50", "4", "4"]
    assert main(arguments) == 0
    with CremiFile(output, "r") as file:
        assert np.array_equal(file.read_raw().data, RAW)
        assert np.array_equal(file.read_neuron_ids().data, LABELS)
        assert file.read_neuron_ids().resolution.tolist() == [50, 4, 4]
        assert file.read_raw().comment == "converted from raw.npy and labels.npy"
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--sections", "13"]) == 1
    assert "sections must be from 1 to 12, got 13" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--sections", "5"]) == 0
    with CremiFile(output, "r") as file:
        assert np.array_equal(file.read_raw().data, RAW[:5])
        assert np.array_equal(file.read_neuron_ids().data, LABELS[:5])
    assert main([*arguments, "--overwrite", "--cells"]) == 0
    with CremiFile(output, "r") as file:
        assert file.read_neuron_ids().data[...].max() < 100
    alone = [arguments[0], *arguments[2:], "--overwrite"]  # no labels
    assert main([*alone, "--cells"]) == 1
    assert "cells says what labels are" in capsys.readouterr().err
    assert main(alone) == 0
    with CremiFile(output, "r") as file:
        assert np.array_equal(file.read_raw().data, RAW)
        assert file.read_raw().comment == "converted from raw.npy"
    with h5py.File(output) as file:
        assert list(file["volumes"]) == ["raw"]


@pytest.mark.parametrize(
    ("raw", "labels", "message"),
    [
        (RAW, LABELS[:5], "labels must have shape (12, 20, 30) like the raw data"),
        (RAW.astype(np.int64) + 1000, LABELS, "whole numbers from 0 to 255"),
        (RAW, LABELS - 0.5, "whole numbers from 0 to"),
        (RAW[..., None], LABELS, "must hold gray pictures"),
        (None, LABELS, "raw.npy does not exist"),
    ],
)
def test_bad_stacks_leave_no_file(tmp_path, capsys, raw, labels, message):
    if raw is not None:
        np.save(tmp_path / "raw.npy", raw)
    np.save(tmp_path / "labels.npy", labels)
    before = sorted(tmp_path.iterdir())
    arguments = [str(tmp_path / name) for name in ("raw.npy", "labels.npy", "out.hdf")]
    assert main([*arguments, "--resolution", "50", "4", "4"]) == 1
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("notes.txt", "is no TIFF"),
        ("empty", r"holds no \.png or \.tif"),
        ("file.h5:other", "has no dataset other"),
        ("none.h5:stack", "does not exist"),
    ],
)
def test_unreadable_sources_are_named(tmp_path, source, message):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    h5py.File(tmp_path / "file.h5", "w").close()
    with pytest.raises((ValueError, OSError), match=message):
        read_stack(tmp_path / source)


def test_cells_of_the_isbi_stack_are_those_it_is_distributed_with(isbi_labels):
    cells = label_cells(isbi_labels > 0)
    pairs = np.unique(np.stack([cells.ravel(), isbi_labels.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.mark.parametrize("part", ["raw", "labels"])
def test_an_input_is_not_replaced(tmp_path, capsys, part):
    np.save(tmp_path / "stack.npy", RAW)
    with h5py.File(tmp_path / "sample.hdf", "w") as file:
        file["volumes/stack"] = RAW
    before = (tmp_path / "sample.hdf").read_bytes()
    sources = [str(tmp_path / "stack.npy"), f"{tmp_path / 'sample.hdf'}:volumes/stack"]
    sources = sources if part == "labels" else sources[::-1]
    output = tmp_path / "sample.hdf"
    arguments = [*sources, str(output), "--resolution", "50", "4", "4", "--overwrite"]
    assert main(arguments) == 1
    assert "sample.hdf is an input" in capsys.readouterr().err
    assert output.read_bytes() == before
