"""Trains the codec on `train/`: `codec/model`. A killed run goes on."""

import sys

from recipe import opened, parser, say

from bark_hf.training.codec import CodecTrainingArguments, codec_config, train_codec


def main() -> None:
    work = opened(parser(__doc__).parse_args().work)
    settings = work.settings["codec"]
    with work.timed("codec"):
        arguments = CodecTrainingArguments(str(work.folder / "codec"), **settings["training"])
        say(f"{train_codec(codec_config(**settings['config']), work.folder / 'train', arguments)}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
