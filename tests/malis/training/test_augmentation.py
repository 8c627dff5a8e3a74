import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malis.training import describe
from malis.training.augmentation import (
    FOLD_FREE,
    Augmentation,
    damage_sections,
    deform,
    grey_value_changes,
    interchangeable_axes,
    random_displacement,
)

SERIAL, ISOTROPIC, FLAT = (40.0, 4.0, 4.0), (10.0, 10.0, 10.0), (4.0, 4.0)
STILL = {"elastic_amplitude": 0, "grey_values": None}


def patch(spatial, label_spatial, margin=None, seed=0):
    margin = margin or (0,) * len(spatial)
    rng = np.random.default_rng(seed)
    raw = rng.uniform(-1, 1, [n + 2 * m for n, m in zip(spatial, margin, strict=True)])
    labels = rng.integers(1, 2**62, [n + 2 * m for n, m in zip(label_spatial, margin, strict=True)])
    return torch.from_numpy(raw[None].astype(np.float32)), torch.from_numpy(labels)


class TestFlipAndTranspose:
    def test_all_eight_views_of_a_square_occur(self):
        raw = torch.arange(9.0).reshape(1, 3, 3)
        seen = set()
        for seed in range(100):
            out, labels = Augmentation(**STILL)(
                raw, raw[0].long(), FLAT, np.random.default_rng(seed)
            )
            assert torch.equal(out[0].long(), labels)  # raw and labels move together
            seen.add(tuple(out.flatten().tolist()))
        symmetries = {
            tuple(np.rot90(view, k).flatten().tolist())
            for view in (raw[0].numpy(), raw[0].numpy().T)
            for k in range(4)
        }
        assert seen == symmetries

    @pytest.mark.parametrize(
        ("spatial", "resolution", "groups"),
        [
            ((8, 8), FLAT, [[0, 1]]),
            ((8, 6), FLAT, [[0], [1]]),
            ((8, 8, 8), ISOTROPIC, [[0, 1, 2]]),
            ((8, 8, 8), SERIAL, [[0], [1, 2]]),
            ((4, 8, 8), ISOTROPIC, [[0], [1, 2]]),
            ((8, 4, 8), ISOTROPIC, [[0, 2], [1]]),
        ],
    )
    def test_only_axes_of_one_size_and_resolution_change_places(self, spatial, resolution, groups):
        assert interchangeable_axes(spatial, resolution) == groups
        # A ramp along one axis tells where that axis went.
        for axis in range(len(spatial)):
            shape = [-1 if other == axis else 1 for other in range(len(spatial))]
            raw = torch.arange(float(spatial[axis])).view(1, *shape).expand(1, *spatial)
            went = set()
            for seed in range(60):
                out, _ = Augmentation(flip=False, **STILL)(
                    raw, raw[0].long(), resolution, np.random.default_rng(seed)
                )
                assert out.shape[1:] == spatial
                went |= {a for a in range(len(spatial)) if out[0].diff(dim=a).any()}
            assert went == set(next(group for group in groups if axis in group))

    def test_label_size_counts_too(self):
        raw, labels = patch((8, 8), (6, 4))
        for seed in range(10):
            _, out = Augmentation(**STILL)(raw, labels, FLAT, np.random.default_rng(seed))
            assert out.shape == (6, 4)


class TestDisplacement:
    @settings(max_examples=30)
    @given(
        st.integers(0, 2**32),
        st.lists(st.tuples(st.integers(1, 40), st.floats(2, 40)), min_size=2, max_size=3),
        st.floats(0, 10),
    )
    def test_never_exceeds_the_amplitude(self, seed, axes, amplitude):
        shape, spacing = zip(*axes, strict=True)
        amplitudes = [amplitude] * (len(shape) - 1) + [0.0]
        field = random_displacement(shape, spacing, amplitudes, np.random.default_rng(seed))
        assert field.shape == (len(shape), *shape) and field.dtype == torch.float32
        assert field.abs().max() <= amplitude + 1e-5
        assert not field[-1].any()

    def test_equals_the_spline_of_its_coefficients(self):
        # scipy builds the same uniform cubic B-spline from the same numbers.
        from scipy.interpolate import BSpline

        field = random_displacement((50, 1), (8, 8), (5, 5), np.random.default_rng(4))
        c = np.random.default_rng(4).uniform(-1, 1, (2, 10, 4)) * 5
        along_x = BSpline(np.arange(-3, 5), np.moveaxis(c, 2, 0), 3)(0.0)
        spline = BSpline(np.arange(-3, 11), np.moveaxis(along_x, 1, 0), 3)(np.arange(50) / 8)
        np.testing.assert_allclose(field[:, :, 0].numpy(), spline.T, atol=1e-5)

    def test_cannot_fold(self):
        # The largest allowed amplitude everywhere with the worst signs: places stay in order.
        class Extreme:
            def uniform(self, low, high, shape):
                return (np.indices(shape).sum(0) % 2) * 2.0 - 1

        spacing = 16
        field = random_displacement(
            (64, 64, 64), (spacing,) * 3, (FOLD_FREE * spacing,) * 3, Extreme()
        )
        jacobian = np.stack([np.stack(np.gradient(f), -1) for f in field.numpy()], -2) + np.eye(3)
        assert np.linalg.det(jacobian).min() > 0


class TestDeform:
    def test_no_displacement_is_the_centre(self):
        raw, labels = patch((10, 12), (4, 6), (3, 2))
        out, ids = deform(raw, labels, torch.zeros(2, 10, 12))
        torch.testing.assert_close(out, raw[:, 3:-3, 2:-2], atol=1e-5, rtol=0)
        assert torch.equal(ids, labels[3:-3, 2:-2])

    @pytest.mark.parametrize("spatial", [(9, 8), (4, 9, 8)])
    def test_whole_voxel_shift(self, spatial):
        margin = (2,) * len(spatial)
        raw, labels = patch(spatial, [n - 2 for n in spatial], margin)
        shift = [2, -1, 1][-len(spatial) :]
        field = torch.tensor(shift, dtype=torch.float32).view(-1, *(1,) * len(spatial))
        out, ids = deform(raw, labels, field.expand(-1, *spatial))
        cut = [slice(2 + s, 2 + s + n) for s, n in zip(shift, spatial, strict=True)]
        torch.testing.assert_close(out[0], raw[(0, *cut)], atol=1e-5, rtol=0)
        cut = [slice(2 + s, n + s) for s, n in zip(shift, spatial, strict=True)]
        assert torch.equal(ids, labels[tuple(cut)])

    def test_half_a_voxel_mixes_raw_but_never_labels(self):
        raw, labels = patch((1, 6), (1, 6), (1, 1))
        out, ids = deform(raw, labels, torch.tensor([0.0, 0.5]).view(2, 1, 1).expand(2, 1, 6))
        mixed = (raw[:, 1:-1, 1:-1] + raw[:, 1:-1, 2:]) / 2
        torch.testing.assert_close(out, mixed, atol=1e-5, rtol=0)
        assert set(ids.flatten().tolist()) <= set(labels.flatten().tolist())

    def test_against_scipy(self):
        from scipy.ndimage import map_coordinates

        raw, labels = patch((12, 14, 10), (12, 14, 10), (4, 4, 4))
        rng = np.random.default_rng(1)
        field = random_displacement((12, 14, 10), (5, 6, 7), (4, 4, 4), rng)
        out, ids = deform(raw, labels, field)
        places = np.indices((12, 14, 10)) + 4 + field.numpy()
        expected = map_coordinates(raw[0].numpy(), places, order=1)
        np.testing.assert_allclose(out[0].numpy(), expected, atol=1e-4)
        nearest = np.rint(places).astype(int)
        assert np.mean(ids.numpy() == labels.numpy()[tuple(nearest)]) > 0.999

    def test_ids_of_any_size_survive(self):
        labels = torch.tensor([[2**62 + 1, 2**53 + 1], [2**24 + 1, -1]])
        _, ids = deform(torch.zeros(1, 2, 2), labels, torch.zeros(2, 2, 2))
        assert torch.equal(ids, labels)


class TestAugmentation:
    @pytest.mark.parametrize(
        ("resolution", "margin"), [(SERIAL, (0, 8, 8)), (ISOTROPIC, (8, 8, 8)), (FLAT, (8, 8))]
    )
    def test_margin(self, resolution, margin):
        assert Augmentation().margin(resolution) == margin
        assert Augmentation(elastic_amplitude=0).margin(resolution) == (0,) * len(margin)

    def test_same_generator_same_patch(self):
        augment, again = Augmentation(damaged_sections=0.5), Augmentation(damaged_sections=0.5)
        margin = augment.margin(SERIAL)
        raw, labels = patch((6, 30, 30), (4, 20, 20), margin)
        before = raw.clone(), labels.clone()
        first = augment(raw, labels, SERIAL, np.random.default_rng(3))
        other = augment(raw, labels, SERIAL, np.random.default_rng(4))
        torch.manual_seed(0)
        second = again(raw, labels, SERIAL, np.random.default_rng(3))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
        assert not torch.equal(first[0], other[0])
        assert first[0].shape == (1, 6, 30, 30) and first[1].shape == (4, 20, 20)
        assert torch.equal(raw, before[0]) and torch.equal(labels, before[1])

    def test_gives_plain_tensors_without_warnings(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            augment = Augmentation(elastic_amplitude=0)
            for seed in range(20):
                raw, labels = patch((12, 12), (12, 12))
                raw, labels = augment(raw, labels, FLAT, np.random.default_rng(seed))
                assert type(raw) is torch.Tensor and type(labels) is torch.Tensor
                assert raw.dtype == torch.float32 and labels.dtype == torch.int64
                assert raw.is_contiguous() and labels.is_contiguous()

    def test_sections_far_apart_are_not_mixed(self):
        # Each section has a grey value of its own; moving along z would interpolate between them.
        augment = Augmentation(flip=False, grey_values=None)
        raw = torch.linspace(-1, 1, 5).view(1, 5, 1, 1).expand(1, 5, 40, 40)
        out, _ = augment(raw, raw[0].long(), SERIAL, np.random.default_rng(0))
        torch.testing.assert_close(out, raw[:, :, :24, :24].contiguous())

    def test_grey_values_change_as_documented(self):
        raw = torch.linspace(-0.5, 0.5, 400).view(1, 20, 20)
        changed = []
        for seed in range(200):
            transform = grey_value_changes(contrast=0.25, brightness=0.2, gamma=1.4, noise=0.0)
            transform.set_random_state(seed=seed)
            changed.append(transform(raw))
        ranges = torch.stack([(view.max() - view.min()) for view in changed])
        assert 0.74 < ranges.min() < 0.8 and 1.2 < ranges.max() < 1.26
        middles = torch.stack([(view.max() + view.min()) / 2 for view in changed])
        assert -0.21 < middles.min() < -0.15 and 0.15 < middles.max() < 0.21
        assert all((view.flatten().diff() > 0).all() for view in changed)  # order is kept

    @pytest.mark.parametrize("by_section", [False, True])
    def test_serial_sections_change_their_grey_values_one_by_one(self, by_section):
        raw = torch.linspace(-0.5, 0.5, 64).view(1, 1, 8, 8).repeat(1, 4, 1, 1)
        change = grey_value_changes(noise=0.0, by_section=by_section)
        change.set_random_state(seed=0)
        changed = change(raw).as_subclass(torch.Tensor)
        assert changed.shape == raw.shape
        means = changed.mean(dim=(0, 2, 3))
        assert (len(means.unique()) == 4) == by_section

    def test_grey_values_are_those_of_plain_transforms(self):
        from monai import transforms

        plain = transforms.Compose(
            [
                transforms.RandScaleIntensityFixedMean(prob=1.0, factors=0.25),
                transforms.RandShiftIntensity(prob=1.0, offsets=0.2),
                transforms.RandAdjustContrast(prob=0.5, gamma=(1 / 1.4, 1.4)),
                transforms.RandGaussianNoise(prob=0.5, std=0.08, sample_std=True),
            ]
        )
        raw = torch.linspace(-0.5, 0.5, 64).view(1, 8, 8)
        changes = pickle.loads(pickle.dumps(grey_value_changes()))
        strengths = {"contrast": 0.25, "brightness": 0.2, "gamma": 1.4, "noise": 0.08}
        known = {"class": "GreyValueChanges", **strengths, "by_section": False}
        assert describe(changes) == known
        for seed in range(8):
            views = []
            for transform in (plain, changes, transforms.Compose([changes])):
                transform.set_random_state(seed=seed)
                views.append(transform(raw))
            assert torch.equal(views[0], views[1])

    def test_labels_do_not_feel_grey_values(self):
        raw, labels = patch((12, 12), (12, 12))
        still = Augmentation(flip=False, transpose=False, elastic_amplitude=0)
        out, ids = still(raw, labels, FLAT, np.random.default_rng(0))
        assert torch.equal(ids, labels) and not torch.equal(out, raw)

    def test_another_monai_transform_is_seeded(self):
        from monai.transforms import RandBiasField

        augment = Augmentation(
            flip=False, transpose=False, elastic_amplitude=0, grey_values=RandBiasField(prob=1)
        )
        raw, labels = patch((12, 12), (12, 12))
        first, again, other = (
            augment(raw, labels, FLAT, np.random.default_rng(seed))[0] for seed in (1, 1, 2)
        )
        assert torch.equal(first, again) and not torch.equal(first, other)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"elastic_amplitude": 13}, r"\[0, 12.8\)"),
            ({"elastic_amplitude": -1}, "elastic_amplitude"),
            ({"elastic_spacing": 0}, "elastic_amplitude"),
            ({"damaged_sections": 1.5}, "damaged_sections"),
        ],
    )
    def test_settings_out_of_range(self, settings, words):
        with pytest.raises(ValueError, match=words):
            Augmentation(**settings)


def test_damaged_sections_are_black_or_faint():
    raw = torch.rand(1, 400, 6, 6) * 2 - 1
    before = raw.clone()
    out = damage_sections(raw, 0.5, np.random.default_rng(0))
    assert torch.equal(raw, before)
    same = (out == raw).flatten(2).all(2)[0]
    black = (out == -1).flatten(2).all(2)[0]
    contrast = out.flatten(2).std(2)[0] / raw.flatten(2).std(2)[0]
    faint = (contrast - 0.2).abs() < 1e-3
    assert (same.int() + black.int() + faint.int() == 1).all()
    assert abs(same.float().mean() - 0.5) < 0.1 and abs(black.float().mean() - 0.25) < 0.1
