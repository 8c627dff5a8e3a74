import errno
import subprocess
import sys

import h5py
import numpy as np
import pytest

from cremi_eval import Annotations, Volume
from cremi_eval.io import CremiFile, MissingDatasetError, read_raw_and_labels

HUGE = 2**64 - 1


@pytest.fixture
def annotations():
    points = Annotations(offset=(40.0, 0.0, 0.0))
    points.add_annotation(2**60, "presynaptic_site", (1.0, 2.0, 3.5))
    points.add_annotation(1, "postsynaptic_site", (4.0, 5.0, 6.0))
    points.add_comment(1, "unsure, größer")
    points.set_pre_post_partners(2**60, 1)
    return points


def raw_volume(seed=0, shape=(3, 20, 30)):
    data = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return Volume(data, (40.0, 4.0, 4.0), comment="tissue")


def label_volume(seed=0, shape=(3, 20, 30), offset=(0.0, 0.0, 0.0)):
    data = np.random.default_rng(seed).integers(0, HUGE, shape, np.uint64, endpoint=True)
    return Volume(data, (40.0, 4.0, 4.0), offset)


def assert_no_other_files(folder, *names):
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)


def test_everything_comes_back(tmp_path, annotations):
    raw, ids, clefts = raw_volume(), label_volume(1, offset=(40.0, 8.0, 4.0)), label_volume(2)
    ids.data[0, 0, 0] = HUGE
    with CremiFile(tmp_path / "a.hdf", "w") as file:
        assert not file.has_raw() and not file.has_annotations()
        file.write_raw(raw)
        file.write_neuron_ids(ids)
        file.write_clefts(clefts)
        file.write_annotations(annotations)
    with CremiFile(str(tmp_path / "a.hdf"), "r") as file:
        assert file.has_raw() and file.has_neuron_ids() and file.has_clefts()
        assert file.has_annotations() and file.has_segment_annotations()
        assert not file.has_neuron_ids_confidence()
        for written, read in (
            (raw, file.read_raw()),
            (ids, file.read_neuron_ids()),
            (clefts, file.read_clefts()),
        ):
            np.testing.assert_array_equal(read.data, written.data)
            assert read.data.dtype == written.data.dtype
            assert list(read.resolution) == [40, 4, 4]
            assert list(read.offset) == list(written.offset)
            assert read.comment == written.comment
        points = file.read_annotations()
    assert points.ids() == [2**60, 1]
    assert points.types() == ["presynaptic_site", "postsynaptic_site"]
    np.testing.assert_array_equal(points.locations(), annotations.locations())
    assert points.comments == {1: "unsure, größer"}
    assert points.pre_post_partners == [(2**60, 1)]
    assert list(points.offset) == [40, 0, 0]
    assert_no_other_files(tmp_path, "a.hdf")


def layout(path):
    """Everything about a file but its values."""
    nodes = {}
    with h5py.File(path) as file:

        def visit(name, node):
            attrs = {k: np.asarray(v).dtype.kind for k, v in node.attrs.items()}
            if isinstance(node, h5py.Dataset):
                string = h5py.check_string_dtype(node.dtype)
                nodes[name] = (node.shape, node.dtype, string, node.compression, node.chunks, attrs)
            else:
                nodes[name] = attrs

        file.visititems(visit)
        return dict(file.attrs), nodes


@pytest.mark.parametrize("name", ["truth.hdf", "test.hdf"])
def test_files_of_cremi_python_are_read_and_written_alike(cases, tmp_path, name):
    with CremiFile(cases / name, "r") as old, CremiFile(tmp_path / name, "w") as new:
        new.write_raw(old.read_raw())
        new.write_neuron_ids(old.read_neuron_ids())
        new.write_clefts(old.read_clefts())
        new.write_annotations(old.read_annotations())
    assert layout(tmp_path / name) == layout(cases / name)
    with h5py.File(cases / name) as old, h5py.File(tmp_path / name) as new:
        datasets = []
        old.visititems(lambda n, o: datasets.append(n) if isinstance(o, h5py.Dataset) else None)
        for dataset in datasets:
            np.testing.assert_array_equal(new[dataset][...], old[dataset][...])


def test_annotations_of_cremi_python(cases):
    with CremiFile(cases / "truth.hdf", "r") as file:
        points = file.read_annotations()
    assert len(points.ids()) == 28 and len(points.pre_post_partners) == 14
    assert set(points.types()) == {"presynaptic_site", "postsynaptic_site"}
    assert list(points.offset) == [40, 80, 120]
    assert len(points.comments) == 1


def test_a_file_of_another_cremi_tool(real_volume):
    with CremiFile(real_volume("cremi_sample_B_crop.hdf"), "r") as file:
        labels = file.read_neuron_ids()
        assert labels.data.dtype == np.int64 and labels.data.shape == (5, 500, 500)
        assert list(labels.resolution) == [40, 4, 4] and list(labels.offset) == [0, 0, 0]
        assert labels.comment == ""
        assert file.read_volume("/volumes/labels/fragments").data.shape == (5, 500, 500)
        assert not file.has_clefts()
        assert file.read_annotations().ids() == []


@pytest.mark.parametrize("name", ["isbi2012_train.hdf", "fib25_train.hdf"])
def test_other_real_volumes(real_volume, name):
    raw, labels = read_raw_and_labels(real_volume(name))
    assert raw.data.shape == labels.data.shape and raw.data.dtype == np.uint8


def test_an_exception_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), CremiFile(tmp_path / "a.hdf", "w") as file:
        file.write_raw(raw_volume())
        raise RuntimeError("boom")
    assert_no_other_files(tmp_path)


def test_an_earlier_file_is_replaced_only_when_told_and_only_when_complete(tmp_path):
    path = tmp_path / "a.hdf"
    with CremiFile(path, "w") as file:
        file.write_raw(raw_volume(1))
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.hdf exists already"):
        CremiFile(path, "w")
    with pytest.raises(RuntimeError), CremiFile(path, "w", overwrite=True) as file:
        file.write_raw(raw_volume(2))
        raise RuntimeError
    assert path.read_bytes() == before
    with CremiFile(path, "w", overwrite=True) as file:
        file.write_raw(raw_volume(3))
        assert path.read_bytes() == before
    with CremiFile(path, "r") as file:
        np.testing.assert_array_equal(file.read_raw().data, raw_volume(3).data)
    assert_no_other_files(tmp_path, "a.hdf")


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "a.hdf"
    file = CremiFile(path, "w")
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="created by another program"):
        file.close()
    assert path.read_text() == "mine"


def test_a_file_that_is_never_closed_is_published(tmp_path):
    file = CremiFile(tmp_path / "a.hdf", "w")
    file.write_raw(raw_volume())
    assert not (tmp_path / "a.hdf").exists()
    del file
    assert_no_other_files(tmp_path, "a.hdf")

    script = (
        "import numpy as np; from cremi_eval import Volume; from cremi_eval.io import CremiFile\n"
        f"file = CremiFile({str(tmp_path / 'b.hdf')!r}, 'w')\n"
        "file.write_raw(Volume(np.ones((2, 3, 4), np.uint8)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with CremiFile(tmp_path / "b.hdf", "r") as file:
        assert file.read_raw().data[...].sum() == 24
    assert_no_other_files(tmp_path, "a.hdf", "b.hdf")


def test_an_earlier_file_is_not_replaced_by_one_that_is_never_closed(tmp_path, caplog):
    path = tmp_path / "a.hdf"
    with CremiFile(path, "w") as file:
        file.write_raw(raw_volume(1))
    before = path.read_bytes()
    file = CremiFile(path, "w", overwrite=True)
    file.write_raw(raw_volume(2))
    del file
    assert path.read_bytes() == before and "a.hdf was not closed" in caplog.text
    assert_no_other_files(tmp_path, "a.hdf")
    file = CremiFile(path, "w", overwrite=True)
    file.write_raw(raw_volume(3))
    file.close()
    assert path.read_bytes() != before


def test_closing_twice_is_harmless(tmp_path):
    with CremiFile(tmp_path / "a.hdf", "w") as file:
        file.write_raw(raw_volume())
        file.close()
    with pytest.raises(ValueError, match="closed already"):
        file.read_raw()


def test_append_makes_and_changes_a_file(tmp_path, annotations):
    path = tmp_path / "a.hdf"
    with CremiFile(path, "a") as file:
        assert not path.exists()
        file.write_neuron_ids(label_volume(1, offset=(40, 0, 0)))
        file.write_annotations(annotations)
    with CremiFile(path, "a") as file:
        file.write_neuron_ids(label_volume(2))  # same shape: written in place
        file.write_raw(raw_volume())
        other = Annotations()
        other.add_annotation(5, "presynaptic_site", (0, 0, 0))
        file.write_annotations(other)
    with CremiFile(path, "a") as file:
        ids = file.read_neuron_ids()
        np.testing.assert_array_equal(ids.data, label_volume(2).data)
        assert list(ids.offset) == [0, 0, 0]  # cremi_python leaves the old offset standing
        points = file.read_annotations()
        assert points.ids() == [5] and not points.comments and not points.pre_post_partners
        assert list(points.offset) == [0, 0, 0]
        file.write_neuron_ids(label_volume(3, shape=(2, 5, 5)))  # another shape: replaced
        file.write_annotations(Annotations())
    with CremiFile(path, "r") as file:
        assert file.read_neuron_ids().data.shape == (2, 5, 5)
        assert not file.has_annotations()


def test_int64_labels_are_converted_in_their_own_file(tmp_path):
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        data = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
        file["/volumes/labels/neuron_ids"] = data
        file["/volumes/labels/neuron_ids"].attrs["resolution"] = (40.0, 4.0, 4.0)
    with CremiFile(tmp_path / "a.hdf", "a") as file:
        file.write_neuron_ids(file.read_neuron_ids())
    with CremiFile(tmp_path / "a.hdf", "r") as file:
        ids = file.read_neuron_ids()
        np.testing.assert_array_equal(ids.data, data)
        assert ids.data.dtype == np.uint64


@pytest.mark.parametrize(
    "write, data",
    [
        ("write_raw", np.full((1, 2, 2), 0.5)),
        ("write_raw", np.full((1, 2, 2), np.nan)),
        ("write_raw", np.full((1, 2, 2), 256)),
        ("write_neuron_ids", np.full((1, 2, 2), -1)),
        ("write_neuron_ids", np.full((1, 2, 2), 2.0**64)),
        ("write_neuron_ids", np.full((1, 2, 2), 1j)),
        ("write_clefts", np.zeros((2, 2), np.uint64)),
    ],
)
def test_data_that_do_not_fit_are_refused(tmp_path, write, data):
    file = CremiFile(tmp_path / "a.hdf", "a")
    with pytest.raises(ValueError, match=r"/volumes/.*(do not fit|must have shape)"):
        getattr(file, write)(Volume(data, (40, 4, 4)))
    assert not file.has_raw() and not file.has_neuron_ids() and not file.has_clefts()


def test_data_that_fit_are_converted(tmp_path):
    with CremiFile(tmp_path / "a.hdf", "w") as file:
        file.write_raw(Volume(np.full((1, 2, 2), 255.0)))
        file.write_neuron_ids(Volume(np.ones((1, 2, 2), bool)))
        assert file.read_raw().data[0, 0, 0] == 255
        assert file.read_neuron_ids().data[0, 0, 0] == 1


def test_missing_and_broken_files_are_named(tmp_path):
    with CremiFile(tmp_path / "good.hdf", "w") as file:
        file.write_raw(raw_volume())
    content = (tmp_path / "good.hdf").read_bytes()
    (tmp_path / "cut.hdf").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.hdf").write_text("no volume")
    (tmp_path / "empty.hdf").write_bytes(b"")
    for mode in "ra":
        with pytest.raises(OSError, match=r"cut\.hdf is truncated"):
            CremiFile(tmp_path / "cut.hdf", mode)
        with pytest.raises(OSError, match=r"text\.hdf is not an HDF5 file"):
            CremiFile(tmp_path / "text.hdf", mode)
        with pytest.raises(IsADirectoryError, match="is a folder"):
            CremiFile(tmp_path, mode)
    with pytest.raises(OSError, match=r"empty\.hdf is not an HDF5 file"):
        CremiFile(tmp_path / "empty.hdf", "r")
    with pytest.raises(FileNotFoundError, match=r"none\.hdf does not exist"):
        CremiFile(tmp_path / "none.hdf", "r")
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        CremiFile(tmp_path / "nowhere/a.hdf", "w")
    with pytest.raises(ValueError, match="mode must be"):
        CremiFile(tmp_path / "good.hdf", "rw")
    with (
        CremiFile(tmp_path / "good.hdf", "r") as file,
        pytest.raises(MissingDatasetError, match=r"good\.hdf has no dataset /volumes/labels"),
    ):
        file.read_clefts()


def test_a_damaged_chunk_is_named(tmp_path):
    path = tmp_path / "a.hdf"
    with CremiFile(path, "w") as file:
        file.write_raw(raw_volume())
    with h5py.File(path) as file:
        chunk = file["/volumes/raw"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 20] = bytes(20)
    path.write_bytes(content)
    with (
        CremiFile(path, "r") as file,
        pytest.raises(OSError, match=r"a\.hdf: dataset /volumes/raw cannot be read"),
    ):
        file.read_raw().load()


def test_a_missing_filter_is_not_called_damage(tmp_path, monkeypatch):
    path = tmp_path / "a.hdf"
    with h5py.File(path, "w") as file:
        file.create_dataset("/volumes/raw", data=np.zeros((2, 3, 4), np.uint8), compression="lzf")
        file["/volumes/raw"].attrs["resolution"] = (40.0, 4.0, 4.0)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)
    with (
        CremiFile(path, "r") as file,
        pytest.raises(ValueError, match=r"raw is compressed by the HDF5 filter 32000 \(lzf\)"),
    ):
        file.read_raw()


def test_trouble_of_the_system_is_not_called_damage(tmp_path):
    class Stale(h5py.Dataset):
        def __getitem__(self, part):
            raise OSError(errno.ESTALE, "Stale file handle")

    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["raw"] = np.zeros((2, 3, 4), np.uint8)
        with pytest.raises(OSError, match=r"dataset /raw cannot be read .*Stale") as caught:
            Volume(Stale(file["raw"].id)).load()
    assert caught.value.errno == errno.ESTALE and "damaged" not in str(caught.value)


def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path):
    path = tmp_path / "a.hdf"
    script = (
        "import sys, h5py; file = h5py.File(sys.argv[1], 'w', locking=True)\n"
        "print('open', flush=True); sys.stdin.readline()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout.readline() == b"open\n"
    with pytest.raises(OSError, match=r"a\.hdf is locked: another program is writing to it"):
        CremiFile(path, "r")
    writer.communicate(b"\n")


def test_what_is_there_is_listed_links_followed(tmp_path):
    with h5py.File(tmp_path / "other.hdf", "w") as file:
        file["main"] = np.zeros((2, 3, 4), np.uint64)
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["volumes/raw"] = np.zeros((2, 3, 4), np.uint8)
        file["table"] = np.zeros(5)
        file["soft"] = h5py.SoftLink("/volumes/raw")
        file["volumes/labels"] = h5py.ExternalLink("other.hdf", "/")
        file["lost"] = h5py.ExternalLink("gone.hdf", "/main")
        file["volumes/itself"] = file["volumes"]
    with (
        CremiFile(tmp_path / "a.hdf", "r") as file,
        pytest.raises(MissingDatasetError) as caught,
    ):
        file.read_neuron_ids()
    assert str(caught.value).endswith(
        "a.hdf has no dataset /volumes/labels/neuron_ids; it holds "
        "lost (a link to gone.hdf:/main, which is not there), soft (2, 3, 4) uint8, "
        "volumes/labels/main (2, 3, 4) uint64, volumes/raw (2, 3, 4) uint8"
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bool])
def test_ids_are_integers(tmp_path, dtype):
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        for name in ("neuron_ids", "clefts"):
            file[f"/volumes/labels/{name}"] = np.ones((2, 3, 4), dtype)
            file[f"/volumes/labels/{name}"].attrs["resolution"] = (40.0, 4.0, 4.0)
    with CremiFile(tmp_path / "a.hdf", "r") as file:
        for read in (file.read_neuron_ids, file.read_clefts):
            with pytest.raises(TypeError, match=r"a\.hdf: dataset /volumes/.* must hold integers"):
                read()


def test_a_volume_without_resolution_is_named(tmp_path):
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["/volumes/raw"] = np.zeros((2, 3, 4), np.uint8)
    with (
        CremiFile(tmp_path / "a.hdf", "r") as file,
        pytest.raises(MissingDatasetError, match=r"/volumes/raw lacks the attribute resolution"),
    ):
        file.read_raw()


@pytest.mark.parametrize("value", [4.0, "40 4 4", [0, 0, 0], [4.0, 4.0], [40, 4, np.nan], b"x"])
@pytest.mark.parametrize("attribute", ["resolution", "offset"])
def test_a_place_that_is_none_is_named(tmp_path, attribute, value):
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["/volumes/raw"] = np.zeros((2, 3, 4), np.uint8)
        file["/volumes/raw"].attrs.update({"resolution": (40.0, 4.0, 4.0), attribute: value})
    with CremiFile(tmp_path / "a.hdf", "r") as file:
        if attribute == "offset" and value == [0, 0, 0]:
            assert list(file.read_raw().offset) == value
            return
        with pytest.raises(ValueError, match=rf"a\.hdf: dataset /volumes/raw: {attribute} must be"):
            file.read_raw()


def test_inconsistent_annotations_are_named(tmp_path, annotations):
    path = tmp_path / "a.hdf"
    with CremiFile(path, "w") as file:
        file.write_annotations(annotations)
    with h5py.File(path, "a") as file:
        file["/annotations/presynaptic_site/partners"][0, 1] = 99
    with CremiFile(path, "r") as file, pytest.raises(ValueError, match=r"a\.hdf.*id 99"):
        file.read_annotations()
    with h5py.File(path, "a") as file:
        del file["/annotations/types"]
    with (
        CremiFile(path, "r") as file,
        pytest.raises(MissingDatasetError, match="/annotations/types"),
    ):
        file.read_annotations()


def test_confidence_levels(tmp_path):
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["/volumes/labels/neuron_ids_confidence"] = np.array([0, 2, 7, 8, 1, 1, 9], np.uint64)
    with CremiFile(tmp_path / "a.hdf", "r") as file:
        assert file.has_neuron_ids_confidence()
        assert file.read_neuron_ids_confidence() == {0: [7, 8], 1: [9]}


@pytest.mark.parametrize("shape", [(3, 20, 31), (3, 20, 29)])
def test_raw_and_labels_of_different_shape_are_refused(tmp_path, shape):
    with CremiFile(tmp_path / "a.hdf", "w") as file:
        file.write_raw(raw_volume(shape=(3, 20, 30)))
        file.write_neuron_ids(label_volume(shape=shape))
    message = rf"a\.hdf: /volumes/raw has shape .*, but .* has shape \(3, 20, {shape[-1]}\)"
    with pytest.raises(ValueError, match=message):
        read_raw_and_labels(tmp_path / "a.hdf")


def test_reading_does_not_load_the_volume(tmp_path):
    with CremiFile(tmp_path / "a.hdf", "w") as file:
        file.write_raw(raw_volume())
    with CremiFile(tmp_path / "a.hdf", "r") as file:
        volume = file.read_raw()
        assert isinstance(volume.data, h5py.Dataset)
        assert volume[(40.0, 8.0, 12.0)] == raw_volume().data[1, 2, 3]
        loaded = volume.load()
    np.testing.assert_array_equal(loaded.data, raw_volume().data)
