"""The region graph of a whole volume, and its agglomeration.

The blocks have counted and summed; here the sums of all blocks are added up. In memory are the
fragments and the pairs of them that touch, at the peak about 800 bytes a pair, and no voxels.
"""

import io
import zipfile
import zlib
from typing import Any

import numpy as np
from scipy import sparse

from malis.scale.blocks import Block
from malis.scale.output import Output, write_file
from malis.segmentation.agglomeration import merge_regions
from malis.segmentation.hierarchy import Hierarchy
from malis.segmentation.regions import RegionSums
from malis.segmentation.sections import link_regions

ROUNDING = 1e-6  # scores are compared in single precision


def agglomerate_blocks(output: Output, *, linkage: str, threshold: float, link: bool) -> None:
    """Merge the fragments of all blocks and write down the segment of each.

    Parameters
    ----------
    output : Output
        Whose blocks have boundaries; receives the tables ``fragments.npy`` (ids, ascending) and
        ``segments.npy``.
    linkage : {"mean", "single"}
    threshold : float
        Merge while the score is at least this.
    link : bool
        Link the regions of neighbouring sections.

    Raises
    ------
    OSError
        If the boundaries of a block are damaged.
    """
    parts = [_read_boundaries(output, block) for block in output.blocks]
    ids, sizes = _sum_by_key(_gather(parts, "ids")[:, None], [(_gather(parts, "sizes"), np.add)])
    ids = ids[:, 0]
    graph = drop_hopeless(join_graphs(ids, parts), linkage, threshold)
    merges, scores = merge_regions(graph, linkage=linkage)
    segments = Hierarchy(np.zeros(0, np.int32), len(ids), merges, scores).regions(threshold)
    if link:
        overlaps = np.searchsorted(ids, _gather(parts, "overlaps"))
        area = np.bincount(segments, weights=sizes[0], minlength=segments.max(initial=0) + 1)
        segments = link_regions(area, segments[overlaps].T, _gather(parts, "overlap_sizes"))[
            segments
        ]
    for name, table in (("fragments", ids), ("segments", segments.astype(np.uint64))):
        content = io.BytesIO()
        np.save(content, table)
        write_file(output.file(f"{name}.npy"), content.getvalue())


def join_graphs(ids: np.ndarray, parts: list[dict[str, np.ndarray]]) -> RegionSums:
    """Add up the boundaries of all blocks.

    Parameters
    ----------
    ids : (N,) uint64 array
        All fragments, ascending; fragment ``ids[i]`` becomes region i.
    parts : list of dict
        Of every block ``pairs`` (E, 2), ``contact``, ``total`` and ``maximum`` (E,).

    Returns
    -------
    RegionSums
    """
    pairs = np.searchsorted(ids, _gather(parts, "pairs"))
    sums = [
        (_gather(parts, "contact"), np.add),
        (_gather(parts, "total"), np.add),
        (_gather(parts, "maximum"), np.maximum),
    ]
    edges, (contact, total, maximum) = _sum_by_key(pairs, sums)
    return RegionSums(len(ids), edges.astype(np.int64), contact, total, maximum)


def drop_hopeless(graph: RegionSums, linkage: str, threshold: float) -> RegionSums:
    """Leave out pairs that no merge down to a threshold can join.

    A merge's score is a mean (or the maximum) of those of the pairs it puts together, so one of
    them reaches the threshold, too. Hence nothing is merged across two components of the graph of
    the pairs that do, and what lies between them need not be kept.

    Parameters
    ----------
    graph : RegionSums
    linkage : {"mean", "single"}
    threshold : float

    Returns
    -------
    RegionSums
        With the same regions and, down to the threshold, the same merges.
    """
    score = graph.maximum if linkage == "single" else graph.mean
    joined = graph.edges[score >= threshold - ROUNDING]
    table = sparse.coo_array(
        (np.ones(len(joined), bool), tuple(joined.T)), (graph.n_regions, graph.n_regions)
    )
    component = sparse.csgraph.connected_components(table, directed=False)[1]
    kept = component[graph.edges[:, 0]] == component[graph.edges[:, 1]]
    columns = (graph.edges, graph.contact, graph.total, graph.maximum)
    return RegionSums(graph.n_regions, *(column[kept] for column in columns))


def _read_boundaries(output: Output, block: Block) -> dict[str, np.ndarray]:
    """Read what `boundary_block` wrote; if it is damaged, let the next run write it again."""
    path = output.file(f"boundaries/{block.name}.npz")
    try:
        with np.load(path) as content:
            return dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        output.forget("boundaries", [block])
        raise OSError(f"{path} is damaged or missing; the next run computes it again") from error


def _gather(parts: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    return np.concatenate([part[name] for part in parts])


def _sum_by_key(
    keys: np.ndarray, columns: list[tuple[np.ndarray, Any]]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Put equal keys together, (A, K) → (U, K) in ascending order, and their values by a ufunc."""
    order = np.lexsort(keys.T[::-1])
    keys = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    first = np.flatnonzero(new)
    if len(first) == 0:
        return keys, [values for values, _ in columns]
    return keys[first], [ufunc.reduceat(values[order], first) for values, ufunc in columns]
