"""A folder of the original's voice files in, one `voices.safetensors` out.

Knows nothing of models; the names are the paths under the folder, without their endings."""

from pathlib import Path

from ..processing_bark import VoicePresets
from ..voices import Voice, save_bank


def read_presets(folder: Path) -> dict[str, Voice]:
    """Every `.npz` and `.safetensors` voice below a folder, by name, e.g. `v2/en_speaker_6`; sorted.

    Raises ValueError for a folder without voices, a file that is no voice, and a name that cannot name a voice."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder of voices at {folder}.")
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".npz", ".safetensors") and p.is_file())
    if not files:
        raise ValueError(f"{folder} holds no .npz voices.")
    voices = {path.relative_to(folder).with_suffix("").as_posix(): Voice.load(path) for path in files}
    return dict(VoicePresets(voices))


def convert_voice_presets(folder: Path, output: Path) -> dict[str, Voice]:
    """Writes a folder's voices into one bank file (beside it first, then renamed) and returns them."""
    voices = read_presets(Path(folder))
    output = Path(output)
    beside = output.with_name(f".{output.name}.part")
    try:
        save_bank(voices, beside)
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)
    return voices
