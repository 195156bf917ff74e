"""Single files of a checkpoint, in a folder or on the hub. Only a file that is known to be missing is "not there".

Knows nothing of what is in them."""

import os
import re
import warnings
from pathlib import Path
from typing import Any

_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_file(source: str | Path, name: str, **hub: Any) -> str | None:
    """The path of a checkpoint's file, downloaded where that is needed; None where the checkpoint has no such file.

    A hub that cannot be reached is no answer: then the copy in the cache is used, with a warning that names it, and
    what the hub once said to be missing is missing. Who forbids connections, by `HF_HUB_OFFLINE=1` or
    `local_files_only=True`, takes the cache for the whole checkpoint: where its config.json is, other files that are
    not there count as missing.

    Args:
        source: A folder or a hub id.
        name: The file's path inside the checkpoint.
        **hub: `cache_dir`, `force_download`, `local_files_only`, `revision`, `subfolder`, `token` as in
            `from_pretrained`; others are left alone, None is the default.

    Raises:
        OSError: The hub cannot be reached, refuses access or has no such checkpoint, and the cache has no answer.
    """
    hub = {key: hub[key] for key in _OPTIONS if hub.get(key) is not None}
    source = str(source)
    if os.path.isdir(source):
        inside = os.path.join(source, hub.get("subfolder", ""), name)
        return inside if os.path.isfile(inside) else None
    from huggingface_hub import hf_hub_download, is_offline_mode  # takes a while, and a folder does without it
    from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError

    cached = _cached(source, name, hub)
    path = cached if isinstance(cached, str) else None
    if is_offline_mode() or hub.get("local_files_only"):
        if cached is None and _cached(source, "config.json", hub) is None:
            raise OSError(
                f"{source} is neither a folder nor a checkpoint in the cache, and connections are off "
                "(HF_HUB_OFFLINE=1 or local_files_only=True). Download it first."
            )
        return path
    if cached is not None and _COMMIT.fullmatch(hub.get("revision", "")) and not hub.get("force_download"):
        return path  # a commit does not change
    try:
        # asks the hub, whatever is in the cache: with a copy there, a download without a connection looks like one
        hf_hub_download(source, name, **{**hub, "force_download": True}, dry_run=True)
        return hf_hub_download(source, name, **hub)
    except RemoteEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise OSError(f"{source} is neither a folder nor a hub id: {error}") from error
    except Exception as error:  # of whatever library sends the requests
        reason = " ".join(str(error.__cause__ or error).split())
        if cached is None or hub.get("force_download"):
            raise OSError(
                f"The hub could not be asked whether {source} has {name} ({reason:.300}), and the cache does not "
                "know. Try again, or set HF_HUB_OFFLINE=1 to take what is in the cache for the whole checkpoint."
            ) from error
        if path is not None:
            warnings.warn(f"The hub could not be asked ({reason:.300}): the copy {path} is used.", stacklevel=2)
        return path


def _cached(source: str, name: str, hub: dict[str, Any]) -> Any:
    """A path, or None where nothing is known; anything else says that the hub had no such file."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = f"{hub['subfolder']}/{name}" if hub.get("subfolder") else name
    try:
        return try_to_load_from_cache(source, name, hub.get("cache_dir"), hub.get("revision"))
    except HFValidationError as error:
        raise OSError(f"{source} is neither a folder nor a hub id: {error}") from error
