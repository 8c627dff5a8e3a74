"""Grey values of other ranges become 8 bits by a range that somebody names."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malis.inference import predict
from malis.inference.grey_values import choose_range, normalise, sample_voxels, to_bytes
from unet import UNet

BYTES = np.random.default_rng(0).integers(20, 230, (6, 40, 50), dtype=np.uint8)
KINDS = {  # the same picture as other microscopes write it, and its black and white
    "12 bit in uint16": (BYTES.astype(np.uint16) * 16, (0, 255 * 16)),
    "8 bit in uint16": (BYTES.astype(np.uint16), (0, 255)),
    "float 0 to 1": (BYTES / np.float32(255), (0, 1)),
    "float 0 to 255": (BYTES.astype(np.float32), (0, 255)),
    "signed": (BYTES.astype(np.int16) - 128, (-128, 127)),
}


def test_a_range_becomes_8_bits():
    raw = np.array([-5, 0, 1, 2, 3, 4, 9], np.int16)
    assert to_bytes(raw, (0, 4)).tolist() == [0, 0, 64, 128, 191, 255, 255]
    assert normalise(raw, (0, 4))[[1, 5]].tolist() == [-1, 1]
    assert raw.tolist() == [-5, 0, 1, 2, 3, 4, 9]


@pytest.mark.parametrize("name", KINDS)
def test_the_same_picture_gives_the_same_bytes(name):
    raw, grey_range = KINDS[name]
    np.testing.assert_array_equal(to_bytes(raw, grey_range), BYTES)
    np.testing.assert_array_equal(normalise(raw, grey_range), normalise(BYTES))


@given(st.integers(0, 255), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_bytes_are_kept_by_any_range(value, low, width):
    raw = np.float64(low + value / 255 * width)
    assert abs(int(to_bytes(raw, (low, low + width))) - value) <= 1


@pytest.mark.parametrize("name", KINDS)
def test_a_range_that_is_not_used_is_refused(name):
    raw, grey_range = KINDS[name]
    with pytest.raises(ValueError, match=r"^volume holds .* say which values are black and white"):
        choose_range(raw, name="volume")
    assert choose_range(raw, grey_range) == grey_range


def test_what_needs_no_range(caplog):
    with caplog.at_level(logging.WARNING):
        assert choose_range(BYTES) is None
        assert choose_range(BYTES // 16) is None  # 8 bits are 8 bits
        assert choose_range(normalise(BYTES)) is None
        assert choose_range(np.zeros((3, 3), np.uint16)) is None  # nothing to see
    assert not caplog.records


def test_16_bits_that_are_used_are_taken_with_a_word(caplog):
    with caplog.at_level(logging.WARNING):
        assert choose_range(BYTES.astype(np.uint16) * 257, name="fly") == (0, 65535)
    assert "fly: black is taken to be 0 and white 65535" in caplog.text


def test_percentiles_are_those_of_the_values():
    raw = np.arange(1001.0)
    assert choose_range(raw, ("0.5%", "99.5%")) == (5, 995)
    assert choose_range(raw, ("0", "99.5%")) == (0, 995)


@pytest.mark.parametrize(
    "wanted",
    [(4, 4), (5, 4), ("a", "b"), (0, float("nan")), (0, float("inf")), (1,), ("-1%", "50%"), 3],
)
def test_what_is_no_range_is_refused(wanted):
    with pytest.raises(ValueError, match="must be LOW and HIGH"):
        choose_range(BYTES, wanted)


def test_the_range_of_the_training_is_taken_where_it_fits():
    raw, trained = KINDS["12 bit in uint16"]
    assert choose_range(raw, None, trained) == trained
    assert choose_range(raw, (100, 3000), trained) == (100, 3000)
    assert choose_range(BYTES, None, trained) is None  # converted before
    assert choose_range(BYTES, None, (20, 230)) == (20, 230)
    assert choose_range(raw, None, ["0%", "100%"]) == (raw.min(), raw.max())
    for other in ("8 bit in uint16", "float 0 to 1"):
        with pytest.raises(ValueError, match="the network was trained with black and white at 0"):
            choose_range(KINDS[other][0], None, trained)


def test_values_that_are_no_numbers_have_no_byte():
    with pytest.raises(ValueError, match="no numbers"):
        to_bytes(np.array([0.5, np.nan]), (0, 1))


def test_a_sample_is_from_all_over_the_volume():
    small = np.arange(60).reshape(3, 4, 5)
    assert sorted(sample_voxels(small)) == list(range(60))
    assert sample_voxels(np.zeros((90, 90)), boxes=4, side=8).shape == (4 * 64,)
    assert sample_voxels(np.zeros((3, 9, 90, 90)), boxes=4, side=8).shape == (4 * 64,)
    z, y, x = np.indices((64, 48, 56))
    values = sample_voxels((z << 16) + (y << 8) + x, boxes=32, side=8)
    assert values.size == 32 * 64
    for shift, size in ((16, 64), (8, 48), (0, 56)):
        place = values >> shift & 255
        assert len(np.unique(place * 4 // size)) == 4  # every quarter of every axis


@pytest.mark.parametrize("name", ["12 bit in uint16", "8 bit in uint16", "float 0 to 255"])
def test_predict_refuses_what_looks_black_or_white(name):
    raw, grey_range = KINDS[name]
    network = UNet(depth=2, wf=2, padding=True)
    with pytest.raises(ValueError, match=r"say which values|must be normalised to \[-1, 1\]"):
        predict(network, raw, progress=False)
    np.testing.assert_array_equal(
        predict(network, to_bytes(raw, grey_range), progress=False),
        predict(network, BYTES, progress=False),
    )
