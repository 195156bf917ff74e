"""Files and folders that appear whole: whatever stands at the path keeps its kind and its mode."""

import contextlib
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from bark_hf.audio import write_audio
from bark_hf.files import whole_file, whole_folder

posix = pytest.mark.skipif(os.name != "posix", reason="pipes and modes of POSIX")


def write(path, text):
    with whole_file(path) as temporary:
        temporary.write_text(text)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    old = os.umask(0o027)
    yield
    os.umask(old)


@posix
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    """It once became a regular file, and its reader waited for ever. Sound needs a file that seeks."""
    pipe = tmp_path / "x.wav"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    tone = np.sin(np.arange(3000)).astype(np.float32)
    write_audio(pipe, tone, 24_000)
    reader.join(60)
    assert pipe.is_fifo()
    (tmp_path / "copy.wav").write_bytes(received[0])
    assert len(soundfile.read(tmp_path / "copy.wav")[0]) == 3000
    assert sorted(one.name for one in tmp_path.iterdir()) == ["copy.wav", "x.wav"]


@posix
def test_a_failed_block_writes_nothing_into_a_stream(tmp_path, capfd):
    with contextlib.suppress(KeyboardInterrupt), whole_file("/proc/self/fd/2") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert capfd.readouterr().err == ""


@posix
@pytest.mark.parametrize("into", ["pipe", "file"])
def test_stdout_is_written_to(into, tmp_path):
    """By a link like `/dev/stdout`; not by that itself, which a mistake would replace for the whole machine."""
    link, path = tmp_path / "stdout", tmp_path / "out.txt"
    link.symlink_to("/proc/self/fd/1")
    code = f"from bark_hf.files import whole_file\nwith whole_file({str(link)!r}) as t: t.write_text('whole')"
    with path.open("w") as file:
        before = os.fstat(file.fileno()).st_ino
        target = subprocess.PIPE if into == "pipe" else file
        done = subprocess.run([sys.executable, "-c", code], stdout=target, text=True, timeout=120, check=True)
    assert (done.stdout if into == "pipe" else path.read_text()) == "whole"
    assert path.stat().st_ino == before, "the shell's own file is replaced"
    assert os.readlink(link) == "/proc/self/fd/1"


@posix
def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(elsewhere / "target.txt")
    for text in ("first", "second"):  # the target is not there, then it is
        write(link, text)
        assert link.is_symlink()
        assert (elsewhere / "target.txt").read_text() == text
        assert [one.name for one in elsewhere.iterdir()] == ["target.txt"]
    folder = tmp_path / "folder"
    folder.symlink_to(elsewhere)
    with whole_folder(folder, replace=True) as work:
        (work / "new.txt").write_text("new")
    assert folder.is_symlink()
    assert [one.name for one in elsewhere.iterdir()] == ["new.txt"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["elsewhere", "folder", "link.txt"]


@posix
@pytest.mark.parametrize("own", [0o600, 0o664, 0o444])
def test_a_replaced_file_keeps_its_mode_while_it_is_written_and_afterwards(own, tmp_path, umask):
    path = tmp_path / "secret.txt"
    path.write_text("old")
    path.chmod(own)
    with whole_file(path) as temporary:
        assert mode(temporary) & 0o077 & ~own == 0
        temporary.write_text("new")
    assert (path.read_text(), mode(path)) == ("new", own)


@posix
def test_new_files_and_folders_have_the_umasks_mode(tmp_path, umask):
    write(tmp_path / "x.txt", "new")
    assert mode(tmp_path / "x.txt") == 0o640
    with whole_file(tmp_path / "y.txt") as temporary:  # as safetensors does
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT, 0o600))
    assert mode(tmp_path / "y.txt") == 0o640
    for _ in range(2):
        with whole_folder(tmp_path / "folder", replace=True) as work:
            (work / "inside").mkdir()
            (work / "inside" / "x.txt").touch(0o600)
        assert mode(tmp_path / "folder") == mode(tmp_path / "folder" / "inside") == 0o750
        assert mode(tmp_path / "folder" / "inside" / "x.txt") == 0o640
    (tmp_path / "folder").chmod(0o700)
    with whole_folder(tmp_path / "folder", replace=True) as work:
        (work / "x.txt").touch()
    assert (mode(tmp_path / "folder"), mode(tmp_path / "folder" / "x.txt")) == (0o700, 0o600)


def test_threads_that_write_the_same_file_do_not_meet(tmp_path):
    """With one temporary name for all, one thread renamed or removed what another was writing."""
    path, barrier = tmp_path / "x.txt", threading.Barrier(4)

    def write_together(number):
        with whole_file(path) as temporary:
            barrier.wait(60)
            temporary.write_text(f"{number}" * 1000)
            barrier.wait(60)

    for _ in range(5):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write_together, range(4)))
        assert len(set(path.read_text())) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["x.txt"]


def test_a_long_name_has_room_for_its_temporary_one(tmp_path):
    name = "x" * 250 + ".txt"
    write(tmp_path / name, "new")
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="name a file"):
        write(tmp_path, "new")
    assert list(tmp_path.iterdir()) == []
