"""The structure: imports flow downhill, the core is flat, and importing the package is light and changes nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import bark_hf

PACKAGE = Path(bark_hf.__file__).parent
RANKS = [
    {"cpu"},
    {"quantization"},
    {"compiled_step"},
    {
        "files",
        "configuration_bark",
        "configuration_semantic_tokenizer",
        "languages",
        "sampling",
        "fast_step",
        "static_step",
    },
    {
        "audio",
        "generation_configuration_bark",
        "generation_processors",
        "vocabulary",
        "voices",
        "codec",
        "decoding",
    },
    {"generation_options", "generation_stages", "generation_inputs", "voice_presets", "codec_stream"},
    {"generation_run"},
    {"generation_stream"},
    {"generation_bark"},
    {"modeling_bark", "modeling_semantic_tokenizer", "processing_bark"},
    {"sentences", "script", "joins", "captions", "loudness"},
    {"pipeline", "cloning", "similarity", "guard", "cast", "resume"},
    {"best_of"},
    {"longform"},
    {"training", "convert", "bench", "nano", "compat", "register", "remote_code"},
    {"apps"},
]
CORE = [name for rank in RANKS[:10] for name in rank if name != "audio"]
ALLOWED_IN_CORE = {"torch", "transformers", "numpy", "safetensors", "huggingface_hub"} | sys.stdlib_module_names
LAZILY = {"accelerate", "numba", "py3langid", "sklearn"}  # inside a function, or where absent left out


def rank(module: str) -> int:
    found = [i for i, names in enumerate(RANKS) if module in names]
    assert found, f"{module} has no rank: give it one in DESIGN's order"
    return found[0]


def imports(path: Path):
    """(module, level) of each import in a file, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0, []


def modules():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.name not in ("__init__.py", "__main__.py")]


def unit(path: Path) -> str:
    """The ranked name a file belongs to: its own, or its sub-package's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_a_module_imports_only_from_ranks_above_it():
    for path in modules():
        own = rank(unit(path))
        depth = len(path.relative_to(PACKAGE).parts)
        for module, level, names in imports(path):
            if level == depth:  # relative to the package itself
                for target in [module.split(".")[0]] if module else set(names) - {"__version__"}:
                    assert rank(target) < own, f"{path.name} (rank {own}) imports {target} (rank {rank(target)})"
            elif module.split(".")[0] == "bark_hf":
                raise AssertionError(f"{path.name} imports {module} absolutely; use a relative import")


def test_the_core_is_flat_siblings_that_the_hub_can_copy():
    for name in CORE:
        path = PACKAGE / f"{name}.py"
        if not path.exists():
            continue
        for module, level, _ in imports(path):
            if level:
                assert (level, module.count("."), bool(module)) == (1, 0, True), f"{name}: from {'.' * level}{module}"
            else:
                assert module.split(".")[0] in ALLOWED_IN_CORE | LAZILY, f"{name} imports {module}"


def test_import_takes_nothing_heavy_and_changes_nothing_in_transformers():
    code = (
        "import sys, torch, transformers;"
        "from transformers import AutoProcessor, AutoModelForTextToWaveform, EncodecModel, TextToAudioPipeline;"
        "from transformers.models.auto import processing_auto as p, configuration_auto as c;"
        "from transformers.pipelines import PIPELINE_REGISTRY as r;"
        "state = lambda: (dict(p.PROCESSOR_MAPPING_NAMES), dict(c.CONFIG_MAPPING._extra_content),"
        " str(r.supported_tasks['text-to-audio']));"
        "tops = lambda: {name.partition('.')[0] for name in sys.modules};"
        "before, loaded = state(), tops(); import bark_hf; assert state() == before;"
        "print(sorted(tops() - loaded - set(sys.stdlib_module_names)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "['bark_hf']"


def test_the_public_names_are_there_and_documented():
    for name in bark_hf.__all__:
        assert getattr(bark_hf, name).__doc__, name


def test_every_module_says_what_it_does():
    for path in modules():
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        assert first.endswith("."), f"{path.name} needs a docstring that keeps a promise"
