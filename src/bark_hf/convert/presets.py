"""A folder of the original's voice files in, one bank of voices (`voices.safetensors`) out.

Knows nothing of models; the names are the paths under the folder, without their endings."""

from pathlib import Path

from ..voices.presets import VoicePresets
from ..voices.voice import Voice


def read_presets(folder: Path) -> VoicePresets:
    """Every `.npz` and `.safetensors` voice below a folder, by name, e.g. `v2/en_speaker_6`.

    Raises ValueError for a folder without voices, a file that is no voice, and a name that cannot name a voice."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder of voices at {folder}.")
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".npz", ".safetensors") and p.is_file())
    if not files:
        raise ValueError(f"{folder} holds no .npz voices.")
    return VoicePresets({path.relative_to(folder).with_suffix("").as_posix(): Voice.load(path) for path in files})


def convert_voice_presets(folder: str | Path, output: str | Path) -> VoicePresets:
    """Writes a folder's voices into one bank, a `.safetensors` file, and returns them."""
    voices = read_presets(Path(folder))
    voices.save(output)
    return voices
