"""Points with a type, comments on them, and pairs of pre- and postsynaptic points."""

from collections.abc import Sequence


class Annotations:
    """Synaptic sites and their partners.

    Parameters
    ----------
    offset : sequence of 3 floats
        Origin of all locations in nm, (z, y, x).

    Attributes
    ----------
    comments : dict of int to str
        Comments by annotation id.
    pre_post_partners : list of (int, int)
        Ids of presynaptic and postsynaptic site, in the order in which they were set.
    offset : sequence of 3 floats
        Origin of all locations in nm.
    """

    def __init__(self, offset: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        self._types: dict[int, str] = {}
        self._locations: dict[int, Sequence[float]] = {}
        self.comments: dict[int, str] = {}
        self.pre_post_partners: list[tuple[int, int]] = []
        self.offset = offset

    def add_annotation(self, id: int, type: str, location: Sequence[float]) -> None:
        """Add an annotation, or replace the one with this id.

        Parameters
        ----------
        id : int
            The id of the annotation.
        type : str
            Kind of the site: "presynaptic_site" or "postsynaptic_site" for partners.
        location : sequence of 3 floats
            Place in nm, (z, y, x), relative to the offset.

        Raises
        ------
        ValueError
            If the location does not have three coordinates.
        """
        if len(location) != 3:
            raise ValueError(f"location must be (z, y, x) in nm, got {location!r}")
        self._types[id] = _text(type)
        self._locations[id] = location

    def add_comment(self, id: int, comment: str) -> None:
        """Attach a comment to the annotation with this id (KeyError if there is none)."""
        self._check(id)
        self.comments[id] = _text(comment)

    def set_pre_post_partners(self, pre_id: int, post_id: int) -> None:
        """Mark two annotations as partners (KeyError if one of them does not exist)."""
        self._check(pre_id)
        self._check(post_id)
        self.pre_post_partners.append((pre_id, post_id))

    def ids(self) -> list[int]:
        """List the ids of all annotations, in the order in which they were added."""
        return list(self._types)

    def types(self) -> list[str]:
        """List the types of all annotations, in the order of `ids`."""
        return list(self._types.values())

    def locations(self) -> list[Sequence[float]]:
        """List the locations in nm relative to the offset, in the order of `ids`."""
        return list(self._locations.values())

    def get_annotation(self, id: int) -> tuple[str, Sequence[float]]:
        """Return type and location of the annotation with this id (KeyError if there is none)."""
        self._check(id)
        return self._types[id], self._locations[id]

    def _check(self, id: int) -> None:
        if id not in self._types:
            raise KeyError(f"there is no annotation with id {id}")


def _text(value: str | bytes) -> str:
    return value.decode("utf8") if isinstance(value, bytes) else str(value)
