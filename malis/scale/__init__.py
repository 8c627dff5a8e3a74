"""Inference and segmentation of volumes larger than memory, block by block, on many processes.

    predict     every block with the halo that the network reads        → affinities
    averages    a sample of every block, to choose the threshold
                of the fragments for all                            → threshold
    fragments   every block with a halo; ids from seeds, so that a
                fragment across a face has one id on both sides         → fragments
    boundaries  sums of the affinities between fragments; every edge
                counted by the one block that owns it                   → region graph
    agglomerate the one step that sees the whole volume, as a graph     → segment of every fragment
    labels      every block: fragments replaced by segments             → segmentation

What comes out is what `malis.inference.predict` and `malis.segment` make of the volume in one
piece, as far as halos reach. Zarr stores, Dask distributes; both come with
the extra ``scale``.

    volumes     files opened: datasets, zarr_folders, placement
    ome_zarr    images created
    viewer      Neuroglancer

    blocks      boxes and halos
    output      arrays and tables, and what of them is there
    cluster     blocks on the workers of a cluster
    stages      what is done to one block
    graph       the region graph of the whole volume
    memory      what a worker needs, told in advance
    run         the steps one after the other
    pipeline    the functions to call
"""

from malis.scale.cluster import BlockError
from malis.scale.pipeline import predict_volume, segment_affinities, segment_volume

__all__ = ["BlockError", "predict_volume", "segment_affinities", "segment_volume"]
