"""How kernels are started, and what all of them begin with."""

import torch
import triton
import triton.language as tl

FINISHED = tl.constexpr(2**63 - 1)  # as malis.boruvka.FINISHED
STREAM = 1024  # elements of a program
CHASE = 128  # ... of one that follows pointers: a single warp, which waits for no other one's paths


def launch(
    kernel: triton.JITFunction, count: int, moved: int, *arguments: object, block: int = STREAM
) -> None:
    """Start a kernel on `count` elements.

    Parameters
    ----------
    kernel : triton.JITFunction
        Its last arguments are `count` and ``BLOCK``.
    count : int
        Number of elements; nothing is started for 0.
    moved : int
        Bytes per element; no part of the computation, but what the benchmark adds up.
    *arguments : tensors and int
        The kernel's others, a tensor first.
    block : int
        Elements of a program.
    """
    if count:
        with torch.cuda.device_of(arguments[0]):  # Triton starts on the current device
            n_warps = 1 if block == CHASE else 4
            kernel[triton.cdiv(count, block),](*arguments, count, BLOCK=block, num_warps=n_warps)


@triton.jit
def block_of(count, BLOCK: tl.constexpr):
    """Return the numbers of a program's elements, 64 bits wide, and which of them exist."""
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return number, number < count
