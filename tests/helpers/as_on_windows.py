"""What Windows refuses, and other systems do: to replace or delete a file that is open."""

from pathlib import Path

import pytest


def keep_open_files(monkeypatch):
    """Let `Path` refuse it, too; what the process has open, Linux alone tells."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("does not tell which files are open")

    def when_closed(do):
        def method(path, *arguments, **settings):
            used = [str(one.resolve()) for one in Path("/proc/self/fd").iterdir()]
            used += Path("/proc/self/maps").read_text().split()
            for one in (path, *arguments):  # of `replace`, the target, too
                assert str(Path(one).resolve()) not in used, f"{one} is open"
            return do(path, *arguments, **settings)

        return method

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, when_closed(getattr(Path, name)))
