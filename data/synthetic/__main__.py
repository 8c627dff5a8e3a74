"""Make a synthetic sample: python -m data.synthetic OUT.hdf --shape 24 512 512 --seed 0."""

import argparse
import sys
from pathlib import Path

from cremi_eval.atomic import signals_raise
from data.synthetic import make_sample, write_sample


def main(arguments: list[str] | None = None) -> int:
    """Make a sample and write it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m data.synthetic", description=__doc__)
    parser.add_argument("output", type=Path, help="CREMI file to write")
    parser.add_argument(
        "--shape", type=int, nargs=3, default=(24, 512, 512), metavar=("Z", "Y", "X")
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resolution", type=float, nargs=3, default=(40, 4, 4), metavar=("Z", "Y", "X"), help="nm"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    options = parser.parse_args(arguments)
    try:
        if options.output.exists() and not options.overwrite:
            raise FileExistsError(f"{options.output} exists already; --overwrite replaces it")
        if not options.output.parent.is_dir():
            raise FileNotFoundError(f"the folder {options.output.parent} does not exist")
        with signals_raise():
            sample = make_sample(options.shape, options.seed, options.resolution)
            write_sample(options.output, sample, overwrite=options.overwrite)
    except (OSError, ValueError, KeyboardInterrupt) as error:
        print(f"error: {str(error) or 'interrupted'}", file=sys.stderr)
        return 1
    print(
        f"{options.output}: {'x'.join(map(str, sample.raw.shape))}, "
        f"{sample.neuron_ids.max()} neurites, "
        f"{len(sample.annotations.pre_post_partners)} synaptic partners"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
