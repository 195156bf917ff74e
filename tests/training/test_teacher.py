"""A teacher of the acoustic stages: what semantic ids tell stays in the codes that it says, and noise does not."""

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from huggingface_hub.errors import StrictDataclassError
from runs import tiny_bark

from bark_hf.training import teacher as teachers
from bark_hf.training import teacher_network
from bark_hf.training.run import DataArguments, StageTrainingArguments, _tables
from bark_hf.training.stages import save_composite
from bark_hf.training.teacher import Frames, TeacherTrainingArguments, main, teach, train_teacher
from bark_hf.training.teacher_network import FrameTeacher, FrameTeacherConfig, Timeline
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
    assert 0.5 < metrics["eval_missed"] < 0.95  # of the variance, half of which is noise
    assert metrics["eval_missed"] == pytest.approx(metrics["eval_loss"], rel=1e-3)
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


def test_an_utterance_is_spoken_the_same_in_any_batch(monkeypatch):
    config = FrameTeacherConfig(vocab_size=30, states=3, speakers=["a", "b"], timed=True, hidden_size=32)
    torch.manual_seed(0)
    teacher = FrameTeacher(config)
    for weight in teacher.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    ids = [torch.randint(30, (1 + 7 * number,)) for number in range(4)]
    alone = [teacher.speak([one], [speaker])[0] for one, speaker in zip(ids, "abab", strict=True)]
    monkeypatch.setattr(teacher_network, "_CHUNK", 13)
    for one, own, said in zip(ids, alone, teacher.speak(ids, [*"abab"]), strict=True):
        assert len(said) == int(len(one) * 75 / 49.9)
        torch.testing.assert_close(said, own, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(alone[3], teacher.speak(ids[3:], ["a"])[0])


def test_a_timeline_has_stretches_of_units_and_the_frames_that_lie_in_them():
    config = FrameTeacherConfig(vocab_size=9, states=3, context=1, ratio=0.8)
    ids = [torch.tensor([0, 0, 1, 3, 5, 3, 4]), torch.tensor([8, 8])]  # units 0, 1, 1 again, then 2
    line = Timeline(config, ids, [0, 1], [8, 2])
    assert line.units.tolist() == [3, 3, 0, 1, 1, 3, 3, 3, 3, 2, 3, 3]
    assert line.ends.tolist() == [0, 0, 3, 5, 7, 7, 7, 7, 7, 9, 9, 9]
    assert line.counts[2:5].tolist() == [[2, 1, 0], [1, 0, 1], [1, 1, 0]]
    assert line.inner.tolist() == [2, 3]
    # moments 0.4, 1.2, 2.0, 2.8, 3.6, 4.4, 5.2, 6.0 and 0.4, 1.2
    sounds = line.given(torch.arange(10))["units"][:, 1]
    assert sounds.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    given = line.given(torch.tensor([4, 9]))
    assert given["units"].tolist() == [[0, 1, 1], [3, 2, 3]]
    torch.testing.assert_close(given["ends"][0], torch.tensor([-3.6, -0.6, 1.4, 3.4]))
    torch.testing.assert_close(given["ends"][1], torch.tensor([-1.2, -1.2, 0.8, 0.8]))
    assert given["speaker"].tolist() == [0, 1]


def test_stretches_end_when_the_data_says_so():
    config = FrameTeacherConfig(vocab_size=9, states=3, context=1, ratio=1.0, timed=True)
    ends = torch.tensor([2.6, 2.6, 2.6, 5.3, 5.3, 7.9, 7.9, 9.0])
    line = Timeline(config, [torch.tensor([0, 0, 1, 3, 5, 3, 4, 6])], [0], [8], [ends])
    told = [2.6, 5.3, 7.5, 8.0]  # half an id from the last one at most; an utterance ends with its ids
    torch.testing.assert_close(line.ends[2:6].float(), torch.tensor(told))
    torch.testing.assert_close(line.late(torch.arange(2, 6)), torch.tensor([-0.4, 0.3, 0.5, 0.0]))
    with pytest.raises(ValueError, match="no semantic ids"):
        Timeline(config, [torch.zeros(0, dtype=torch.long)], [0], [1])
    short = Timeline(FrameTeacherConfig(vocab_size=9, ratio=2.0), [torch.tensor([3])], [0], [1])
    assert short.given(torch.tensor([0]))["ends"].abs().max() <= 1


def timed(clean, vocabulary, late):
    """Sounds that end `late` (four, of a recording) behind their ids, and codes that change just then."""
    rows, random = [], np.random.default_rng(1)
    for number in range(40):
        sounds = (random.integers(SOUNDS) + np.arange(4) * random.integers(1, SOUNDS)) % SOUNDS
        ends = np.arange(8, 33, 8.0) + late(sounds, random)
        ends[-1] = 32
        frames = vocabulary.coarse_length(32) // vocabulary.n_coarse_codebooks
        moments = (np.arange(frames) + 0.5) * vocabulary.semantic_rate_hz / vocabulary.coarse_rate_hz
        codes = clean[number % 2][torch.from_numpy(sounds[np.searchsorted(ends, moments, side="right").clip(max=3)])]
        rows.append({
            "text_ids": [1], "semantic_ids": sounds.repeat(8).tolist(), "codes": codes.T.tolist(),
            "speaker": SPEAKERS[number % 2], "length": 32, "ends": ends.repeat(8).tolist(),
        })  # fmt: skip
    return Dataset.from_list(rows)


def apart(teacher, frames) -> float:
    with torch.no_grad():
        batch = frames.__getitems__(list(range(len(frames))))
        return float(teacher(**{name: batch[name] for name in ("units", "ends", "speaker", "labels")}).loss)


def test_frames_are_sharper_where_it_is_known_when_units_end(bark, vocabulary, clean, tmp_path):
    rows = timed(clean, vocabulary, lambda _, random: random.uniform(-0.5, 0.5, size=4))
    missed = []
    for table in (rows, rows.remove_columns("ends")):
        teacher, _ = train_teacher(
            table, bark.codec_model, vocabulary, arguments(tmp_path / str(len(missed))), **SIZES
        )
        missed.append(apart(teacher, Frames(table, bark.codec_model, teacher.config)))
    assert missed[0] < 0.7 * missed[1]


def test_when_units_end_is_foretold_from_what_comes_next(bark, vocabulary, clean, tmp_path):
    def late(sounds, random):
        return np.where(np.append(sounds[1:], sounds[-1]) > sounds, 0.4, -0.4)

    rows = timed(clean, vocabulary, late)
    teacher, metrics = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path), **SIZES)
    frames = Frames(rows, bark.codec_model, teacher.config)
    inner = frames.line.inner
    with torch.no_grad():
        foretold = teacher.late(**frames.line.asked(inner))
    assert (foretold.sign() == frames.line.late(inner).sign()).float().mean() > 0.95
    assert metrics["eval_missed"] == pytest.approx(metrics["eval_loss"], abs=0.05)  # as good as with the true ones
    on_time = frames.missed(teacher)
    torch.nn.init.zeros_(teacher.clock[-1].weight)
    torch.nn.init.zeros_(teacher.clock[-1].bias)
    assert on_time < 0.7 * frames.missed(teacher)
    assert "ends" not in teach(rows, teacher, bark.codec_model).column_names


def test_frames_that_were_measured_are_learned_in_place_of_codes(bark, vocabulary, rows, tmp_path):
    size = bark.codec_model.config.hidden_size
    measured = rows.add_column("frames", [np.full((len(codes[0]) - 1, size), 0.5).tolist() for codes in rows["codes"]])
    teacher, _ = train_teacher(measured, bark.codec_model, vocabulary, arguments(tmp_path, max_steps=1), **SIZES)
    frames = Frames(measured, bark.codec_model, teacher.config)
    assert len(frames) == sum(len(codes[0]) - 1 for codes in rows["codes"])
    batch = frames.__getitems__([0, len(frames) - 1])
    assert (batch["labels"] == 0.5).all()
    taught = teach(measured, teacher, bark.codec_model)
    assert taught.column_names == [*rows.column_names, "taught_codes"]
    assert [len(codes[0]) for codes in taught["taught_codes"]] == [len(codes[0]) for codes in rows["codes"]]


def test_a_run_that_was_killed_goes_on(bark, vocabulary, rows, tmp_path):
    """Mean and deviation too, which no later step would learn."""
    first, _ = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path, max_steps=75), **SIZES)
    again, _ = train_teacher(rows, bark.codec_model, vocabulary, arguments(tmp_path, max_steps=80), **SIZES)
    assert (tmp_path / "checkpoint-80" / "trainer_state.json").is_file()
    assert torch.equal(first.mean, again.mean)


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
    seconds = np.arange(1, 33) / 50
    for ends, said in (
        ([1.0], "32 semantic ids and 1 `ends`"),
        (None, "0 `ends`"),
        (seconds, "must be counted in ids"),
    ):
        wrong = Dataset.from_list([{**rows[0], "ends": None if ends is None else list(ends)}])
        with pytest.raises(ValueError, match=said):
            Frames(wrong, bark.codec_model, teacher.config)
    with pytest.raises(StrictDataclassError, match=r"`states` \(0\)"):
        FrameTeacherConfig(states=0)
    with pytest.raises(ValueError, match="is no tokenized dataset"):
        main(["--model", str(tmp_path), "--data", str(tmp_path), "--output_dir", str(tmp_path / "o")])


def test_data_and_evaluation_have_both_a_teachers_codes_or_neither(rows, tmp_path):
    rows.save_to_disk(str(tmp_path / "held"))
    rows.add_column("taught_codes", rows["codes"]).save_to_disk(str(tmp_path / "taught"))
    data = DataArguments(str(tmp_path / "taught"), eval_data=str(tmp_path / "held"))
    with pytest.raises(ValueError, match="taught_codes"):
        _tables(data, None, None, StageTrainingArguments(str(tmp_path / "o"), report_to="none"))


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
