"""A teacher of the acoustic stages: what semantic ids tell stays in the codes that it says, and noise does not."""

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from huggingface_hub.errors import StrictDataclassError
from runs import tiny_bark

from bark_hf.training import teacher as teachers
from bark_hf.training.run import DataArguments, StageTrainingArguments, _tables
from bark_hf.training.stages import save_composite
from bark_hf.training.teacher import Frames, TeacherTrainingArguments, main, teach, train_teacher
from bark_hf.training.teacher_network import FrameTeacher, FrameTeacherConfig
from bark_hf.training.utterances import Utterances
from bark_hf.vocabulary import Vocabulary

SOUNDS, SPEAKERS = 6, ("a", "b")
SIZES = {"context": 2, "hidden_size": 32, "num_layers": 1}


@pytest.fixture(scope="module")
def bark(small):
    return tiny_bark(small)


@pytest.fixture(scope="module")
def vocabulary(bark):
    return Vocabulary.of(bark.generation_config)


@pytest.fixture(scope="module")
def clean(bark, vocabulary):
    """(speakers, sounds, 8): the codes that a sound has, of which every other recording holds half."""
    return torch.randint(vocabulary.codebook_size, (2, SOUNDS, 8), generator=torch.Generator().manual_seed(0))


def spoken(clean, vocabulary, count=40):
    """Sounds of eight ids each; a frame in two has other codes than its sound."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        ids = random.integers(SOUNDS, size=4).repeat(8)
        frames = vocabulary.coarse_length(len(ids)) // vocabulary.n_coarse_codebooks
        at = (np.arange(frames) * vocabulary.semantic_rate_hz / vocabulary.coarse_rate_hz).astype(int)
        codes = clean[number % 2][ids[at]].numpy().copy()
        noisy = random.random(frames) < 0.5
        codes[noisy] = random.integers(vocabulary.codebook_size, size=(noisy.sum(), 8))
        rows.append({
            "text_ids": [1], "semantic_ids": ids.tolist(), "codes": codes.T.tolist(), "speaker": SPEAKERS[number % 2],
            "length": len(ids),
        })  # fmt: skip
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def rows(clean, vocabulary):
    return spoken(clean, vocabulary)


def arguments(folder, **changes) -> TeacherTrainingArguments:
    options = {"max_steps": 150, "save_steps": 75, "per_device_train_batch_size": 256, "learning_rate": 0.01}
    quiet = {"report_to": "none", "disable_tqdm": True}
    return TeacherTrainingArguments(str(folder), **{**options, **quiet, **changes})


def embedded(bark, codes) -> torch.Tensor:
    return bark.codec_model.quantizer.decode(torch.as_tensor(codes)[:, None])[0].T


def test_what_ids_tell_stays_and_noise_goes(bark, vocabulary, rows, clean, tmp_path):
    teacher, metrics = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path), **SIZES)
    assert metrics["eval_loss"] < 0.95  # of the variance
    taught = teach(rows, teacher, bark.codec_model)
    errors = {"codes": 0.0, "taught_codes": 0.0}
    for row in taught:
        at = (np.arange(len(row["codes"][0])) * teacher.config.ratio).astype(int)
        sounds = clean["ab".index(row["speaker"])][torch.tensor(row["semantic_ids"])[at]]
        assert np.shape(row["taught_codes"]) == np.shape(row["codes"])
        for name in errors:
            errors[name] += float((embedded(bark, row[name]) - embedded(bark, sounds.T)).square().sum())
    assert errors["taught_codes"] < 0.5 * errors["codes"]
    again = teach(rows, FrameTeacher.from_pretrained(tmp_path / "teacher"), bark.codec_model)
    assert again["taught_codes"] == taught["taught_codes"]


def test_an_utterance_is_spoken_the_same_in_any_batch(bark, vocabulary, rows, tmp_path):
    teacher, _ = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path, max_steps=5), **SIZES)
    ids = [torch.tensor(row["semantic_ids"])[: 5 + 3 * number] for number, row in enumerate(rows.select(range(4)))]
    together = teacher.speak(ids, ["a", "b", "a", "b"])
    for one, speaker, said in zip(ids, "abab", together, strict=True):
        torch.testing.assert_close(teacher.speak([one], [speaker])[0], said)
        assert len(said) == vocabulary.coarse_length(len(one)) // vocabulary.n_coarse_codebooks


def test_towards_the_end_the_frames_before_are_its_own(bark, vocabulary, rows, tmp_path, monkeypatch):
    heard, batches = [], []
    hear, give = Frames.hear, Frames.__getitems__
    monkeypatch.setattr(Frames, "hear", lambda self, *given: (heard.append(len(self)), hear(self, *given))[1])
    monkeypatch.setattr(
        Frames, "__getitems__", lambda self, at: (batches.append(len(self.own) > 0), give(self, at))[1]
    )
    monkeypatch.setattr(teachers, "_REFRESH", 20)
    options = {"max_steps": 100, "save_steps": 100, "own_share": 0.5}
    teacher, metrics = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path, **options), **SIZES)
    assert len(heard) == 3  # steps 50, 70 and 90
    assert 45 <= sum(batches) <= 50  # of the training's; evaluation has none
    assert 0.5 < metrics["eval_own_loss"] < 1  # half of the frames are noise
    monkeypatch.undo()
    frames = Frames(rows, bark.codec_model, teacher.config)
    frames.begin = teacher.begin
    frames.hear(teacher)
    row = rows[3]
    said = teacher.speak([torch.tensor(row["semantic_ids"])], [row["speaker"]])[0]
    start = int(frames.starts[3])
    torch.testing.assert_close(frames.own[start : start + len(said)], said)
    torch.manual_seed(0)
    previous = frames.__getitems__([start + 5] * 400)["previous"]
    own = torch.isclose(previous, said[2:5]).flatten(1).all(1)
    true = torch.isclose(previous, frames.frames(torch.arange(start + 2, start + 5))).flatten(1).all(1)
    assert (own | true).all()
    assert 0.8 < own.float().mean() < 1


def test_none_of_its_own_frames_where_they_are_not_asked_for(bark, vocabulary, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(Frames, "hear", None)
    options = {"max_steps": 5, "own_share": 0.0}
    train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path, **options), **SIZES)


def test_what_is_said_varies_as_recordings_do(bark, vocabulary, rows, tmp_path):
    teacher, _ = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path), **SIZES)
    frames = Frames(rows, bark.codec_model, teacher.config)
    mine = [row for row in range(len(rows)) if rows[row]["speaker"] == "b"]
    pairs = [(frames.frames(at), one) for at, one in frames.spoken(teacher, mine)]
    recorded, said = (torch.cat(one) for one in zip(*pairs, strict=True))
    vivid = teacher.vivid(said, "b")
    torch.testing.assert_close(vivid.mean(0), said.mean(0), atol=0.05, rtol=0.05)
    apart = [float((one.std(0) / recorded.std(0)).log().abs().mean()) for one in (said, vivid)]
    assert apart[1] < 0.7 * apart[0]
    assert teacher.spread.min() >= 1
    assert teacher.spread.max() <= 1.5
    taught = teach(rows, teacher, bark.codec_model)["taught_codes"]
    torch.nn.init.ones_(teacher.spread)
    assert teach(rows, teacher, bark.codec_model)["taught_codes"] != taught


def test_a_teacher_of_before_speaks_as_it_did(bark, vocabulary, rows, tmp_path):
    teacher, _ = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path, max_steps=1), **SIZES)
    weights = {name: one for name, one in teacher.state_dict().items() if name not in ("usual", "spread")}
    teacher.save_pretrained(tmp_path / "before", state_dict=weights)
    frames = torch.randn(7, teacher.config.frame_size)
    torch.testing.assert_close(FrameTeacher.from_pretrained(tmp_path / "before").vivid(frames, "b"), frames)


def test_training_and_speaking_see_the_same_windows(bark, vocabulary, rows, tmp_path):
    teacher, _ = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path, max_steps=1), **SIZES)
    frames = Frames(rows, bark.codec_model, teacher.config)
    second = range(int(frames.starts[1]), int(frames.starts[2]))
    batch = frames.__getitems__(list(second))
    ids = torch.tensor(rows[1]["semantic_ids"])
    assert torch.equal(batch["semantic_ids"], teacher.windows(ids, len(second)))
    heard = embedded(bark, rows[1]["codes"])
    torch.testing.assert_close(batch["labels"], heard)
    torch.testing.assert_close(batch["previous"][5], heard[2:5])
    begin = torch.stack([embedded(bark, row["codes"])[0] for row in rows if row["speaker"] == "b"]).mean(0)
    frames.begin = frames.describe()[2]
    for number in range(3):  # what is before the first frame is what speaking begins with
        previous = frames.__getitems__([second[number]])["previous"][0]
        torch.testing.assert_close(previous, torch.cat([begin.expand(3 - number, -1), heard[:number]]))
    assert batch["speaker"].tolist() == [1] * len(second)


def test_frames_that_were_measured_are_learned_in_place_of_codes(bark, vocabulary, rows, tmp_path):
    size = bark.codec_model.config.hidden_size
    measured = rows.add_column("frames", [np.full((len(codes[0]) - 1, size), 0.5).tolist() for codes in rows["codes"]])
    teacher, _ = train_teacher(measured, bark.codec_model, vocabulary, arguments(tmp_path, max_steps=1), **SIZES)
    frames = Frames(measured, bark.codec_model, teacher.config)
    assert len(frames) == sum(len(codes[0]) - 1 for codes in rows["codes"])
    batch = frames.__getitems__([0, len(frames) - 1])
    assert (batch["labels"] == 0.5).all()
    assert (batch["previous"][1] == 0.5).all()
    taught = teach(measured, teacher, bark.codec_model)
    assert taught.column_names == [*rows.column_names, "taught_codes"]
    assert [len(codes[0]) for codes in taught["taught_codes"]] == [len(codes[0]) for codes in rows["codes"]]


def test_a_run_that_was_killed_goes_on(bark, vocabulary, rows, tmp_path):
    """Mean and deviation too, which no later step would learn."""
    first, _ = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path, max_steps=75), **SIZES)
    again, _ = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path, max_steps=80), **SIZES)
    assert (tmp_path / "checkpoint-80" / "trainer_state.json").is_file()
    assert torch.equal(first.mean, again.mean)


def test_a_speaker_of_whom_all_is_held_out_begins_with_the_mean(bark, rows):
    config = FrameTeacherConfig(
        frame_size=bark.codec_model.config.hidden_size, speakers=["a", "b", "c"], vocab_size=99
    )
    mean, _, begin = Frames(rows, bark.codec_model, config).describe()
    assert torch.equal(begin[2], mean)
    assert not torch.equal(begin[0], begin[1])


def test_stages_learn_what_the_teacher_says_after_histories_as_recorded(vocabulary, rows):
    taught = rows.add_column("taught_codes", [[[7] * len(codes[0])] * 8 for codes in rows["codes"]])
    utterances = Utterances(taught, vocabulary, history_share=1.0)
    for number in range(4):
        one = utterances[number]
        assert one.codes.unique().tolist() == [7]
        assert not (one.voice["fine_prompt"] == 7).all()


def test_what_cannot_be_taught_is_said(bark, vocabulary, rows, tmp_path):
    with pytest.raises(ValueError, match="leaves none"):
        train_teacher(rows.select([0]), bark.codec_model, vocabulary, arguments(tmp_path))
    teacher, _ = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path, max_steps=1), **SIZES)
    strangers = Dataset.from_list([{**row, "speaker": "c"} for row in rows.select(range(2))])
    with pytest.raises(ValueError, match=r"knows \['a', 'b'\], not \['c'\]"):
        teach(strangers, teacher, bark.codec_model)
    with pytest.raises(ValueError, match="--eval_share"):
        arguments(tmp_path, eval_share=1.0)
    with pytest.raises(ValueError, match="--own_share must be 0 to 1, got 2"):
        arguments(tmp_path, own_share=2.0)
    with pytest.raises(ValueError, match="dataloader_num_workers 2"):
        arguments(tmp_path, dataloader_num_workers=2)
    with pytest.raises(ValueError, match="had another hidden_size"):
        train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path), **{**SIZES, "hidden_size": 16})
    with pytest.raises(ValueError, match=r"lacks the columns \['speaker'\]"):
        train_teacher(rows.remove_columns("speaker"), bark.codec_model, vocabulary, arguments(tmp_path))
    for change, said in (
        ({"codes": [[99]] * 8}, r"8 codebooks, up to 99; the model's codec has"),
        ({"semantic_ids": [vocabulary.semantic_vocab_size]}, f"go to {vocabulary.semantic_vocab_size}"),
        ({"codes": [[]] * 8}, "no codes"),
    ):
        wrong = Dataset.from_list([{**rows[0], **change}])
        with pytest.raises(ValueError, match=said):
            Frames(wrong, bark.codec_model, teacher.config)
    with pytest.raises(StrictDataclassError, match=r"`history` \(0\)"):
        FrameTeacherConfig(history=0)
    with pytest.raises(ValueError, match="is no tokenized dataset"):
        main(["--model", str(tmp_path), "--data", str(tmp_path), "--output_dir", str(tmp_path / "o")])


def test_data_and_evaluation_have_both_a_teachers_codes_or_neither(rows, tmp_path):
    rows.save_to_disk(str(tmp_path / "held"))
    rows.add_column("taught_codes", rows["codes"]).save_to_disk(str(tmp_path / "taught"))
    data = DataArguments(str(tmp_path / "taught"), eval_data=str(tmp_path / "held"))
    with pytest.raises(ValueError, match="taught_codes"):
        _tables(data, None, None, StageTrainingArguments(str(tmp_path / "o"), report_to="none"))


def test_frames_and_ids_of_one_moment_at_odd_rates():
    """Where products of whole numbers and a ratio round, float32 would go another way."""
    config = FrameTeacherConfig(ratio=35 / 50)
    assert config.places(2400).tolist() == [int(number * (35 / 50)) for number in range(2400)]


def test_the_command_writes_what_training_reads(bark, small, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "_ROWS", 16)
    save_composite(bark, small.processor, tmp_path / "start")
    rows.save_to_disk(str(tmp_path / "ids"))
    options = ["--max_steps", "2", "--report_to", "none", "--disable_tqdm", "true", "--hidden_size", "16"]
    paths = {"model": tmp_path / "start", "data": tmp_path / "ids", "output_dir": tmp_path / "out"}
    made = main([*options, *(word for name, path in paths.items() for word in (f"--{name}", str(path)))])
    written = load_from_disk(made)
    assert written.column_names == [*rows.column_names, "taught_codes"]
    assert written["codes"] == rows["codes"]
