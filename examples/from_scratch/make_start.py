"""Semantic units and a text tokenizer from `train/`, and a Bark with random stages around the codec: `start/`."""

import string
import sys
from collections.abc import Iterable

from datasets import Dataset
from phones import FRAME_RATE, VOCAB_SIZE
from recipe import Work, opened, parser, say
from transformers import BertTokenizer, PreTrainedTokenizerFast

from bark_hf import BarkProcessor, BarkSemanticTokenizerConfig
from bark_hf.cloning import BarkSemanticTokenizer
from bark_hf.codec import BarkCodec
from bark_hf.training.corpus import load_corpus
from bark_hf.training.quantizer import QuantizerTrainingArguments, train_quantizer
from bark_hf.training.scratch import Size, Windows, new_bark
from bark_hf.training.stages import STAGES, save_composite

HOP_LENGTH = round(16_000 / FRAME_RATE)
WITHIN = r"[.!?;:…]+(?=\s+\S)"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def text_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Lower-case word pieces: all letters and digits, alone and within words, and then the texts' most usual pieces.

    No word of ASCII is unknown to it, whatever the texts hold. What ends a sentence within a text becomes a comma:
    most of the corpus's texts are single sentences, so that a stage learns to end there."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    learner.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=vocab_size, show_progress=False))
    learned = sorted(learner.get_vocab(), key=learner.token_to_id)
    signs = string.ascii_lowercase + string.digits
    known = [*SPECIAL, *string.punctuation, *signs, *(f"##{sign}" for sign in signs)]
    pieces = list(dict.fromkeys([*known, *(piece for piece in learned if piece.isascii())]))
    bert = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces[:vocab_size])})
    made = bert.backend_tokenizer
    made.normalizer = normalizers.Sequence([normalizers.Replace(Regex(WITHIN), ","), made.normalizer])
    return PreTrainedTokenizerFast(tokenizer_object=made, **bert.special_tokens_map)


def semantic_units(work: Work, corpus: Dataset) -> BarkSemanticTokenizer:
    """An LSTM that hears the recordings' phones, saved as `units/`; what is there stays."""
    folder, settings = work.folder / "units", work.settings["units"]
    if not folder.is_dir():
        untrained = BarkSemanticTokenizer(
            BarkSemanticTokenizerConfig(
                features="mfcc", quantizer="lstm", vocab_size=VOCAB_SIZE, hop_length=HOP_LENGTH, **settings["config"]
            )
        )
        rows = [
            {"audio": audio["path"], "semantic_ids": ids}
            for audio, ids in zip(corpus["audio"], corpus["semantic_ids"], strict=True)
        ]
        arguments = QuantizerTrainingArguments(str(work.folder / "units-trained"), **settings["training"])
        made, metrics = train_quantizer(untrained, rows, arguments)
        say(f"units: {metrics['eval_accuracy']:.0%} of frames right")
        made.rename(folder)
    return BarkSemanticTokenizer.from_pretrained(folder).eval()


def main() -> None:
    work = opened(parser(__doc__).parse_args().work)
    settings = work.settings
    with work.timed("start"):
        corpus = load_corpus(work.folder / "train")
        units = semantic_units(work, corpus)
        tokenizer = text_tokenizer(corpus["text"], settings["text_vocab_size"])
        model = new_bark(
            BarkCodec.from_pretrained(work.folder / "codec" / "model"),
            len(tokenizer),
            units.config.vocab_size,
            units.frame_rate,
            windows=Windows(**settings["windows"]),
            n_coarse_codebooks=settings["n_coarse_codebooks"],
            **{name: Size(**settings["stages"][name]["size"]) for name in STAGES},
        )
        longest = max(len(ids) for ids in tokenizer(list(corpus["text"]), add_special_tokens=False)["input_ids"])
        folder = save_composite(model, BarkProcessor(tokenizer), work.folder / "start")
    for name, part in model.named_children():
        say(f"{name}: {sum(weight.numel() for weight in part.parameters()) / 1e6:.2f} M weights")
    say(f"The longest text has {longest} ids of {settings['windows']['text']}: {folder}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
