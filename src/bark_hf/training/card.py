"""The model card of a trained composite: what it was made of, how, and what was measured, for people and the hub.

Knows nothing of training: it is given the report of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData


def public_name(source: str) -> str:
    """What may be published of a source: of a folder its own name, without the path; a hub id whole."""
    return Path(source).resolve().name if Path(source).exists() else source


def model_card(report: Mapping[str, Any], output: Path, samples: list[str]) -> str:
    """The text of a card: a run's report, the scores of what was spoken in its `output` folder, and links to it.

    samples: paths of recordings beside the card."""
    facts = ModelCardData(library_name="bark_hf", pipeline_tag="text-to-speech", tags=["bark"], license=None)
    hours = "" if report["hours"] is None else f" ({report['hours']} hours)"
    settings = f"LoRA of rank {report['lora_rank']}, merged" if report["lora_rank"] else "all weights"
    lines = [
        "---",
        facts.to_yaml(),
        "---",
        f"# {output.resolve().name}",
        "",
        f"Bark, trained from `{report['model']}` on `{report['data']}`: {report['utterances']} utterances{hours}. "
        f"Trained were {settings}, with bark_hf {report['bark_hf']} and torch {report['torch']}.",
        "",
        "```python",
        "from bark_hf import BarkModel, BarkProcessor",
        "",
        "model, processor = BarkModel.from_pretrained(folder), BarkProcessor.from_pretrained(folder)",
        'audio = model.generate(**processor("Hello."))',
        "```",
        "",
        "| stage | " + " | ".join(_METRICS.values()) + " |",
        "|---" * (len(_METRICS) + 1) + "|",
    ]
    for stage, metrics in report["stages"].items():
        lines.append(f"| {stage} | " + " | ".join(_figure(metrics.get(name)) for name in _METRICS) + " |")
    for stage in report["stages"]:
        if (scores := _last_scores(output / stage)) is not None:
            lines += ["", f"Samples after {scores.pop('step')} steps of the {stage} stage: {json.dumps(scores)}."]
    if samples:
        lines += ["", "Listen: " + ", ".join(f"[{path}]({path})" for path in samples) + "."]
    return "\n".join(lines) + "\n"


_METRICS = {
    "epoch": "epochs",
    "train_loss": "training loss",
    "eval_loss": "evaluation loss",
    "eval_top1": "token accuracy",
    "eval_top10": "in the first ten",
}


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _last_scores(folder: Path) -> dict | None:
    path = folder / "samples" / "scores.jsonl"
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1]) if path.is_file() else None
