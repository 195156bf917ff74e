"""Puts the core's code into a saved checkpoint, so that it loads with `trust_remote_code=True` and no package.

Knows nothing of networks: it copies files into one flat folder, which is what transformers reads, and names them in
`auto_map`."""

import ast
import json
import re
from pathlib import Path

ENTRIES = {
    "AutoConfig": "configuration_bark.BarkConfig",
    "AutoModel": "modeling_bark.BarkModel",
    "AutoModelForTextToWaveform": "modeling_bark.BarkModel",
    "AutoProcessor": "processing_bark.BarkProcessor",
}
PACKAGE = Path(__file__).parents[1]
_ENTRY_MODULES = {entry.partition(".")[0] for entry in ENTRIES.values()}


def add_remote_code(folder: str | Path) -> list[str]:
    """Copies the core's modules beside a checkpoint's config.json and fills `auto_map`; returns the files' names.

    folder: written by `BarkModel.save_pretrained` and `BarkProcessor.save_pretrained`, or by the converter."""
    folder = Path(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; save a model there first.")
    modules = _closure(_ENTRY_MODULES)
    for module in modules:
        code = _flattened(module)
        if module in _ENTRY_MODULES:
            others = sorted(_flat(other) for other in _closure({module}) - {module})
            # not run, as some modules are imported only when needed
            code += "\nif False:  # older versions of transformers copy only what this file itself imports\n    pass\n"
            code += "".join(f"    from .{other} import __doc__ as _  # noqa\n" for other in others)
        (folder / f"{_flat(module)}.py").write_text(code, encoding="utf-8")
    _set_auto_map(config, ENTRIES)
    if (processor := folder / "processor_config.json").is_file():
        _set_auto_map(processor, {"AutoProcessor": ENTRIES["AutoProcessor"]})
    return core_modules()


def core_modules() -> list[str]:
    """The file names, in a folder, of the entries' modules and of everything that they import relatively, in turn."""
    return sorted(f"{_flat(module)}.py" for module in _closure(_ENTRY_MODULES))


def _flat(module: str) -> str:
    """What a module is called in a folder, where no other folder may be: `engine.decoding` is `engine_decoding`."""
    return module.replace(".", "_")


def _source(module: str) -> str:
    return (PACKAGE / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")


def _relative_imports(module: str) -> list[tuple[int, str]]:
    """(line, imported module) of each relative import from a module of this package.

    Not of `from . import room`: a core module does without what it imports so, as the room is not copied."""
    parts = module.split(".")
    return [
        (node.lineno, ".".join([*parts[: -node.level], node.module]))
        for node in ast.walk(ast.parse(_source(module)))
        if isinstance(node, ast.ImportFrom) and node.level and node.module
    ]


def _flattened(module: str) -> str:
    """A module's source with its relative imports as they are between files of one folder."""
    lines = _source(module).splitlines(keepends=True)
    for line, imported in _relative_imports(module):
        lines[line - 1] = re.sub(r"from \.+[\w.]+ import", f"from .{_flat(imported)} import", lines[line - 1])
    return "".join(lines)


def _closure(waiting: set[str]) -> set[str]:
    """The modules and all that they import relatively, in turn."""
    waiting, found = set(waiting), set()
    while waiting:
        found.add(module := waiting.pop())
        waiting |= {imported for _, imported in _relative_imports(module)} - found
    return found


def _set_auto_map(path: Path, entries: dict[str, str]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["auto_map"] = entries
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
