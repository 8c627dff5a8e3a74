"""Volumes are opened without being read, and OME-Zarr is written as its specification says."""

import errno
import json
import pickle
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from cremi_eval import CremiFile, Volume
from cremi_eval._slabs import slabs
from malis.scale.ome_zarr import create_ome_zarr, pyramid
from malis.scale.volumes import open_volume

RAW = np.arange(4 * 6 * 8, dtype=np.uint8).reshape(4, 6, 8)
IDS = RAW.astype(np.uint64) + 2**40


@pytest.fixture
def cremi(tmp_path):
    path = tmp_path / "sample.hdf"
    with CremiFile(path, "w") as file:
        file.write_raw(Volume(RAW, (40, 4, 4)))
        file.write_neuron_ids(Volume(IDS[1:3], (40, 4, 4), (40, 0, 0)))
    return path


def make_image(path, values=RAW, **options):
    place = {"resolution": (40, 4, 4), "offset": (80, 0, 12), "block": (2, 6, 8)} | options
    create_ome_zarr(path, values.shape, values.dtype, **place)
    zarr.open_array(path / "0", mode="r+")[...] = values
    return path


def run_python(program):
    root, command = Path(__file__).parents[3], [sys.executable, "-c", program]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


# ---- reading ---------------------------------------------------------------------------------


def test_a_cremi_file_opens_at_its_raw_data(cremi):
    raw = open_volume(cremi)
    assert (raw.dataset, raw.shape, raw.dtype, raw.ndim) == ("volumes/raw", (4, 6, 8), np.uint8, 3)
    assert (raw.resolution, raw.offset) == ((40, 4, 4), (0, 0, 0))
    np.testing.assert_array_equal(raw[1:3, :, 2], RAW[1:3, :, 2])
    assert isinstance(raw[0, 0, 0:2], np.ndarray)
    ids = open_volume(cremi, "/volumes/labels/neuron_ids")
    assert ids.offset == (40, 0, 0)
    np.testing.assert_array_equal(ids[...], IDS[1:3])


def test_a_source_travels_to_other_processes(cremi, tmp_path):
    for source in (open_volume(cremi), open_volume(make_image(tmp_path / "image.zarr"))):
        source[0, 0, 0:1]  # it is open here
        copy = pickle.loads(pickle.dumps(source))
        assert copy == source
        np.testing.assert_array_equal(copy[...], RAW)


def test_what_is_written_is_read(tmp_path):
    source = open_volume(make_image(tmp_path / "image.zarr"))
    assert (source.resolution, source.offset) == ((40, 4, 4), (80, 0, 12))
    np.testing.assert_array_equal(source[...], RAW)
    finest = open_volume(tmp_path / "image.zarr/0")  # the array itself, without its group
    assert (finest.resolution, finest.offset) == (source.resolution, source.offset)


def test_channels_stay_and_axes_of_length_one_go(tmp_path):
    affinities = np.random.default_rng(0).random((3, 4, 6, 8), np.float32)
    source = open_volume(make_image(tmp_path / "a.zarr", affinities))
    assert source.shape == (3, 4, 6, 8)
    np.testing.assert_array_equal(source[1:3, 2, :, 4:], affinities[1:3, 2, :, 4:])
    single = open_volume(make_image(tmp_path / "b.zarr", affinities[:1]))
    assert single.shape == (4, 6, 8)
    np.testing.assert_array_equal(single[2, :, 4:], affinities[0, 2, :, 4:])


def test_chunks_are_those_of_the_axes_that_stay(tmp_path):
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        for name, chunks in (("raw", (2, 3, 4)), ("whole", None)):
            file.create_dataset(name, data=np.zeros((4, 6, 8), np.uint8), chunks=chunks)
            file[name].attrs["resolution"] = (40.0, 4.0, 4.0)
    assert open_volume(tmp_path / "a.hdf", "raw").chunks == (2, 3, 4)
    assert open_volume(tmp_path / "a.hdf", "whole").chunks is None
    array = zarr.create_array(tmp_path / "b.zarr", shape=(1, 4, 6, 8), chunks=(1, 2, 6, 4),
                              dtype="u1", attributes={"resolution": (40.0, 4.0, 4.0)})  # fmt: skip
    source = open_volume(tmp_path / "b.zarr")
    assert source.shape == (4, 6, 8) and source.chunks == (2, 6, 4) and array.ndim == 4
    assert [part.stop for part in slabs(source, max_bytes=100)] == [2, 4]


@pytest.mark.parametrize("kind", ["hdf", "zarr"])
def test_an_index_that_does_not_fit_is_no_damage(tmp_path, cremi, kind):
    source = open_volume(cremi if kind == "hdf" else make_image(tmp_path / "image.zarr"))
    for index in (np.s_[:, ::-1], np.s_[0, 0, 0, 0], np.s_[:, :, ::0]):
        with pytest.raises(IndexError):
            source[index]
    np.testing.assert_array_equal(source[::2, ...], source[...][::2])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_of_other_programs(tmp_path, version):
    """Format 0.4 keeps its metadata elsewhere; units differ; scales may come in two steps."""
    group = zarr.create_group(tmp_path / "other.zarr", zarr_format=2 if version == "0.4" else 3)
    array = group.create_array("s0", shape=(1, 1, *RAW.shape), dtype=np.uint8)
    array[...] = RAW[None, None]
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    finest = [
        {"type": "scale", "scale": [1, 1, 0.02, 0.002, 0.002]},
        {"type": "translation", "translation": [0, 0, 0.1, 0.2, 0.3]},
    ]
    scales = {
        "axes": axes,
        "datasets": [{"path": "s0", "coordinateTransformations": finest}],
        "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2, 2, 2]}],
    }
    if version == "0.4":
        group.attrs["multiscales"] = [scales]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [scales]}
    source = open_volume(tmp_path / "other.zarr")
    np.testing.assert_allclose(source.resolution, (40, 4, 4))
    np.testing.assert_allclose(source.offset, (200, 400, 600))
    np.testing.assert_array_equal(source[...], RAW)


def test_plain_zarr_arrays_with_attributes(tmp_path):
    group = zarr.create_group(tmp_path / "plain.zarr", zarr_format=2)
    for name, key in (("volumes/raw", "resolution"), ("volumes/other", "voxel_size")):
        array = group.create_array(name, shape=RAW.shape, dtype=np.uint8)
        array[...] = RAW
        array.attrs.update({key: [40, 4, 4], "offset": [0, 4, 0]})
    assert open_volume(tmp_path / "plain.zarr").dataset == "volumes/raw"
    other = open_volume(tmp_path / "plain.zarr", "volumes/other")
    assert (other.resolution, other.offset) == ((40, 4, 4), (0, 4, 0))


# ---- which dataset ---------------------------------------------------------------------------


def write_hdf5(path, **volumes):
    with h5py.File(path, "w") as file:
        for name, values in volumes.items():
            file[name] = values
            file[name].attrs["resolution"] = (40.0, 4.0, 4.0)
    return path


def add_labels(path, *names):
    """Put labels where OME-NGFF puts them: into the group "labels" of an image."""
    group = zarr.open_group(path, mode="r+").create_group("labels")
    group.attrs["ome"] = {"version": "0.5", "labels": list(names)}
    for name in names:
        make_image(path / "labels" / name, IDS)


def test_the_only_volume_is_not_taken_for_what_it_may_not_be(tmp_path):
    path = write_hdf5(tmp_path / "pytc.h5", main=RAW)
    for kind in ("raw", "labels", "affinities"):
        with pytest.raises(FileNotFoundError) as error:
            open_volume(path, kind=kind)
        assert f"pytc.h5 holds no {kind} under a usual name" in str(error.value)
        assert "but main (4, 6, 8) uint8; name the dataset" in str(error.value)
    assert open_volume(path, "main", kind="raw").dataset == "main"
    assert open_volume(path).dataset == "main"  # whatever it is


def test_of_two_usual_names_none_is_guessed(tmp_path):
    path = write_hdf5(tmp_path / "two.h5", segmentation=IDS, labels=IDS)
    with pytest.raises(ValueError, match=r"labels \(4, 6, 8\) uint64, segmentation .*; say which"):
        open_volume(path, kind="labels")
    assert open_volume(path, "labels", kind="labels").dataset == "labels"


@pytest.mark.parametrize(
    "kind, values, message",
    [
        ("raw", RAW > 3, r"must hold numbers, as raw do, got bool"),
        ("raw", RAW[None].repeat(2, 0), r"must have the axes \(z, y, x\) of raw, got \(2, 4"),
        ("labels", RAW / 2, "must hold integers, as labels do, got float64"),
        ("affinities", RAW, r"must have the axes \(c, z, y, x\) of affinities"),
        ("affinities", IDS[None].repeat(3, 0), "must hold floats or uint8, as affinities do"),
    ],
)
def test_a_dataset_that_is_named_must_be_of_its_kind(tmp_path, kind, values, message):
    path = write_hdf5(tmp_path / "a.h5", it=values)
    with pytest.raises(ValueError, match=message):
        open_volume(path, "it", kind=kind)


def test_labels_of_an_ome_zarr_image_lie_in_its_group_of_labels(tmp_path):
    path = make_image(tmp_path / "fly.zarr")
    add_labels(path, "neurons")
    assert open_volume(path, kind="raw").dataset == "0"
    labels = open_volume(path, kind="labels")
    assert (labels.dataset, labels.dtype) == ("labels/neurons/0", np.uint64)
    np.testing.assert_array_equal(labels[...], IDS)
    assert open_volume(path, "labels/neurons", kind="labels") == labels
    several = make_image(tmp_path / "more.zarr")
    add_labels(several, "neurons", "mitochondria")
    message = r"holds no labels.*0 \(4.*labels/mitochondria \(4.*labels/neurons \(4.*zarr::DATASET"
    with pytest.raises(FileNotFoundError, match=message):
        open_volume(several, kind="labels")


def test_an_image_is_labels_if_it_says_so_or_has_ids_or_is_named(tmp_path):
    grey = make_image(tmp_path / "grey.zarr", RAW.astype(np.uint16))
    with pytest.raises(FileNotFoundError, match=r"grey\.zarr holds no labels.* but 0 \(4, 6, 8\)"):
        open_volume(grey, kind="labels")
    assert open_volume(grey, "0", kind="labels").dtype == np.uint16
    assert open_volume(make_image(tmp_path / "ids.zarr", IDS), kind="labels").dtype == np.uint64
    group = zarr.open_group(grey, mode="r+")
    group.attrs["ome"] = {**group.attrs["ome"], "image-label": {}}
    assert open_volume(grey, kind="labels").dtype == np.uint16


def test_deep_groups_are_listed_and_reached(tmp_path):
    group = zarr.create_group(tmp_path / "deep.zarr")
    group.create_group("recon/labels/truth/crop1")
    make_image(tmp_path / "deep.zarr/recon/labels/truth/crop1/mito", IDS)
    source = open_volume(tmp_path / "deep.zarr", "recon/labels/truth/crop1/mito", kind="labels")
    np.testing.assert_array_equal(source[...], IDS)
    with pytest.raises(
        FileNotFoundError, match=r"recon/labels/truth/crop1/mito \(4, 6, 8\) uint64"
    ):
        open_volume(tmp_path / "deep.zarr", kind="labels")


def test_links_are_followed(tmp_path, cremi):
    write_hdf5(tmp_path / "elsewhere.h5", ids=IDS)
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["raw"] = h5py.ExternalLink(str(cremi), "/volumes/raw")
        file["labels"] = h5py.SoftLink("/other/ids")
        file["other"] = h5py.ExternalLink("elsewhere.h5", "/")
        file["loop/again"] = h5py.SoftLink("/loop")
        file["lost"] = h5py.ExternalLink("nowhere.h5", "/raw")
    raw = open_volume(tmp_path / "links.h5", kind="raw")
    np.testing.assert_array_equal(raw[1:3], RAW[1:3])
    np.testing.assert_array_equal(open_volume(tmp_path / "links.h5", kind="labels")[...], IDS)
    with pytest.raises(
        FileNotFoundError, match=r"no dataset 'lost'.*lost \(a link to nowhere\.h5:/r"
    ):
        open_volume(tmp_path / "links.h5", "lost")
    (tmp_path / "elsewhere.h5").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"labels \(a link to /other/ids, which is not there"
    ):
        open_volume(tmp_path / "links.h5", kind="labels")


# ---- other containers ------------------------------------------------------------------------


def test_a_zipped_zarr_is_read_as_it_is(tmp_path):
    path = make_image(tmp_path / "image.zarr")
    packed = shutil.make_archive(tmp_path / "image.zarr", "zip", path)
    source = open_volume(packed, kind="raw")
    assert (source.resolution, source.offset) == ((40, 4, 4), (80, 0, 12))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[1:, 2], RAW[1:, 2])
    outer = shutil.make_archive(tmp_path / "outer", "zip", tmp_path, "image.zarr")
    with pytest.raises(ValueError, match=r"outer\.zip is no Zarr volume"):
        open_volume(outer)


def test_n5_is_named(tmp_path):
    (tmp_path / "a.n5").mkdir()
    (tmp_path / "a.n5/attributes.json").write_text('{"n5": "2.5.0"}')
    with pytest.raises(ValueError, match=r"a\.n5 is N5, which the package zarr no longer reads"):
        open_volume(tmp_path / "a.n5")


def test_a_filter_that_is_not_installed_is_no_damage(tmp_path):
    """Written where hdf5plugin is; read where it is and where it is not."""
    pytest.importorskip("hdf5plugin")
    path = tmp_path / "blosc.hdf"
    write = (
        "import h5py, hdf5plugin, numpy as np\n"
        f"with h5py.File({str(path)!r}, 'w') as file:\n"
        "    raw = np.arange(192, dtype=np.uint8).reshape(4, 6, 8)\n"
        "    options = {'chunks': (2, 6, 8), 'compression': hdf5plugin.Blosc()}\n"
        "    file.create_dataset('raw', data=raw, **options).attrs['resolution'] = (40., 4., 4.)\n"
    )
    read = f"from malis.scale.volumes import open_volume; print(open_volume({str(path)!r})[3, 5])"
    without = f"import sys; sys.modules['hdf5plugin'] = None; {read}"
    runs = [run_python(code) for code in (write, read, without)]
    assert runs[1].stdout == "[184 185 186 187 188 189 190 191]\n", runs[1].stderr
    message = runs[2].stderr.splitlines()[-1]
    assert "blosc.hdf/raw is compressed by the HDF5 filter 32001" in message
    assert "pip install hdf5plugin" in message and "damaged" not in message


def test_a_file_that_may_not_be_read_is_not_damaged(tmp_path, cremi, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", str(cremi))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        open_volume(cremi)


def test_a_file_that_is_being_written_is_not_damaged(tmp_path, cremi):
    program = f"from malis.scale.volumes import open_volume; open_volume({str(cremi)!r})"
    with h5py.File(cremi, "r+"):
        run = run_python(program)
    message = run.stderr.splitlines()[-1]
    assert "lock" in message and "damaged" not in message


# ---- what is no volume -----------------------------------------------------------------------


def test_what_is_no_volume_is_named_in_one_line(tmp_path, cremi):
    (tmp_path / "notes.txt").write_text("no volume")
    (tmp_path / "folder").mkdir()
    (tmp_path / "short.hdf").write_bytes(cremi.read_bytes()[:3000])
    with h5py.File(tmp_path / "bare.hdf", "w") as file:
        file["volumes/raw"] = RAW
        file["table"] = np.zeros(3)
    with h5py.File(tmp_path / "empty.hdf", "w"):
        pass
    zarr.create_group(tmp_path / "empty.zarr")
    flat = zarr.create_array(tmp_path / "flat.zarr", shape=(4, 4), dtype=np.uint8)
    flat.attrs["resolution"] = [1, 1, 1]
    two = zarr.create_group(tmp_path / "two.zarr")
    for name in ("one", "other"):
        two.create_array(name, shape=RAW.shape, dtype=np.uint8)
    broken = zarr.create_group(tmp_path / "broken.zarr")
    broken.attrs["ome"] = {"multiscales": [{"axes": [], "datasets": []}]}
    wrong = zarr.create_array(tmp_path / "wrong.zarr", shape=RAW.shape, dtype=np.uint8)
    wrong.attrs["resolution"] = [0, 4, 4]
    for name, dataset, kind, message in [
        ("nowhere.hdf", None, FileNotFoundError, "does not exist"),
        ("notes.txt", None, ValueError, "is no volume: neither an HDF5 file nor a Zarr"),
        ("folder", None, ValueError, "is no Zarr volume"),
        ("short.hdf", None, ValueError, "is damaged or truncated"),
        ("bare.hdf", None, ValueError, "lacks the attribute resolution"),
        ("bare.hdf", "table", FileNotFoundError, "no dataset 'table'; it holds volumes/raw"),
        ("empty.hdf", None, ValueError, "holds no volume at all"),
        ("empty.zarr", None, ValueError, "holds no volume at all"),
        ("flat.zarr", None, ValueError, r"must have the axes \(z, y, x\) or \(c, z, y, x\)"),
        ("two.zarr", None, ValueError, r"holds one \(4, 6, 8\) uint8, other \(4, .* say which"),
        ("two.zarr", "third", FileNotFoundError, r"no dataset 'third'; it holds one \(4, 6, 8\)"),
        ("flat.zarr", "raw", FileNotFoundError, "is a single volume and has no dataset 'raw'"),
        ("broken.zarr", None, ValueError, "has multiscales metadata that cannot be read"),
        ("wrong.zarr", None, ValueError, "resolution must be 3 positive numbers"),
        ("sample.hdf", "rew", FileNotFoundError, "holds volumes/labels/neuron_ids .*, volumes/raw"),
    ]:
        with pytest.raises(kind, match=message) as error:
            open_volume(tmp_path / name, dataset)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_a_url_without_a_volume_is_named_in_one_line(tmp_path):
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/volume.zarr"
        with pytest.raises(ValueError, match="is no Zarr volume") as error:
            open_volume(url)
        server.shutdown()
    assert url in str(error.value)
    assert "\n" not in str(error.value)


def test_damage_that_shows_while_reading_names_the_file(tmp_path):
    source = open_volume(make_image(tmp_path / "image.zarr"))
    shard = tmp_path / "image.zarr/0/c/1/0/0"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    np.testing.assert_array_equal(source[:2], RAW[:2])
    with pytest.raises(OSError, match=r"image\.zarr/0 is damaged and cannot be read"):
        source[2:]


# ---- writing ---------------------------------------------------------------------------------


def test_the_metadata_are_those_of_ome_ngff(tmp_path):
    """Section 3.4 of https://ngff.openmicroscopy.org/0.5, read without Zarr."""
    levels = [(1, 1, 1), (1, 2, 2)]
    make_image(tmp_path / "image.zarr", np.zeros((2, 4, 6, 8), np.float32), levels=levels)
    group = json.loads((tmp_path / "image.zarr/zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    ome = group["attributes"]["ome"]
    (image,) = ome["multiscales"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in image["axes"]] == ["c", "z", "y", "x"]
    assert [axis["type"] for axis in image["axes"]] == ["channel"] + ["space"] * 3
    assert [axis.get("unit") for axis in image["axes"]] == [None] + ["nanometer"] * 3
    for level, (y, x), side in ((0, (6, 8), 4.0), (1, (3, 4), 8.0)):
        dataset = image["datasets"][level]
        scale, translation = dataset["coordinateTransformations"]
        assert scale == {"type": "scale", "scale": [1.0, 40.0, side, side]}
        assert translation == {"type": "translation", "translation": [0.0, 80.0, 0.0, 12.0]}
        array = json.loads((tmp_path / "image.zarr" / dataset["path"] / "zarr.json").read_text())
        assert array["shape"] == [2, 4, y, x]
        assert array["dimension_names"] == ["c", "z", "y", "x"]


def test_a_block_is_one_file_with_a_checksum(tmp_path):
    make_image(tmp_path / "image.zarr", np.ones((130, 130, 130), np.uint8), block=(128, 128, 128))
    array = json.loads((tmp_path / "image.zarr/0/zarr.json").read_text())
    (sharding,) = array["codecs"]
    assert array["chunk_grid"]["configuration"]["chunk_shape"] == [128, 128, 128]
    assert sharding["configuration"]["chunk_shape"] == [64, 64, 64]
    assert "crc32c" in [codec["name"] for codec in sharding["configuration"]["codecs"]]
    files = [p for p in (tmp_path / "image.zarr/0/c").rglob("*") if p.is_file()]
    assert len(files) == 8


def test_the_pyramid_makes_voxels_isotropic_first():
    flat = [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)]
    assert pyramid((125, 1250, 1250), (64, 512, 512), (40, 4, 4)) == flat
    assert pyramid((600, 600, 600), (64, 64, 64), (8, 8, 8))[1:] == [(2, 2, 2), (4, 4, 4)]
    assert pyramid((600, 600, 600), (64, 66, 64), (8, 8, 8))[1:] == [(2, 2, 2)]  # 66 / 4
    assert pyramid((20, 200, 200), (20, 200, 200), (8, 8, 8)) == [(1, 1, 1)]


def test_an_hdf5_volume_needs_no_further_package(cremi):
    """`import malis` and CREMI files go without the packages of the extra scale."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['zarr', 'dask', 'distributed']));"
        "import malis, malis.scale.volumes, malis.scale;"
        f"print(malis.scale.volumes.open_volume({str(cremi)!r}).shape);"
        "malis.scale.volumes.open_volume('.')"
    )
    run = run_python(program)
    assert run.stdout == "(4, 6, 8)\n", run.stderr
    assert run.stderr.splitlines()[-1].endswith(
        "this needs zarr, which the extra [scale] brings: "
        'pip install ".[scale]" in a clone of the repository'
    )
