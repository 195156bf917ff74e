"""Files and folders that are whole or not there: written beside their place, then renamed.

Knows nothing of what is in them."""

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part-"  # how the names of unfinished files and folders begin


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path with `path`'s ending to write to, which takes its place when the block ends and goes when it fails.

    The result has the mode of the file that it replaces, or the umask's. A symbolic link stays: its target is
    replaced. Pipes, devices and `/dev/stdout` are not replaced but written to, when the block ends.
    Raises IsADirectoryError where `path` is a folder."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file.")
    if _is_open_file(path) or (path.exists() and not path.is_file()):
        with _copied_to(path) as temporary:
            yield temporary
        return
    path = Path(os.path.realpath(path))
    temporary = _beside(path, path.suffix)
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else mode | stat.S_IWUSR))
    try:
        if mode is None:
            mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)  # some writers replace the file by one for the owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """A folder beside `path` to write in, which takes its place when the block ends and goes when it fails.

    The result has the mode of the folder that it replaces, or the umask's; a symbolic link stays, as in `whole_file`.
    Raises ValueError where `path` is there already, unless it is an empty folder or `replace` is set."""
    path = Path(os.path.realpath(path))
    if not replace and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is not an empty folder; name a new one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    work = _beside(path)
    work.mkdir()
    mode = stat.S_IMODE((path if path.is_dir() else work).stat().st_mode)
    try:
        yield work
        for inside in (work, *work.rglob("*")):  # safetensors writes for the owner alone
            inside.chmod(mode if inside.is_dir() else mode & 0o666)
        if path.exists() and not any(path.iterdir()):
            path.rmdir()
        old = work.with_name(f"{work.name}.old")
        if path.exists():
            path.rename(old)
        work.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_open_file(path: Path) -> bool:
    """Whether it is a process's open file by another name, such as `/dev/stdout`; that may be a regular file."""
    names = [str(path), os.readlink(path)] if path.is_symlink() else [str(path)]
    return any(name.startswith(("/proc/", "/dev/fd/", "/dev/std")) for name in names)


def _beside(path: Path, ending: str = "") -> Path:
    """A name in the same folder that no other thread or process has."""
    return path.with_name(f"{PART}{secrets.token_hex(8)}{ending}")


@contextmanager
def _copied_to(path: Path) -> Iterator[Path]:
    """A file elsewhere, as writers seek, whose content goes to `path` when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / f"{PART}stream{path.suffix}"
        yield temporary
        with temporary.open("rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
