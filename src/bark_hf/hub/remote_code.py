"""Puts the core's code into a saved checkpoint, so that it loads with `trust_remote_code=True` and no package.

Knows nothing of networks: it copies files and names them in `auto_map`."""

import ast
import json
import shutil
from pathlib import Path

ENTRIES = {
    "AutoConfig": "configuration_bark.BarkConfig",
    "AutoModel": "modeling_bark.BarkModel",
    "AutoModelForTextToWaveform": "modeling_bark.BarkModel",
    "AutoProcessor": "processing_bark.BarkProcessor",
}


def add_remote_code(folder: str | Path) -> list[str]:
    """Copies the core's modules beside a checkpoint's config.json and fills `auto_map`; returns the files' names.

    folder: written by `BarkModel.save_pretrained` and `BarkProcessor.save_pretrained`, or by the converter."""
    folder = Path(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; save a model there first.")
    names = core_modules()
    for name in names:
        shutil.copyfile(Path(__file__).with_name(name), folder / name)
    for entry in {name.partition(".")[0] for name in ENTRIES.values()}:
        needed = sorted(_closure({entry}) - {entry})
        with (folder / f"{entry}.py").open("a", encoding="utf-8") as file:
            # not run, as some modules are imported only when needed
            file.write(
                "\nif False:  # older versions of transformers copy only what this file itself imports\n    pass\n"
            )
            file.writelines(f"    from .{module} import __doc__ as _  # noqa\n" for module in needed)
    _set_auto_map(config, ENTRIES)
    if (processor := folder / "processor_config.json").is_file():
        _set_auto_map(processor, {"AutoProcessor": ENTRIES["AutoProcessor"]})
    return names


def core_modules() -> list[str]:
    """The file names of the entries' modules and of everything that they import relatively, in turn."""
    return sorted(f"{name}.py" for name in _closure({entry.partition(".")[0] for entry in ENTRIES.values()}))


def _closure(waiting: set[str]) -> set[str]:
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
        imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 1 and n.module}
        waiting |= imported - found
    return found


def _set_auto_map(path: Path, entries: dict[str, str]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["auto_map"] = entries
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
