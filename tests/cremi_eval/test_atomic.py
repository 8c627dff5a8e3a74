"""Files that appear whole or not at all: full disks, signals, two writers, poor file systems."""

import errno
import gc
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cremi_eval import Annotations, Volume
from cremi_eval.atomic import Terminated, atomic_write, signals_raise
from cremi_eval.io import CremiFile

ROOT = Path(__file__).parents[2]
NOISE = np.random.default_rng(0).integers(0, 2**60, (8, 128, 128), np.uint64)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def disk_of(size):
    """Set how large files may grow, which stands in for a disk that gets full.

    Only within a test: pytest's own output may go to a file that is larger already.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def python(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


class TestAtomicWrite:
    def test_the_file_appears_when_the_block_ends(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with atomic_write(path) as temporary:
            assert temporary.parent == tmp_path
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_exception_leaves_what_was_there(self, tmp_path, error):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(error), atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error
        assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]

    def test_a_full_disk_names_the_file(self, tmp_path):
        path = tmp_path / "a.txt"
        with (
            disk_of(1000),
            pytest.raises(OSError, match=r"a\.txt cannot be written \(File too large\); there is"),
            atomic_write(path) as temporary,
        ):
            temporary.write_bytes(bytes(2000))
        assert names(tmp_path) == []

    def test_a_file_that_appears_meanwhile(self, tmp_path):
        path = tmp_path / "a.txt"
        with (
            pytest.raises(FileExistsError, match="created by another program"),
            atomic_write(path, overwrite=False) as temporary,
        ):
            temporary.write_text("mine")
            path.write_text("theirs")
        assert path.read_text() == "theirs" and names(tmp_path) == ["a.txt"]

    def test_of_two_writers_the_last_one_wins(self, tmp_path):
        path = tmp_path / "a.txt"
        with atomic_write(path) as first:
            with atomic_write(path) as second:
                first.write_text("first " * 1000)
                second.write_text("second")
            assert path.read_text() == "second"
        assert path.read_text() == "first " * 1000 and names(tmp_path) == ["a.txt"]

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "a.txt")
        with atomic_write(tmp_path / "link") as temporary:
            temporary.write_text("new")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "a.txt").read_text() == "new"

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOTSUP, errno.EACCES])
    def test_a_file_system_that_cannot_sync_folders(self, tmp_path, monkeypatch, number):
        synced, real = [], os.fsync

        def fsync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            synced.append(descriptor)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "new" and len(synced) == 1

    @pytest.mark.parametrize("number, written", [(errno.ENOSYS, True), (errno.ENOSPC, False)])
    def test_a_file_that_cannot_be_synced(self, tmp_path, monkeypatch, number, written):
        def fsync(descriptor):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            with atomic_write(tmp_path / "a.txt") as temporary:
                temporary.write_text("new")
        except OSError as error:
            assert error.errno == number and not written
        assert names(tmp_path) == ["a.txt"] * written

    def test_what_a_killed_process_left_is_deleted(self, tmp_path):
        script = (
            "import sys, time; from cremi_eval.atomic import atomic_write\n"
            "with atomic_write(sys.argv[1]) as temporary:\n"
            "    temporary.write_text('half'); print('now', flush=True); time.sleep(60)"
        )
        process = python(script, tmp_path / "a.txt")
        assert process.stdout.readline() == "now\n"
        (left,) = names(tmp_path)
        with atomic_write(tmp_path / "a.txt") as temporary:  # it lives: its file is not touched
            temporary.write_text("new")
        assert names(tmp_path) == [left, "a.txt"]
        process.kill()
        process.communicate()
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("newer")
        assert names(tmp_path) == ["a.txt"]


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_ends_the_block_by_an_exception(self, tmp_path, number):
        before = signal.getsignal(number)
        with (
            pytest.raises(Terminated, match=f"ended by {number.name}"),
            signals_raise(),
            atomic_write(tmp_path / "a.txt") as temporary,
        ):
            temporary.write_text("half")
            signal.raise_signal(number)
        assert names(tmp_path) == [] and signal.getsignal(number) == before

    def test_a_signal_that_is_ignored_stays_so(self, monkeypatch):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
        try:
            with signals_raise():
                signal.raise_signal(signal.SIGHUP)
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_a_thread_leaves_signals_alone(self):
        errors = []

        def work():
            try:
                with signals_raise():
                    pass
            except ValueError as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert not errors

    def test_a_forked_worker_ends_as_ever(self):
        ready, tell = os.pipe()
        with signals_raise():
            worker = os.fork()
            if not worker:
                try:
                    os.write(tell, b"!")
                    time.sleep(60)
                finally:
                    os._exit(7)
            os.read(ready, 1)
            os.kill(worker, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM


class TestCremiFiles:
    def write(self, file):
        points = Annotations()
        for number in range(500):
            points.add_annotation(number, "presynaptic_site", (1.0, 2.0, 3.0))
            points.add_comment(number, "a comment of some length " * 10)
        file.write_neuron_ids(Volume(NOISE, (40, 4, 4)))
        file.write_clefts(Volume(np.tile(NOISE, (1, 2, 1)), (40, 4, 4), comment="much"))
        file.write_annotations(points)

    @pytest.mark.parametrize("mode", ["w", "overwrite", "a"])
    def test_a_disk_that_gets_full_at_any_moment(self, tmp_path, mode):
        path, before = tmp_path / "a.hdf", b""
        if mode != "w":
            with CremiFile(path, "w") as file:
                file.write_neuron_ids(Volume(NOISE[:2], (40, 4, 4)))
            before = path.read_bytes()
        kept = "the earlier file is kept" if before else "there is no file"
        failed = 0
        for size in range(0, 6_000_000, 173_000):
            try:
                with (
                    disk_of(size),
                    CremiFile(path, "a" if mode == "a" else "w", overwrite=True) as file,
                ):
                    self.write(file)
            except OSError as error:
                failed += 1
                assert error.errno == errno.EFBIG
                assert f"a.hdf cannot be written (File too large); {kept}" in str(error)
                assert names(tmp_path) == ["a.hdf"] * bool(before)
                assert not before or path.read_bytes() == before
            else:
                break
        assert failed > 10
        with CremiFile(path, "r") as file:
            np.testing.assert_array_equal(file.read_neuron_ids().data, NOISE)
            assert len(file.read_annotations().comments) == 500
        assert names(tmp_path) == ["a.hdf"]

    def test_a_full_disk_does_not_crash_python(self, tmp_path):
        script = (
            "import resource, sys, numpy as np; from cremi_eval import Volume\n"
            "from cremi_eval.io import CremiFile\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))\n"
            "noise = np.random.default_rng(0).integers(0, 2**60, (8, 256, 256), np.uint64)\n"
            "file = CremiFile(sys.argv[1], 'w')\n"
            "try:\n    file.write_neuron_ids(Volume(noise, (40, 4, 4)))\n"
            "except OSError as error:\n    sys.exit(3)"
        )
        process = python(script, tmp_path / "a.hdf")
        _, errors = process.communicate()
        assert process.returncode == 3 and names(tmp_path) == []
        assert (
            errors == f"{tmp_path / 'a.hdf'} was not closed after it was written: it is discarded\n"
        )

    def test_room_for_what_is_written_directly_is_asked_for_first(self, tmp_path):
        with (
            disk_of(1 << 20),
            pytest.raises(OSError, match=r"a\.hdf cannot be written"),
            CremiFile(tmp_path / "a.hdf", "w") as file,
        ):
            file.reserve(1 << 21)
        assert names(tmp_path) == []

    def test_room_that_is_not_used_is_given_back(self, tmp_path):
        with CremiFile(tmp_path / "a.hdf", "w") as file:
            file.reserve(1 << 24)
            file.write_raw(Volume(np.zeros((2, 8, 8), np.uint8)))
        assert (tmp_path / "a.hdf").stat().st_size < 1 << 15

    def test_a_file_system_without_fallocate(self, tmp_path, monkeypatch):
        def unsupported(*_):
            raise OSError(errno.EOPNOTSUPP, "not here")

        monkeypatch.setattr(os, "posix_fallocate", unsupported)
        with CremiFile(tmp_path / "a.hdf", "w") as file:
            self.write(file)
        with (
            pytest.raises(OSError, match="No space left on device"),
            CremiFile(tmp_path / "b.hdf", "w") as file,
        ):
            file.reserve(1 << 60)
        assert names(tmp_path) == ["a.hdf"]

    @pytest.mark.parametrize("closed", [True, False])
    def test_a_dataset_that_is_half_written_is_never_published(self, tmp_path, closed):
        path = tmp_path / "a.hdf"
        with CremiFile(path, "w") as file:
            file.write_neuron_ids(Volume(NOISE, (40, 4, 4)))
        before = path.read_bytes()

        class Unreadable:
            shape, dtype = NOISE.shape, NOISE.dtype

            def __getitem__(self, part):
                raise OSError("unreadable sector")

        file = CremiFile(path, "a")
        with pytest.raises(OSError, match="unreadable sector"):
            file.write_neuron_ids(Volume(Unreadable(), (40, 4, 4)))
        if closed:
            with pytest.raises(OSError, match="stays as it is, as a write failed: unreadable sec"):
                file.close()
        else:
            del file
            gc.collect()
        assert path.read_bytes() == before and names(tmp_path) == ["a.hdf"]

    def test_changes_that_are_never_closed_are_kept(self, tmp_path):
        path = tmp_path / "a.hdf"
        with CremiFile(path, "w") as file:
            file.write_neuron_ids(Volume(NOISE[:2], (40, 4, 4)))
        file = CremiFile(path, "a")
        file.write_neuron_ids(Volume(NOISE, (40, 4, 4)))
        del file
        with CremiFile(path, "r") as file:
            np.testing.assert_array_equal(file.read_neuron_ids().data, NOISE)

    def test_two_programs_that_change_one_file_lose_nothing(self, tmp_path):
        path = tmp_path / "a.hdf"
        with CremiFile(path, "w") as file:
            file.write_neuron_ids(Volume(NOISE[:2], (40, 4, 4)))
        second = CremiFile(path, "a")
        second.write_clefts(Volume(NOISE, (40, 4, 4)))
        with CremiFile(path, "a") as first:
            first.write_neuron_ids(Volume(NOISE, (40, 4, 4)))
        with pytest.raises(FileExistsError, match="changed by another program"):
            second.close()
        with CremiFile(path, "r") as file:
            assert file.has_neuron_ids() and not file.has_clefts()
            np.testing.assert_array_equal(file.read_neuron_ids().data, NOISE)
        assert names(tmp_path) == ["a.hdf"]

    def test_a_file_that_is_read_only(self, tmp_path):
        path = tmp_path / "a.hdf"
        with CremiFile(path, "w") as file:
            file.write_neuron_ids(Volume(NOISE[:2], (40, 4, 4)))
        with CremiFile(path, "r") as file, pytest.raises(ValueError, match="for reading only"):
            file.write_neuron_ids(Volume(NOISE[:2], (40, 4, 4)))

    def test_permissions_stay(self, tmp_path):
        path = tmp_path / "a.hdf"
        with CremiFile(path, "w") as file:
            file.write_neuron_ids(Volume(NOISE[:2], (40, 4, 4)))
        path.chmod(0o640)
        with CremiFile(path, "a") as file:
            file.write_clefts(Volume(NOISE[:2], (40, 4, 4)))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


COMMANDS = {
    "data.synthetic": ["data.synthetic", "out.hdf", "--shape", "8", "600", "600"],
    "malis predict": ["malis", "predict", "in.hdf", "out.hdf", "--quiet", "--checkpoint",
                      str(ROOT / "data/models/synthetic.model")],
}  # fmt: skip


class TestCommands:
    def start(self, command, folder):
        return subprocess.Popen(
            [sys.executable, "-m", *COMMANDS[command]],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def volume(self, folder, side):
        with CremiFile(folder / "in.hdf", "w") as file:
            raw = NOISE.astype(np.uint8)
            file.write_raw(Volume(np.tile(raw, (1, side, side)), (40, 4, 4)))

    def test_sigterm_leaves_nothing(self, tmp_path):
        self.volume(tmp_path, 6)
        process = self.start("malis predict", tmp_path)
        while not any(name.endswith(".part") for name in names(tmp_path)):
            assert process.poll() is None, process.communicate()
        process.terminate()
        output, errors = process.communicate()
        assert (process.returncode, output) == (1, "")
        assert errors == "malis predict: ended by SIGTERM\n" and names(tmp_path) == ["in.hdf"]

    @pytest.mark.parametrize("command", COMMANDS)
    def test_a_full_disk_is_one_line(self, tmp_path, command):
        self.volume(tmp_path, 1)
        with disk_of(1 << 18):
            process = self.start(command, tmp_path)
        output, errors = process.communicate()
        assert (process.returncode, output) == (1, "")
        line = "out.hdf cannot be written (File too large); there is no file"
        assert errors.count("\n") == 1 and line in errors and names(tmp_path) == ["in.hdf"]
