"""Axes, units and voxel sizes as other programs write them."""

import logging

import h5py
import numpy as np
import pytest
import zarr

from malis.scale.volumes import open_volume

RAW = np.arange(4 * 6 * 8, dtype=np.uint8).reshape(4, 6, 8)
NANOMETRES = (40.0, 4.0, 4.0)


def write_image(path, values, axes, scale, *, version="0.4", translation=None, **image):
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("0", data=values)
    steps = [{"type": "scale", "scale": scale}]
    if translation is not None:
        steps.append({"type": "translation", "translation": translation})
    level = {"path": "0"} | ({"coordinateTransformations": steps} if scale else {})
    scales = [{"version": version, "datasets": [level], **image}]
    scales[0] |= {} if axes is None else {"axes": axes}
    group.attrs.update(
        {"ome": {"version": version, "multiscales": scales}}
        if version == "0.5"
        else {"multiscales": scales}
    )
    return path


def axes_of(names, unit="nanometer"):
    kinds = {"c": "channel", "t": "time"}
    return [
        {"name": name, "type": kinds[name]}
        if name in kinds
        else {"name": name, "type": "space", "unit": unit}
        for name in names
    ]


# ---- OME-Zarr --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("names", ["zyx", "xyz", "yxz"])
def test_axes_in_any_order_are_read_as_z_y_x(tmp_path, names, version):
    stored = RAW.transpose(["zyx".index(name) for name in names])
    size = dict(zip("zyx", NANOMETRES, strict=True))
    place = dict(zip("zyx", (80.0, 8.0, 12.0), strict=True))
    path = write_image(
        tmp_path / "image.zarr",
        np.ascontiguousarray(stored),
        axes_of(names),
        [size[name] for name in names],
        translation=[place[name] for name in names],
        version=version,
    )
    source = open_volume(path)
    assert (source.shape, source.resolution) == ((4, 6, 8), NANOMETRES)
    assert source.offset == (80.0, 8.0, 12.0)
    for index in (np.s_[...], np.s_[1:3, :, 5], np.s_[2], np.s_[..., 3], np.s_[0, 1, 2:4]):
        np.testing.assert_array_equal(source[index], RAW[index])
    assert source.chunks == tuple(
        zarr.open_array(path / "0", mode="r").chunks[names.index(name)] for name in "zyx"
    )


def test_channels_may_come_last(tmp_path):
    values = np.random.default_rng(0).random((3, 4, 6, 8)).astype(np.float32)
    path = write_image(
        tmp_path / "a.zarr", np.moveaxis(values, 0, -1).copy(), axes_of("zyxc"), [40, 4, 4, 1]
    )
    source = open_volume(path, kind="affinities")
    assert (source.shape, source.resolution) == ((3, 4, 6, 8), NANOMETRES)
    np.testing.assert_array_equal(source[1:, 2, :, 3:], values[1:, 2, :, 3:])


def test_a_series_in_time_is_no_volume(tmp_path):
    path = write_image(tmp_path / "t.zarr", np.stack([RAW] * 3), axes_of("tzyx"), [1, 40, 4, 4])
    with pytest.raises(ValueError, match=r"shape \(3, 4, 6, 8\) with the axes \(t, z, y, x\)"):
        open_volume(path)
    path = write_image(tmp_path / "yx.zarr", RAW[0], axes_of("yx"), [4, 4])
    with pytest.raises(ValueError, match=r"must have the axes \(z, y, x\)"):
        open_volume(path)


@pytest.mark.parametrize(
    "unit, factor",
    [("nanometer", 1), ("micrometer", 1e3), ("µm", 1e3), ("Angstrom", 0.1), (None, 1), (" ", 1)],
)
def test_units_become_nanometres(tmp_path, unit, factor):
    scale = [side / factor for side in NANOMETRES]
    path = write_image(tmp_path / "u.zarr", RAW, axes_of("zyx", unit), scale)
    assert open_volume(path).resolution == pytest.approx(NANOMETRES)


def test_a_unit_that_is_no_length_is_named(tmp_path):
    path = write_image(tmp_path / "u.zarr", RAW, axes_of("zyx", "furlong"), [1, 1, 1])
    with pytest.raises(ValueError, match=r"u\.zarr.*'furlong', which is no unit of length"):
        open_volume(path)
    assert open_volume(path, resolution=NANOMETRES).resolution == NANOMETRES


def test_version_0_3_names_axes_by_letters(tmp_path):
    path = write_image(tmp_path / "a.zarr", RAW, list("zyx"), [40, 4, 4], version="0.3")
    assert open_volume(path).resolution == NANOMETRES


@pytest.mark.parametrize("version, axes", [("0.1", None), ("0.3", list("tczyx"))])
def test_versions_without_a_scale_need_a_resolution(tmp_path, version, axes):
    path = write_image(tmp_path / "a.zarr", RAW[None, None], axes, None, version=version)
    with pytest.raises(ValueError, match=r"a\.zarr/0 lacks the attribute resolution.*--resolution"):
        open_volume(path)
    source = open_volume(path, resolution=NANOMETRES)
    assert (source.shape, source.resolution, source.has_offset) == (RAW.shape, NANOMETRES, False)
    np.testing.assert_array_equal(source[...], RAW)


@pytest.mark.parametrize(
    "multiscales",
    [
        None, "", [], {}, "0.4", [None], [[]], ["image"], [{}], [{"datasets": []}],
        [{"datasets": [{}]}], [{"datasets": ["0"]}], [{"datasets": {"path": "0"}}],
        [{"axes": 3, "datasets": [{"path": "0"}]}],
        [{"axes": [{}, {}, {}], "datasets": [{"path": "0"}]}],
        [{"axes": ["z", "y", "x"], "datasets": [{"path": "0", "coordinateTransformations": [1]}]}],
        [{"axes": ["z", "y", "x"], "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": "4"}]}]}],
        [{"axes": ["z", "y", "x"], "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [40, 4]}]}]}],
        [{"axes": ["z", "y", "x"], "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0, 4, 4]}]}]}],
    ],
)  # fmt: skip
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_metadata_of_any_shape_end_in_one_sentence(tmp_path, multiscales, zarr_format):
    group = zarr.open_group(tmp_path / "odd.zarr", mode="w", zarr_format=zarr_format)
    group.create_array("0", data=RAW)
    ome = {"multiscales": multiscales}
    group.attrs.update(ome if zarr_format == 2 else {"ome": ome})
    for kind in (None, "raw", "labels"):
        with pytest.raises((ValueError, FileNotFoundError), match=r"odd\.zarr") as error:
            open_volume(tmp_path / "odd.zarr", kind=kind)
        assert type(error.value) is ValueError or kind == "labels"
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_of_a_pyramid_have_their_own_voxels(tmp_path, version, consolidated):
    group = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    inner = group.create_group("em")
    levels = []
    for level, factor in enumerate((1, 2)):
        inner.create_array(f"s{level}", data=RAW[:, ::factor, ::factor].copy())
        scale = {"type": "scale", "scale": [40, 4 * factor, 4 * factor]}
        levels.append({"path": f"s{level}", "coordinateTransformations": [scale]})
    ome = {"version": version, "multiscales": [{"axes": axes_of("zyx"), "datasets": levels}]}
    inner.attrs.update({"ome": ome} if version == "0.5" else ome)
    if consolidated:
        zarr.consolidate_metadata(tmp_path / "p.zarr")
    for path, dataset in (("p.zarr", "em/s1"), ("p.zarr/em", "s1"), ("p.zarr/em/s1", None)):
        coarse = open_volume(tmp_path / path, dataset)
        assert (coarse.shape, coarse.resolution) == ((4, 3, 4), (40.0, 8.0, 8.0))
        np.testing.assert_array_equal(coarse[...], RAW[:, ::2, ::2])
    assert open_volume(tmp_path / "p.zarr", "em").resolution == NANOMETRES


def test_a_level_that_is_not_there_is_named(tmp_path, caplog):
    path = write_image(tmp_path / "a.zarr", RAW, axes_of("zyx"), [40, 4, 4])
    group = zarr.open_group(path, mode="r+")
    scales = group.attrs["multiscales"]
    scales[0]["datasets"][0]["path"] = "s0"
    group.attrs["multiscales"] = scales
    with caplog.at_level(logging.WARNING):  # one level, one array: it can be no other
        assert open_volume(path).resolution == NANOMETRES
    assert "names the level 's0', but holds '0'" in caplog.text
    group.create_array("1", data=RAW[:, ::2, ::2].copy())
    with pytest.raises(ValueError, match=r"a\.zarr names the level 's0', but holds 0, 1"):
        open_volume(path)


# ---- attributes ------------------------------------------------------------------------------


def write_attributes(folder, kind, **attributes):
    if kind == "hdf":
        with h5py.File(folder / "a.hdf", "w") as file:
            file["volumes/raw"] = RAW
            file["volumes/raw"].attrs.update(attributes)
        return folder / "a.hdf"
    array = zarr.create_array(folder / "a.zarr", data=RAW, zarr_format=2)
    array.attrs.update(attributes)
    return folder / "a.zarr"


@pytest.mark.parametrize("kind", ["hdf", "zarr"])
@pytest.mark.parametrize(
    "value",
    [4.0, "40 4 4", "", [4.0], [4.0, 4.0], [1.0, 40.0, 4.0, 4.0], [[40.0, 4.0, 4.0]],
     [0.0, 4.0, 4.0], [-40.0, 4.0, 4.0], [float("nan"), 4.0, 4.0], [float("inf"), 4.0, 4.0],
     ["40", "4", "x"]],
)  # fmt: skip
def test_an_odd_resolution_is_named_with_its_file(tmp_path, kind, value):
    path = write_attributes(tmp_path, kind, resolution=value)
    with pytest.raises(ValueError, match=rf"a\.{kind}.*resolution") as error:
        open_volume(path)
    assert "\n" not in str(error.value)
    assert open_volume(path, resolution=NANOMETRES).resolution == NANOMETRES


@pytest.mark.parametrize("value", [0.0, "0 0 0", [0.0, 4.0], [float("nan"), 0.0, 0.0]])
def test_an_odd_offset_is_named_with_its_file(tmp_path, value):
    path = write_attributes(tmp_path, "hdf", resolution=NANOMETRES, offset=value)
    with pytest.raises(ValueError, match=r"a\.hdf.*offset"):
        open_volume(path)


@pytest.mark.parametrize("kind", ["hdf", "zarr"])
def test_units_and_axes_of_attributes(tmp_path, kind):
    path = write_attributes(
        tmp_path,
        kind,
        voxel_size=[0.004, 0.004, 0.04],
        offset=[0.012, 0.008, 0.08],
        units=["um", "um", "um"],
        axis_names=["x", "y", "z"],
    )
    source = open_volume(path)
    assert source.resolution == pytest.approx(NANOMETRES)
    assert source.offset == pytest.approx((80, 8, 12))
    np.testing.assert_array_equal(source[...], RAW.transpose())


def test_whether_a_file_names_its_offset(tmp_path):
    assert not open_volume(write_attributes(tmp_path, "hdf", resolution=NANOMETRES)).has_offset
    path = write_attributes(tmp_path, "hdf", resolution=NANOMETRES, offset=[0.0, 0.0, 0.0])
    assert open_volume(path).has_offset


def test_the_resolution_that_the_user_names_wins(tmp_path, caplog):
    path = write_attributes(tmp_path, "hdf")
    assert open_volume(path, resolution=NANOMETRES).resolution == NANOMETRES
    path = write_attributes(tmp_path, "hdf", resolution=NANOMETRES, offset=[80.0, 0.0, 0.0])
    with caplog.at_level(logging.WARNING):
        assert open_volume(path, resolution=NANOMETRES).resolution == NANOMETRES
        assert not caplog.records
        source = open_volume(path, resolution=(50, 4, 4))
    assert (source.resolution, source.offset) == ((50.0, 4.0, 4.0), (80.0, 0.0, 0.0))
    assert "are taken to be (50.0, 4.0, 4.0) nm, but its metadata say (40.0" in caplog.text
    for wrong in ((0, 4, 4), (4, 4), (float("nan"), 4, 4)):
        with pytest.raises(ValueError, match="the resolution must be 3 positive numbers"):
            open_volume(path, resolution=wrong)
