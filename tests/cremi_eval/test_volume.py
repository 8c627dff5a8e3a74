import h5py
import numpy as np
import pytest

from cremi_eval import Annotations, Volume
from cremi_eval._slabs import slabs
from cremi_eval.grid import box_of, check_same_grid, crop_to, names_offset


def counting(shape=(2, 3, 4), **kwargs):
    return Volume(np.arange(np.prod(shape)).reshape(shape), **kwargs)


def test_location_finds_the_nearest_voxel():
    volume = counting(resolution=(40, 4, 4))
    assert volume[(0.0, 0.0, 0.0)] == 0
    assert volume[(41.0, 7.0, 9.0)] == volume.data[1, 2, 2]


def test_halves_round_away_from_zero_as_in_python_2():
    volume = counting(resolution=(4, 4, 4))
    assert volume[(0, 2.0, 10.0)] == volume.data[0, 1, 3]  # round() would give (0, 0, 2)
    assert volume[(0, 0, -1.9)] == volume.data[0, 0, 0]
    assert volume[(0, 0, 4 * 0.49999999999999994)] == volume.data[0, 0, 0]
    with pytest.raises(IndexError):
        volume[(0, 0, -2.0)]


@pytest.mark.parametrize("location", [(0, -50, 10), (0, 0, 1e9), (80, 0, 0), (0, float("nan"), 0)])
def test_location_outside_is_an_index_error(location):
    with pytest.raises(IndexError, match="does not lie inside"):
        counting(resolution=(40, 4, 4))[location]


def test_a_location_can_be_written():
    volume = counting(resolution=(40, 4, 4))
    volume[(40, 8, 12)] = -7
    assert volume.data[1, 2, 3] == -7


def test_annotations_keep_order_and_find_by_id():
    annotations = Annotations(offset=(1, 2, 3))
    annotations.add_annotation(7, "presynaptic_site", (0.0, 1.0, 2.0))
    annotations.add_annotation(3, "postsynaptic_site", (5.0, 6.0, 7.0))
    annotations.add_comment(3, "unsure")
    annotations.set_pre_post_partners(7, 3)
    assert annotations.ids() == [7, 3]
    assert annotations.types() == ["presynaptic_site", "postsynaptic_site"]
    assert annotations.locations() == [(0.0, 1.0, 2.0), (5.0, 6.0, 7.0)]
    assert annotations.get_annotation(np.uint64(3)) == ("postsynaptic_site", (5.0, 6.0, 7.0))
    assert annotations.comments == {3: "unsure"}
    assert annotations.pre_post_partners == [(7, 3)]


def test_unknown_ids_are_named():
    annotations = Annotations()
    annotations.add_annotation(1, "presynaptic_site", (0, 0, 0))
    for call in (
        lambda: annotations.get_annotation(9),
        lambda: annotations.add_comment(9, "x"),
        lambda: annotations.set_pre_post_partners(1, 9),
    ):
        with pytest.raises(KeyError, match="no annotation with id 9"):
            call()
    with pytest.raises(ValueError, match="z, y, x"):
        annotations.add_annotation(2, "presynaptic_site", (0, 0))


def test_grids_that_disagree_are_both_named():
    a = counting(resolution=(40, 4, 4))
    check_same_grid(a, counting(resolution=np.array([40.0, 4, 4]), offset=(4, 0, 0)))
    with pytest.raises(ValueError, match=r"raw .* \(2, 3, 4\), but labels .* \(2, 3, 5\)"):
        check_same_grid(a, counting((2, 3, 5), resolution=(40, 4, 4)), ("raw", "labels"))
    with pytest.raises(ValueError, match=r"\(40.0, 4.0, 4.0\) nm, but b has .*\(50.0, 4.0, 4.0\)"):
        check_same_grid(a, counting(resolution=(50, 4, 4)), ("a", "b"))


def test_offsets_that_contradict_each_other_are_logged_once(caplog):
    here, there = (counting(resolution=(40, 4, 4), offset=(80, 0, x)) for x in (0, 4000))
    for _ in range(3):
        check_same_grid(here, there, ("the one", "the other"))
    assert caplog.messages == [
        "the one lies at (80.0, 0.0, 0.0) nm, but the other at (80.0, 0.0, 4000.0) nm: they are "
        "compared voxel by voxel all the same"
    ]


def test_a_missing_offset_is_no_contradiction(tmp_path, caplog):
    truth = counting(resolution=(40, 4, 4), offset=(40, 0, 0))
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        data = file.create_dataset("v", data=truth.data)
        found = Volume(data, (40, 4, 4))
        check_same_grid(found, truth)
        assert not names_offset(found) and not caplog.text
        data.attrs["offset"] = (0.0, 0.0, 0.0)
        check_same_grid(found, truth)
        assert names_offset(found) and "first lies at (0.0, 0.0, 0.0) nm, but second" in caplog.text


def test_the_voxels_that_a_part_covers():
    whole = counting((4, 8, 8), resolution=(40, 4, 4), offset=(40, 0, 400))
    part = counting((2, 3, 4), resolution=(40, 4, 4), offset=(120, 4, 416))
    assert box_of(part, whole) == (slice(2, 4), slice(1, 4), slice(4, 8))
    part.offset = (120, 4, 420)
    with pytest.raises(ValueError, match=r"the volume .* does not cover the part"):
        box_of(part, whole)


def test_slabs_hold_whole_chunks(tmp_path):
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        volume = file.create_dataset("v", (10, 4, 4), np.uint64, chunks=(3, 2, 2))
        array = np.zeros(volume.shape, np.uint64)
        section = array[0].nbytes
        for volumes, max_bytes, starts in [
            ((array,), 2 * section, [0, 2, 4, 6, 8]),
            ((volume,), 2 * section, [0, 3, 6, 9]),
            ((array, volume), 7 * section, [0, 6]),
            ((array,), 1, list(range(10))),
        ]:
            pieces = list(slabs(*volumes, max_bytes=max_bytes))
            assert [piece.start for piece in pieces] == starts
            covered = [z for piece in pieces for z in range(10)[piece]]
            assert covered == list(range(10))


def test_a_padded_raw_volume_is_cropped_to_its_labels():
    raw = counting((4, 8, 8), resolution=(40, 4, 4))
    labels = counting((2, 3, 4), resolution=(40, 4, 4), offset=(40, 8, 12))
    cropped = crop_to(raw, labels)
    np.testing.assert_array_equal(cropped.data, raw.data[1:3, 2:5, 3:7])
    assert tuple(cropped.offset) == (40, 8, 12)
    for offset in [(-40, 0, 0), (120, 0, 0), (0, 2, 0)]:
        with pytest.raises(ValueError, match="does not cover"):
            crop_to(raw, counting((2, 3, 4), resolution=(40, 4, 4), offset=offset))
    with pytest.raises(ValueError, match="does not cover"):
        crop_to(raw, counting((2, 3, 4), resolution=(50, 4, 4), offset=(50, 8, 12)))


def test_a_smaller_labels_volume_that_begins_where_raw_does_is_no_padding():
    raw = counting((4, 8, 8), resolution=(40, 4, 4))
    with pytest.raises(ValueError, match=r"raw has shape .* but labels has shape \(4, 8, 7\)"):
        crop_to(raw, counting((4, 8, 7), resolution=(40, 4, 4)))


def test_one_shape_in_two_places_is_taken_as_aligned_and_logged(caplog):
    raw = counting((4, 8, 8), resolution=(40, 4, 4))
    assert crop_to(raw, counting((4, 8, 8), resolution=(40, 4, 4))) is raw and not caplog.text
    assert crop_to(raw, counting((4, 8, 8), resolution=(40, 4, 4), offset=(80, 0, 0))) is raw
    assert "raw and labels have one shape, but the offsets (0.0, 0.0, 0.0)" in caplog.text
