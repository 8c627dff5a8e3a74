import numpy as np
import pytest

from data.synthetic.fields import SmoothField, Warp, speckle
from data.synthetic.ink import Dots, draw
from data.synthetic.microscope import KINDS, damage, expose
from data.synthetic.organelles import chain_angles, keep_off, mitochondria
from data.synthetic.tubes import Tubes, _overlaps, grow, nearest_tube, push_apart, unwarp

RESOLUTION = (40.0, 4.0, 4.0)


def tubes(centres, radii, owner=None, starts=None):
    count = len(radii)
    return Tubes(
        np.array(centres, float),
        np.array(radii, float),
        np.arange(count) if owner is None else np.array(owner),
        np.ones(count, bool) if starts is None else np.array(starts),
    )


def test_field_has_variance_one_and_is_smooth():
    field = SmoothField(np.random.default_rng(0), (30, 300, 300), (3, 6, 6))
    values = np.stack([field.section(z) for z in range(30)])
    assert abs(values.mean()) < 0.05
    assert values.std() == pytest.approx(1, abs=0.05)
    for axis in range(3):  # neighbours are alike, knots further away are not
        step = np.diff(values, axis=axis).std()
        assert step < 0.5
    assert abs(np.corrcoef(values[:, :, 30:].ravel(), values[:, :, :-30].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("sigma", [0.3, 2, 9])
def test_speckle_has_variance_one(sigma):
    picture = speckle(np.random.default_rng(1), (400, 500), sigma)
    assert picture.shape == (400, 500)
    assert picture.std() == pytest.approx(1, abs=0.1)


def test_unwarp_inverts_the_warp():
    warp = Warp(np.random.default_rng(2), (3, 200, 200), RESOLUTION).section(1)
    y, x = np.array([60, 100, 140]), np.array([80, 100, 90])
    places = np.stack([y, x], axis=1) * 4.0 + warp[1:, y, x].T
    error = np.abs(unwarp(places, warp, RESOLUTION) - np.stack([y, x], axis=1))
    assert np.median(error) < 0.1
    assert error.max() < 2  # where the warp is steep


def test_growth_fills_the_box():
    grown = grow(np.random.default_rng(0), (400.0, 800.0, 800.0))
    volume = (400 + 520) * (800 + 520) ** 2
    assert np.pi * 0.7 * (grown.radii**3).sum() == pytest.approx(volume, rel=0.6)
    assert grown.starts[0]
    # A chain is a chain: consecutive beads nearly touch, and have one owner.
    links = np.flatnonzero(~grown.starts)
    step = np.linalg.norm(grown.centres[links] - grown.centres[links - 1], axis=1)
    assert np.allclose(step, 0.7 * grown.radii[links - 1])
    assert np.array_equal(grown.owner[links], grown.owner[links - 1])


def test_two_tubes_push_each_other_apart_and_the_thin_one_gives_way():
    pair = tubes([[0, 0, 0], [0, 0, 60]], [100, 20])
    pushed = push_apart(pair, iterations=60)
    moved = np.linalg.norm(pushed.centres - pair.centres, axis=1)
    assert pushed.centres[1, 2] - pushed.centres[0, 2] == pytest.approx(120, abs=3)
    assert moved[1] > 5 * moved[0]
    assert np.array_equal(pair.centres, [[0, 0, 0], [0, 0, 60]])


def test_beads_of_one_neurite_do_not_push():
    pair = tubes([[0, 0, 0], [0, 0, 60]], [100, 20], owner=[4, 4])
    assert np.array_equal(push_apart(pair).centres, pair.centres)


def test_pushing_reduces_overlap():
    grown = grow(np.random.default_rng(1), (400.0, 800.0, 800.0))
    pushed = push_apart(grown)

    def overlap(chains):
        i, j, distance = _overlaps(chains.centres, chains)
        return (chains.radii[i] + chains.radii[j] - distance).sum()

    assert overlap(pushed) < 0.4 * overlap(grown)


def test_nearest_tube_measures_to_the_surface():
    no_warp = np.zeros((3, 30, 50), np.float32)
    beads = tubes([[40, 60, 60], [40, 60, 140]], [20, 32])
    bead, distance = nearest_tube(beads, 1, no_warp, RESOLUTION, gap=40.0)
    assert bead[15, 15] == 0
    assert distance[15, 15] == -20
    assert bead[15, 35] == 1
    assert distance[15, 35] == -32
    # Between them at x = 94 nm both surfaces are 14 nm away: the boundary is there.
    assert bead[15, 23] == 0
    assert bead[15, 24] == 1
    assert bead[0, 49] == -1
    assert np.isinf(distance[0, 49])


def test_nearest_tube_agrees_with_trying_every_bead():
    rng = np.random.default_rng(8)
    beads = tubes(rng.uniform(-50, 450, (60, 3)) * (0.4, 1, 1), rng.uniform(10, 90, 60))
    warp = Warp(rng, (3, 70, 90), RESOLUTION).section(1)
    grid = np.mgrid[1:2, 0:70, 0:90][:, 0] * np.array(RESOLUTION)[:, None, None] + warp
    every = np.linalg.norm(grid[:, None] - beads.centres.T[:, :, None, None], axis=0)
    every -= beads.radii[:, None, None]
    bead, distance = nearest_tube(beads, 1, warp, RESOLUTION, gap=25.0)
    reached = every.min(axis=0) < 25
    assert 0.3 < reached.mean() < 1
    assert np.array_equal(bead, np.where(reached, every.argmin(axis=0), -1))
    assert np.allclose(distance[reached], every.min(axis=0)[reached], atol=1e-3)
    assert np.all(np.isinf(distance[~reached]))


def test_mitochondria_lie_inside_thick_neurites():
    neurites = push_apart(grow(np.random.default_rng(3), (900.0, 1500.0, 1500.0)))
    inside = mitochondria(np.random.default_rng(4), neurites)
    assert inside.starts.sum() > 3
    depths = []
    for centre, owner in zip(inside.centres, inside.owner, strict=True):
        own = neurites.owner == owner
        depth = neurites.radii[own] - np.linalg.norm(neurites.centres[own] - centre, axis=1)
        depths.append(depth.max())
    assert np.mean(np.array(depths) > 0) > 0.95
    assert len(chain_angles(np.random.default_rng(0), inside)) == len(inside.radii)


def test_mitochondria_keep_off_synapses():
    chain = tubes(
        [[0, 0, 0], [0, 0, 100], [0, 0, 200], [0, 0, 300]],
        [60, 60, 60, 60],
        owner=[7, 7, 7, 7],
        starts=[True, False, False, False],
    )
    left = keep_off(chain, np.array([[0, 0, -20.0]]), 130.0)
    assert left.centres[:, 2].tolist() == [200, 300]
    assert left.starts.tolist() == [True, False]
    assert keep_off(chain, np.empty((0, 3)), 130.0) is chain


def test_ink_stays_in_its_neurite():
    owner = np.zeros((20, 30), int)
    owner[:, 15:] = 1
    dots = Dots(np.array([[10.0, 5.0], [10.0, 25.0], [-4.0, 2.0]]), np.array([0, 0, 0]), np.ones(3))
    picture = draw(dots, owner, 1.0, 60.0)
    assert picture[10, 5] == pytest.approx(60 * np.tanh(1 / 3), rel=0.05)
    assert picture[10, 25] == 0
    assert draw(dots.take(np.zeros(3, bool)), owner, 1.0, 60.0).max() == 0


def test_exposure_blurs_and_adds_noise_of_the_expected_size():
    flat = np.full((128, 128), 130, np.float32)
    picture = expose(np.random.default_rng(0), flat, np.zeros_like(flat), 4.0)
    assert 2 < picture.std() < 4
    assert abs(picture.mean() - 130) < 10


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_visible_and_leaves_the_picture_alone(kind):
    rng = np.random.default_rng(0)
    picture = (130 + 25 * speckle(rng, (256, 256), 4)).astype(np.float32)
    before = picture.copy()
    damaged = damage(rng, picture, kind, 4.0)
    assert np.array_equal(picture, before)
    assert np.abs(damaged - picture).max() > 40
    assert np.all(np.isfinite(damaged))


def test_unknown_damage_is_an_error():
    with pytest.raises(ValueError, match="kind must be one of"):
        damage(np.random.default_rng(0), np.zeros((4, 4), np.float32), "fire", 4.0)
