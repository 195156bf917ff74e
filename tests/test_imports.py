"""The structure: imports flow downhill, the core is flat, and importing the package is light and changes nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bark_hf

PACKAGE = Path(bark_hf.__file__).parent
RANKS = [
    {"cpu"},
    {"quantization"},
    {"compiled_step"},
    {"loading_errors", "hub_files"},
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
    {"generation_options", "generation_stages", "generation_inputs", "voice_presets", "codec_stream", "chats"},
    {"generation_run"},
    {"generation_stream"},
    {"generation_bark"},
    {"generation_single_stage"},
    {"modeling_bark", "modeling_semantic_tokenizer", "processing_bark"},
    {"sentences", "script", "joins", "captions", "loudness"},
    {"pipeline", "cloning", "similarity", "guard", "cast", "resume"},
    {"best_of"},
    {"longform"},
    {"training", "convert", "bench", "bundled", "compat", "registration", "remote_code"},
    {"apps"},
]
CORE = [name for rank in RANKS[:12] for name in rank if name != "audio"]
ALLOWED_IN_CORE = {"torch", "transformers", "numpy", "safetensors", "huggingface_hub"} | sys.stdlib_module_names
LAZILY = {"accelerate", "numba", "py3langid", "sklearn", "soundfile"}  # inside a function, or where absent left out


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
        for module, level, names in imports(path):
            if (level, module, names) == (1, "", ["audio"]):
                continue  # where it is missing, as in a hub folder, soundfile stands in for it
            if level:
                assert (level, module.count("."), bool(module)) == (1, 0, True), f"{name}: from {'.' * level}{module}"
            else:
                assert module.split(".")[0] in ALLOWED_IN_CORE | LAZILY, f"{name} imports {module}"


def in_a_process(code: str) -> list[str]:
    """The lines that it prints."""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    return out.stdout.splitlines()


def loaded_by(arguments: list[str]) -> set[str]:
    """The modules that a process has imported when `bark-hf` with these arguments has ended well."""
    code = (
        "import sys\n"
        "from bark_hf.cli.main import main\n"
        "try:\n"
        f"    main({[str(argument) for argument in arguments]})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print()\n"
        "print(*sys.modules)"
    )
    return set(in_a_process(code)[-1].split())


def test_importing_the_package_imports_no_other_and_the_networks_change_nothing_in_transformers():
    code = (
        "import sys\n"
        "tops = lambda: {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "loaded = tops(); import bark_hf; print(sorted(tops() - loaded))\n"
        "import torch, transformers\n"
        "from transformers import AutoProcessor, AutoModelForTextToWaveform, EncodecModel, TextToAudioPipeline\n"
        "from transformers import GenerationMixin, HubertModel, ProcessorMixin\n"
        "from transformers.models.auto import processing_auto as p, configuration_auto as c\n"
        "from transformers.pipelines import PIPELINE_REGISTRY as r\n"
        "state = lambda: (dict(p.PROCESSOR_MAPPING_NAMES), dict(c.CONFIG_MAPPING._extra_content),"
        " str(r.supported_tasks['text-to-audio']))\n"
        "before, loaded = state(), tops()\n"
        "for name in bark_hf.__all__: getattr(bark_hf, name)\n"
        "assert state() == before; print(sorted(tops() - loaded))"
    )
    assert in_a_process(code) == ["['bark_hf']", "[]"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["speak", "--help"], ["voices"]], ids=" ".join)
def test_what_runs_no_network_imports_no_library_of_networks(arguments):
    loaded = loaded_by(arguments)
    assert "bark_hf.cli.main" in loaded
    networks = {"torch", "transformers", "huggingface_hub", "tokenizers", "accelerate", "numba", "scipy", "soundfile"}
    assert not loaded & (networks if arguments == ["voices"] else networks | {"numpy", "safetensors"})


def test_speak_imports_nothing_of_what_it_is_not_asked_for(small, tmp_path):
    speak = ["speak", "Hello", "-m", small.checkpoint, "-o", tmp_path / "x.wav", "--max-duration", "0.1", "-q"]
    loaded = loaded_by(speak)
    assert "bark_hf.modeling_bark" in loaded
    ours = ("longform", "best_of", "guard", "joins", "resume", "cloning", "similarity",
            "modeling_semantic_tokenizer", "pipeline", "training", "convert", "bench", "compat")  # fmt: skip
    assert not loaded & {f"bark_hf.{name}" for name in ours}
    assert not loaded & {"datasets", "evaluate", "jiwer", "peft", "py3langid", "pyloudnorm", "sentencex"}


def test_names_and_submodules_are_found_on_first_use():
    code = (
        "import bark_hf\n"
        "assert {'BarkModel', 'nano', '__version__'} <= set(dir(bark_hf))\n"
        "assert bark_hf.longform.sentences.seconds_of and bark_hf.training.__doc__\n"
        "assert not hasattr(bark_hf, 'no_such_name') and not hasattr(bark_hf, '__wrapped__')\n"
        "import bark_hf.models.bundled, bark_hf.hub.registration\n"
        "from bark_hf import *\n"
        "assert nano is bark_hf.nano and callable(nano) and callable(register)\n"
        "assert bark_hf.nano is bark_hf.models.bundled.nano and Voice is bark_hf.voices.Voice"
    )
    assert in_a_process(code) == []


def test_what_a_submodule_lacks_is_named_and_is_no_missing_attribute():
    code = (
        "import sys, bark_hf\n"
        "sys.modules['bark_hf.voices.languages'] = None\n"
        "try: hasattr(bark_hf, 'sentences')\n"
        "except ModuleNotFoundError as error: print(error.name)"
    )
    assert in_a_process(code) == ["bark_hf.voices.languages"]


def test_a_type_checker_sees_the_names_that_are_found_at_run_time():
    """And none is also a submodule's, which would take the name's place once it is imported."""
    block = next(node for node in ast.parse(Path(bark_hf.__file__).read_text()).body if isinstance(node, ast.If))
    shown = {alias.name: node.module for node in block.body for alias in node.names}
    assert shown == bark_hf._HOMES
    assert sorted(shown) == sorted(bark_hf.__all__)
    assert not set(shown) & {path.stem for path in PACKAGE.iterdir()}


def test_the_public_names_are_there_and_documented():
    for name in bark_hf.__all__:
        assert getattr(bark_hf, name).__doc__, name


def test_every_module_says_what_it_does():
    for path in modules():
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        assert first.endswith("."), f"{path.name} needs a docstring that keeps a promise"
