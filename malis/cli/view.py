"""``python -m malis view``."""

import argparse
import contextlib
import time
import webbrowser

from malis.cli import files
from malis.scale.viewer import LOOPBACK, open_viewer

HELP = """\
look at raw data, labels and affinities in Neuroglancer

RAW, SEG and TRUTH are CREMI files or Zarr folders; they may be one file. A page opens in the
browser and is served until Ctrl-C. Everything stands in its place in nanometres; what is compared
stands side by side over the raw data. Needs the extra [scale].

The server listens on this machine only. For a remote one, tunnel a fixed port
(ssh -L 8080:localhost:8080 HOST, then --port 8080), or --bind an address that others reach: then
whoever knows the link can read the volumes.

example:
  python -m malis view data/synthetic.hdf labels.hdf data/synthetic.hdf --affinities affinities.hdf
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("raw", metavar="RAW", help="raw volume")
    parser.add_argument("segmentation", metavar="SEG", help="labels")
    parser.add_argument("truth", metavar="TRUTH", nargs="?", help="labels that are right")
    parser.add_argument("--affinities", metavar="FILE", help="affinities, of `malis predict`")
    files.add_resolution_argument(parser)
    parser.add_argument(
        "--bind", default=LOOPBACK, metavar="ADDRESS", help=f"listen at (default: {LOOPBACK})"
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="default: a free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the link")


def run(options: argparse.Namespace) -> None:
    """Serve until interrupted."""
    parts = {
        "raw": (options.raw, "raw"),
        "segmentation": (options.segmentation, "labels"),
        "truth": (options.truth, "labels"),
        "affinities": (options.affinities, "affinities"),
    }
    volumes = {
        name: files.open_part(path, part, options.resolution)
        for name, (path, part) in parts.items()
        if path
    }
    viewer = open_viewer(**volumes, bind=options.bind, port=options.port)
    print(f"{viewer}\nCtrl-C ends it.", flush=True)
    if not options.no_browser:
        webbrowser.open(str(viewer))
    with contextlib.suppress(KeyboardInterrupt):
        while True:  # a wait without end, unlike this, ignores Ctrl-C on Windows before Python 3.14
            time.sleep(3600)
