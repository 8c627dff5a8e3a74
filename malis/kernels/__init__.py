r"""Steps of `malis.boruvka` and `malis.merges` as Triton kernels: fewer launches, fewer waits.

A GPU starts every tensor operation anew, reads its operands from memory and writes its result back,
and where a result's size depends on data, the host waits for it. A kernel of one's own does in one
start what takes PyTorch five to twenty operations, and keeps what lies in between in registers.

They are asked for by the environment variable ``MALIS_TRITON=1`` and then do the work on CUDA
devices; without it, without Triton (which CUDA builds of PyTorch for Linux bring along) and on the
CPU, PyTorch's operations do. **They are off by default because no GPU has run them so far**: tests
run them in Triton's interpreter, and compile them for compute capability 9.0.
``python -m benchmarks.loss --device cuda`` compares both forms count for count and times them.

1. `malis.kernels.edges`: the strongest edge of every supervertex, and the edges between groups;
2. `malis.kernels.groups`: from the picked edges to the groups of the next round;
3. `malis.kernels.climbs`: the climbs of `malis.merges`, up the finished hierarchy.

**How to read a kernel.** A function under ``@triton.jit`` is written for one block of elements.
``voxel, inside = block_of(n_voxels, BLOCK)`` are their numbers and whether they exist (the last
block is longer than what is left); ``x`` is the address of a tensor's first element, so that
``tl.load(x + voxel, mask=inside)`` is ``x[voxel]``, a gather like any other. A launch starts as
many of these *programs* as there are blocks. They run at once and in no order. Names in capitals
are constants of the compiled code.

**Same results.** No kernel depends on the order of its programs. A program writes its own elements
only, and reads nothing that its launch writes. The one exception, `edges.pick_in_list`, lowers
shared keys by atomic minima, and the least of some keys is the same in any order. Everything is
integers. So the results are PyTorch's, bit for bit, in every run.

**Bytes.** Each function says how many bytes it reads and writes per element, and passes the sum on
to `malis.kernels.launch`, where the benchmark adds them up. *Gathered* bytes lie anywhere; a GPU
fetches 32 at a time, so they cost up to eight times as much where nobody needs their neighbours.

References
----------
Tillet, Kung, Cox: Triton, MAPL 2019. Jaiganesh, Burtscher: ECL-CC, HPDC 2018 (chasing pointers).
"""

from malis.kernels.climbs import first_weaker, weakest_links
from malis.kernels.edges import (
    pick_in_grid,
    pick_in_list,
    surviving_in_grid,
    surviving_in_list,
)
from malis.kernels.groups import far_in_grid, far_in_list, find_roots, number_parents

__all__ = [
    "far_in_grid",
    "far_in_list",
    "find_roots",
    "first_weaker",
    "number_parents",
    "pick_in_grid",
    "pick_in_list",
    "surviving_in_grid",
    "surviving_in_list",
    "weakest_links",
]
