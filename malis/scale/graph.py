"""The region graph of a whole volume, and its agglomeration.

The blocks have counted and summed; here the sums of all blocks are added up. In memory are the
fragments and the pairs of them that touch, at the peak about 800 bytes a pair, and no voxels.
"""

import numpy as np
from scipy import sparse

from malis.scale.output import Output, new_file
from malis.segmentation.agglomeration import merge_regions
from malis.segmentation.hierarchy import Hierarchy
from malis.segmentation.regions import RegionSums, absorb_small
from malis.segmentation.sections import link_regions

ROUNDING = 1e-6  # scores are compared in single precision


def agglomerate_blocks(
    output: Output, *, linkage: str, threshold: float, absorb: int, link: bool
) -> None:
    """Merge the fragments of all blocks while their score is at least the threshold.

    Read are the boundaries of all blocks; written, the tables ``fragments.npy`` (ids, ascending)
    and ``segments.npy``. Regions of fewer than `absorb` voxels then join a neighbour, and with
    `link` the regions of neighbouring sections are linked.
    """
    parts = output.read_tables("boundaries")
    ids, where = np.unique(_gather(parts, "ids"), return_inverse=True)
    graph = join_graphs(ids, parts)
    merges, scores = merge_regions(drop_hopeless(graph, linkage, threshold), linkage=linkage)
    segments = Hierarchy(np.zeros(0, np.int32), len(ids), merges, scores).regions(threshold)
    sizes = np.bincount(where, weights=_gather(parts, "sizes"), minlength=len(ids))
    segments = absorb_small(graph, segments, sizes, absorb) if absorb else segments
    if link:
        overlaps = np.searchsorted(ids, _gather(parts, "overlaps"))
        area = np.bincount(segments, weights=sizes, minlength=1)
        counts = _gather(parts, "overlap_sizes")
        segments = link_regions(area, segments[overlaps].T, counts)[segments]
    for name, table in (("fragments", ids), ("segments", segments.astype(np.uint64))):
        with new_file(output.file(f"{name}.npy")) as file:
            np.save(file, table)


def join_graphs(ids: np.ndarray, parts: list[dict[str, np.ndarray]]) -> RegionSums:
    """Add up the boundaries of all blocks, as `malis.scale.stages.boundary_block` wrote them.

    The fragments, (N,) ids in ascending order, become the regions 0 ... N - 1.
    """
    n = max(len(ids), 1)
    low, high = np.searchsorted(ids, _gather(parts, "pairs")).T
    keys, pair = np.unique(low * n + high, return_inverse=True)
    contact = np.bincount(pair, weights=_gather(parts, "contact")).astype(np.int64)
    total = np.bincount(pair, weights=_gather(parts, "total"))
    maximum = np.zeros(len(keys), np.float32)
    np.maximum.at(maximum, pair, _gather(parts, "maximum"))
    return RegionSums(len(ids), np.stack(np.divmod(keys, n), axis=1), contact, total, maximum)


def drop_hopeless(graph: RegionSums, linkage: str, threshold: float) -> RegionSums:
    """Leave out pairs that no merge down to a threshold can join.

    A merge's score is a mean (or the maximum) of those of the pairs it puts together, so one of
    them reaches the threshold, too. Hence nothing is merged across two components of the graph of
    the pairs that do, and what lies between them need not be kept.
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


def _gather(parts: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    return np.concatenate([part[name] for part in parts])
