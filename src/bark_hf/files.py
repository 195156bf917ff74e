"""Files and folders that are whole or not there: written beside their place, then renamed.

Knows nothing of what is in them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, same ending, to write to: it takes `path`'s place at the end, and no failure leaves it."""
    path = Path(path)
    beside = path.with_name(f".part-{path.name}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """A folder beside `path` to write in, which takes its place when the block ends and goes when it fails.

    Raises ValueError where `path` is there already, unless it is an empty folder or `replace` is set."""
    path = Path(path)
    if not replace and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is not an empty folder; name a new one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield work
        for inside in (work, *work.rglob("*")):  # mkdtemp and safetensors write for the owner alone
            inside.chmod(0o755 if inside.is_dir() else 0o644)
        if path.exists() and not any(path.iterdir()):
            path.rmdir()
        old = work.with_name(f"{work.name}.old")
        if path.exists():
            path.rename(old)
        work.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
