import matplotlib as mpl
import numpy as np
import pytest

from malis import nearest_offsets, pictures
from malis.maximin import maximin_tree

mpl.use("Agg")
LABELS = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 2]])


@pytest.fixture
def ax():
    figure, axes = pictures.panels(["one"])
    yield axes[0]
    mpl.pyplot.close(figure)


def drawn(ax):
    ax.figure.canvas.draw()
    return np.array(ax.figure.canvas.buffer_rgba())[..., :3]


def test_an_object_keeps_its_colour_from_figure_to_figure():
    alone = pictures.colour_labels(np.array([[7]]))
    among = pictures.colour_labels(np.array([[3, 7, 2**40]], dtype=np.uint64))
    np.testing.assert_array_equal(among[0, 1], alone[0, 0])
    assert not np.array_equal(among[0, 0], among[0, 1])


def test_background_is_black():
    assert (pictures.colour_labels(np.array([[0, 4]]))[0, 0] == 0).all()


def test_neighbouring_ids_have_colours_that_differ_clearly():
    colours = pictures.colour_labels(np.arange(1, 60)[None])[0]
    assert np.abs(np.diff(colours, axis=0)).max(axis=1).min() > 0.2


def test_borders_by_hand():
    expected = [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
    np.testing.assert_array_equal(pictures.find_borders(LABELS), expected)
    assert not pictures.find_borders(np.ones((4, 4), int)).any()
    assert pictures.find_borders(LABELS, thickness=2).sum() > 5


def test_borders_of_unsigned_ids_do_not_wrap():
    labels = np.array([[2**64 - 1, 0, 5]], dtype=np.uint64)
    assert pictures.find_borders(labels).tolist() == [[False, True, True]]


def test_panels_have_one_axes_a_title():
    figure, axes = pictures.panels(list("abcde"), columns=3)
    assert [ax.get_title() for ax in axes] == list("abcde")
    assert len(figure.axes) == 6
    mpl.pyplot.close(figure)


def test_the_merge_tree_has_a_bracket_for_every_merge(ax):
    affinities = np.random.default_rng(0).random((2, 3, 3), dtype=np.float32)
    tree = maximin_tree(affinities, np.array(nearest_offsets(2)))
    pictures.draw_merge_tree(ax, tree, np.linspace(0.9, 0.1, 8), "abcdefghi")
    assert len(ax.lines) == 8
    written = [text.get_text() for text in ax.texts]
    assert sorted(name for name in written if name.isalpha()) == list("abcdefghi")


def test_the_first_merges_of_a_tree(ax):
    affinities = np.random.default_rng(0).random((2, 3, 3), dtype=np.float32)
    tree = maximin_tree(affinities, np.array(nearest_offsets(2)))
    heights = np.linspace(0.9, 0.1, 8)
    pictures.draw_merge_tree(ax, tree, heights, labels=LABELS, n_merges=3)
    assert len(ax.lines) == 3
    assert min(line.get_ydata().min() for line in ax.lines) == heights[2]


def test_segments_get_the_ids_of_the_objects_that_they_match():
    truth = np.array([[4, 4, 4, 4, 7, 7, 0, 9]])
    segments = np.array([[1, 1, 1, 2, 5, 5, 5, 0]])
    assert pictures.match_labels(segments, truth).tolist() == [[4, 4, 4, 10, 7, 7, 7, 0]]
    with pytest.raises(ValueError, match="segments have shape"):
        pictures.match_labels(segments, truth[0])


def test_a_scale_bar_is_as_long_as_it_says(ax):
    pictures.show_raw(ax, np.zeros((100, 300), np.uint8))
    pictures.add_scale_bar(ax, 4.0)
    start, end = ax.lines[0].get_xdata()
    assert ax.texts[0].get_text() == "200 nm" and np.isclose(end - start, 50)
    pictures.add_scale_bar(ax, 40.0, 2000)
    assert ax.texts[1].get_text() == "2 µm"
    assert ax.get_xlim() == (-0.5, 299.5)


def test_a_colour_bar_stands_beside_the_picture(ax):
    pictures.show_affinity(ax, np.zeros((4, 4)))
    pictures.add_colour_bar(ax, "affinity")
    assert [one.get_ylabel() for one in ax.figure.axes] == ["", "affinity"]


def test_the_grid_graph_has_a_line_for_every_edge(ax):
    affinities = np.full((2, 3, 3), 0.5)
    emphasised = [(1, 0, 1)]
    pictures.draw_grid_graph(
        ax, affinities, nearest_offsets(2), labels=LABELS, emphasised=emphasised
    )
    assert len(ax.lines) == 12
    assert sum(line.get_linestyle() == "--" for line in ax.lines) == 1


def test_kept_edges_stand_out(ax):
    affinities = np.full((2, 3, 3), 0.5)
    pictures.draw_grid_graph(ax, affinities, nearest_offsets(2), kept=[(1, 0, 1), (0, 1, 0)])
    colours = [line.get_color() for line in ax.lines]
    assert colours.count(pictures.PALETTE[0]) == 2 and colours.count("0.85") == 10


def test_pulls_are_drawn_where_the_gradient_is(ax):
    gradient = np.zeros((2, 5, 6))
    gradient[0, 2, 3], gradient[1, 4, 1] = -2, 1
    pictures.show_pull(ax, np.zeros((5, 6), np.uint8), gradient)
    up, down = (collection.get_offsets().tolist() for collection in ax.collections)
    assert up == [[3, 2]]
    assert down == [[1, 4]]


def test_weak_pulls_are_drawn_large_enough_to_see(ax):
    gradient = np.zeros((2, 5, 6))
    gradient[0, 2, 3], gradient[0, 4, 1] = -2, -0.01
    pictures.show_pull(ax, np.zeros((5, 6), np.uint8), gradient, size=100, smallest=8)
    assert ax.collections[0].get_sizes().tolist() == [100, 8]


def test_outlines_of_neighbours_lie_side_by_side_and_names_inside_the_picture(ax):
    labels = np.repeat([[1] * 10 + [2] * 10], 20, axis=0)
    pictures.outline_objects(ax, np.zeros((20, 20), np.uint8), labels, [1, 2])
    one, other = (np.concatenate(c.get_paths()[0].to_polygons()) for c in ax.collections)
    assert one[:, 0].max() < 9.5 < other[:, 0].min()  # the border is at 9.5
    places = np.array([text.get_position() for text in ax.texts])
    assert (places >= 4).all() and (places <= 15).all()


def test_the_row_of_leaves_hides_no_bracket(ax):
    affinities = np.full((2, 3, 3), 0.99, dtype=np.float32)
    tree = maximin_tree(affinities, np.array(nearest_offsets(2)))
    pictures.draw_merge_tree(ax, tree, np.full(8, 0.99))
    leaves = ax.collections[0].get_offsets()[:, 1]
    assert min(leaves) > 1 > max(line.get_ydata()[1] for line in ax.lines)


def test_only_borders_without_another_nearby_disagree(ax):
    truth = np.repeat([[1] * 10 + [2] * 10 + [3] * 10], 30, axis=0)  # borders at 10 and 20
    labels = np.repeat([[1] * 12 + [2] * 13 + [3] * 5], 30, axis=0)  # at 12 and 25
    pictures.show_disagreement(ax, np.zeros((30, 30), np.uint8), truth, labels, tolerance=4)
    overlay = ax.images[-1].get_array()[15]
    marked = {x: mpl.colors.to_hex(overlay[x]).upper() for x in np.flatnonzero(overlay[:, 3])}
    missing, invented = pictures.TRUTH, pictures.FOUND
    assert marked == dict.fromkeys((19, 20, 21), missing) | dict.fromkeys((24, 25, 26), invented)


@pytest.mark.parametrize(
    "show",
    [
        lambda ax, raw: pictures.show_labels(ax, LABELS, raw),
        lambda ax, raw: pictures.show_borders(ax, raw, LABELS),
        lambda ax, raw: pictures.outline_objects(ax, raw, LABELS, [1, 99]),
        lambda ax, raw: pictures.show_disagreement(ax, raw, LABELS, np.ones_like(LABELS)),
        lambda ax, raw: pictures.show_affinity(ax, raw / 255),
        lambda ax, raw: pictures.plot_split_merge(ax, {"a": ([2, 1], [0, 1])}, {"a": 1}),
        lambda ax, raw: pictures.plot_histories(ax, {"a": ([1, 2], [3, 4])}, "loss"),
        lambda ax, raw: pictures.show_contingency(ax, np.eye(3, dtype=int), [1, 2, 3], [4, 5, 6]),
    ],
)
def test_every_figure_shows_something(ax, show):
    before = drawn(ax)
    show(ax, np.full((3, 3), 90, np.uint8))
    assert (drawn(ax) != before).any()
