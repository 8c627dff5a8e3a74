"""The command line, ``python -m malis``: what the notebooks call, one command a file.

    train      volumes with labels → a trained network
    predict    raw volume, network → affinities
    segment    raw volume, network → labels
    evaluate   labels, ground truth → scores
    view       all of them → Neuroglancer

A command reads its options, calls the library, and says in a line what came out. What goes wrong
is one line on stderr and exit code 1; a command that is written wrongly gives exit code 2.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cremi_eval.atomic import Terminated, signals_raise
from malis.cli import evaluate, predict, segment, train, view

LOGGERS = ("malis", "cremi_eval")
COMMANDS = (train, predict, segment, evaluate, view)
EPILOG = """\
a first run, from a network to a picture:
  python -m data.synthetic data/synthetic.hdf     # in a clone: a volume with ground truth
  python -m malis train --example > train.toml
  python -m malis train train.toml my.model
  python -m malis segment data/synthetic.hdf labels.hdf --checkpoint my.model
  python -m malis evaluate labels.hdf data/synthetic.hdf
  python -m malis view data/synthetic.hdf labels.hdf data/synthetic.hdf

Volumes are CREMI files (HDF5) or, with the extra [scale], Zarr folders. The
usual dataset is found by itself; PATH::DATASET names another one. Voxels have their size and place
in nanometres, (z, y, x).

exit codes: 0 done, 1 an error (one line on stderr), 2 the command is written wrongly, 130 Ctrl-C
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default the one that the program was started with.

    Returns 0, or 1 after an error or SIGTERM, which one line on stderr describes; 130 after Ctrl-C.
    Arguments that make no command end the program with code 2, ``--help`` with 0.
    """
    options = parser().parse_args(arguments)
    level = logging.WARNING if getattr(options, "quiet", False) else logging.INFO
    try:
        with signals_raise(), messages(level):
            options.run(options)
    except Terminated as signal:
        print(f"malis {options.command}: {signal}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"malis {options.command}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # this is where every error ends
        if options.traceback:
            raise
        print(f"malis {options.command}: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def messages(level: int) -> Iterator[None]:
    """Show on stderr what our packages log; other packages' messages are their own."""
    handler = logging.StreamHandler()
    before = {logging.getLogger(name): logging.getLogger(name).level for name in LOGGERS}
    for logger in before:
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level_before in before.items():
            logger.removeHandler(handler)
            logger.setLevel(level_before)


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    result = argparse.ArgumentParser(
        prog="python -m malis",
        description="Train, use and judge networks that predict affinities for segmentation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        summary, _, description = command.HELP.partition("\n")
        one = commands.add_parser(
            name,
            help=summary,
            description=f"{summary}\n{description}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(one)
        one.add_argument("--traceback", action="store_true", help="show where an error arose")
        one.set_defaults(run=command.run)
    return result


def one_line(error: BaseException) -> str:
    """Say in one line what went wrong, and while doing what."""
    known = isinstance(error, OSError | ValueError | ArithmeticError | LookupError | ImportError)
    text = str(error) if known and str(error) else f"{type(error).__name__}: {error}"
    if isinstance(error, KeyError) and type(error).__str__ is KeyError.__str__:
        text = f"{error.args[0]} is missing" if error.args else "KeyError"
    notes = getattr(error, "__notes__", [])
    return " ".join("; ".join([text, *notes]).split())
