import matplotlib.pyplot as plt
import numpy as np
import pytest
from mpl_toolkits.mplot3d import Axes3D

from malis.pictures.surfaces import show_surfaces


def test_every_object_is_a_surface_of_its_colour_in_its_place(monkeypatch):
    labels = np.zeros((6, 10, 12), int)
    labels[1:5, 2:6, 2:6] = 7
    labels[1:5, 2:8, 7:11] = 9
    before = labels.copy()
    drawn, draw = [], Axes3D.plot_trisurf

    def record(self, x, y, faces, z, **style):
        drawn.append(((x, y, z), style["color"]))
        return draw(self, x, y, faces, z, **style)

    monkeypatch.setattr(Axes3D, "plot_trisurf", record)
    figure = plt.figure()
    ax = figure.add_subplot(projection="3d")
    show_surfaces(ax, labels, [7, 9, 100], (10, 2, 3), ("red", "blue"))
    figure.canvas.draw()
    plt.close(figure)
    np.testing.assert_array_equal(labels, before)
    (cube, red), (_, blue) = drawn  # 100 is not there
    assert (red, blue) == ("red", "blue")
    for values, start, stop, step in zip(cube, (6, 4, 10), (18, 12, 50), (3, 2, 10), strict=True):
        assert values.min() == pytest.approx(start, abs=step / 4)  # smoothed
        assert values.max() == pytest.approx(stop, abs=step / 4)
    assert ax.get_zlim() == (0, 60) and ax.get_ylim() == (0, 20) and ax.get_xlim() == (0, 36)
