"""The structure: imports flow downhill, the core can be copied, importing the package is light and changes nothing."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import bark_hf
from bark_hf.hub.remote_code import core_modules

PACKAGE = Path(bark_hf.__file__).parent
ORDER = [  # modules and rooms; each imports only from those above it
    "version",
    "lazy",
    "files",
    "configuration_bark",
    "generation_configuration_bark",
    "vocabulary",
    "sampling",
    "engine",
    "codec",
    "voices",
    "audio",
    "generation",
    "generation_bark",
    "generation_single_stage",
    "modeling_bark",
    "processing_bark",
    "pipeline_bark",
    "cloning",
    "evaluation",
    "longform",
    "captions",
    "script",
    "hub",
    "compat",
    "models",
    "convert",
    "training",
    "bench",
    "cli",
]
ROOMS = [path.parent.name for path in sorted(PACKAGE.glob("*/__init__.py"))]
LAZY = ["bark_hf", *(f"bark_hf.{room}" for room in ROOMS if "lazy" in (PACKAGE / room / "__init__.py").read_text())]
ALLOWED_IN_CORE = {"torch", "transformers", "numpy", "safetensors", "huggingface_hub"} | sys.stdlib_module_names
LAZILY = {"accelerate", "numba", "py3langid", "sklearn", "soundfile"}  # inside a function, or where absent left out


def rank(module: str) -> int:
    assert module in ORDER, f"{module} has no rank: give it one in DESIGN's order"
    return ORDER.index(module)


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.stem[:2] != "__"]


def dotted(path: Path) -> str:
    """`engine/step.py` is engine.step, and `engine/__init__.py` is engine.__init__."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> tuple[set[str], set[str]]:
    """What a file imports, in functions too: (dotted names inside the package, other packages)."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = dotted(path).split(".")[: -node.level] + ([node.module] if node.module else [])
            ours |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
    return ours, others


def test_every_module_and_room_imports_only_from_those_above_it():
    for path in modules():
        ours, others = imports(path)
        assert "bark_hf" not in others, f"{dotted(path)} imports bark_hf absolutely; use a relative import"
        own, _, inside = dotted(path).partition(".")
        for target in (name.split(".")[0] for name in ours):
            allowed = rank(target) < rank(own) or (inside and target == own)
            assert allowed, f"{dotted(path)} (rank {rank(own)}) imports {target} (rank {rank(target)})"
    assert sorted(ORDER) == sorted({dotted(path).split(".")[0] for path in modules()})


@pytest.mark.parametrize("room", ROOMS)
def test_the_files_of_a_room_have_an_order(room):
    graph = {
        dotted(path): {".".join(name.split(".")[:2]) for name in imports(path)[0] if name.startswith(f"{room}.")}
        for path in (PACKAGE / room).rglob("*.py")
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_core_imports_no_more_than_the_hub_lets_it():
    flat = {f"{dotted(path).replace('.', '_')}.py": path for path in modules()}
    core = {name: flat[name] for name in core_modules()}
    assert len(flat) == len(modules()), "two modules would have one name in a folder"
    for name, path in core.items():
        ours, others = imports(path)
        assert not others - ALLOWED_IN_CORE - LAZILY, name
        for target in ours - {"audio"}:  # where it is missing, as in a hub folder, soundfile stands in for it
            module = target.rpartition(".")[0]
            assert f"{module.replace('.', '_')}.py" in core, f"{name} imports {target}: name the module, not its room"


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
    heavy = ["longform.speech", "longform.attempts", "longform.quality", "longform.joiner", "longform.chunk_store",
             "cloning", "evaluation", "pipeline_bark", "training", "convert", "bench", "compat"]  # fmt: skip
    assert not loaded & {f"bark_hf.{name}" for name in heavy}
    assert not loaded & {"datasets", "evaluate", "jiwer", "peft", "py3langid", "pyloudnorm", "sentencex"}


def test_names_and_submodules_are_found_on_first_use():
    code = (
        "import bark_hf\n"
        "assert {'BarkModel', 'nano', '__version__'} <= set(dir(bark_hf))\n"
        "assert bark_hf.longform.sentences.seconds_of and bark_hf.longform.speak_long and bark_hf.training.__doc__\n"
        "assert bark_hf.captions.cues is bark_hf.longform.captions.cues and bark_hf.script.read_script\n"
        "assert bark_hf.audio.write_audio and bark_hf.codec.BarkCodec and bark_hf.cloning.clone_voice\n"
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
        "try: hasattr(bark_hf.longform, 'sentences')\n"
        "except ModuleNotFoundError as error: print(error.name)"
    )
    assert in_a_process(code) == ["bark_hf.voices.languages"]


@pytest.mark.parametrize("package", LAZY)
def test_a_type_checker_sees_the_names_that_are_found_at_run_time(package):
    """And none is also a submodule's, which would take the name's place once it is imported."""
    package = import_module(package)
    block = next(node for node in ast.parse(Path(package.__file__).read_text()).body if isinstance(node, ast.If))
    shown = {alias.name: node.module for node in block.body for alias in node.names}
    assert shown == {name: module for module, names in package._MODULES.items() for name in names}
    assert sorted(shown) == sorted(package.__all__)
    assert not set(shown) & {path.stem for path in Path(package.__file__).parent.iterdir()}


def test_the_public_names_are_there_and_documented():
    for name in bark_hf.__all__:
        assert getattr(bark_hf, name).__doc__, name


def test_every_module_says_what_it_does():
    for path in modules():
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        assert first.endswith("."), f"{dotted(path)} needs a docstring that keeps a promise"
