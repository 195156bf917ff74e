"""Long form on a tiny model, whose speech is noise: order, seeds, voices and histories, resuming, memory, reports."""

import json
import runpy
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from accelerate import init_empty_weights
from safetensors.numpy import load_file

from bark_hf import Voice
from bark_hf.engine.decoding import DecodeSession
from bark_hf.longform import Line, LongProgress, speak_long
from bark_hf.longform import speech as longform
from bark_hf.longform.attempts import Spoken, attempt_seed
from bark_hf.longform.chunk_store import ChunkStore, weights
from bark_hf.longform.joiner import PAUSES
from bark_hf.longform.quality import Verdict
from bark_hf.longform.speakers import Cast, Part

EXAMPLE = Path(__file__).parents[2] / "examples" / "audiobook.py"
TEXT = "Hello. A song! A dog.\n\nMusic? The world. Hello."
CHUNKS = ["Hello.", "A song!", "A dog.", "Music?", "The world.", "Hello."]
STAGES = {"max_new_tokens": 60, "max_coarse_history": 60}  # of history, 60 coarse ids are 0.4 s
OPTIONS = {"seed": 3, "language": "en", "max_seconds": 0.9, "guard": False, **STAGES}


def speak(small, text=TEXT, **options):
    return speak_long(small.model, small.processor, text, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def whole(small):
    """The speech that others are compared with: its pieces, reports, voices and progress."""
    seen: list[LongProgress] = []
    made = speak(small, progress=seen.append)
    return SimpleNamespace(pieces=list(made), chunks=made.chunks, voices=made.voices, progress=seen)


def joined(whole):
    return np.concatenate([piece.audio for piece in whole.pieces])


def kept(folder, index):
    return load_file(folder / f"{index:06}.safetensors")


def voice_of(arrays):
    return Voice.of(arrays)


def generated(small, chunk, voice, **options):
    """The chunk's audio, made again by what its report says."""
    inputs = small.processor(chunk["text"], voice_preset=voice)
    return small.model.generate(**inputs, seed=chunk["seed"], **{**STAGES, **options})[0].numpy()


def part(index, speaker=None, voice=None):
    return Part(index, "Hello.", "sentence", None, speaker, voice)


def test_pieces_come_in_order_and_do_not_depend_on_the_batch(small, whole):
    ones = list(speak(small, batch_size=1))
    assert [piece.chunk["text"] for piece in ones] == CHUNKS
    assert [piece.chunk["index"] for piece in ones] == list(range(6))
    for one, eight in zip(ones, whole.pieces, strict=True):
        np.testing.assert_array_equal(one.audio, eight.audio)
        assert one.chunk == eight.chunk


def test_another_seed_gives_another_speech(small, whole):
    first, other = next(speak(small, seed=4)), whole.pieces[0]
    assert first.chunk["seed"] != other.chunk["seed"]
    assert len(first.audio) != len(other.audio) or not np.array_equal(first.audio, other.audio)


def test_without_a_seed_it_says_which_one_it_drew(small):
    made = speak(small, "Hello.", seed=None)
    np.testing.assert_array_equal(made.audio(), speak(small, "Hello.", seed=made.seed).audio())


def test_fixed_continues_the_given_voice_each_time(small, tmp_path):
    made = speak(small, voice="made/short", resume_folder=tmp_path)
    made.audio()
    given = small.processor.voice("made/short")
    assert {chunk["voice"] for chunk in made.chunks} == {given.fingerprint}
    assert made.voices == {"": given}
    for chunk in made.chunks:
        assert chunk["seed"] == attempt_seed(3, chunk["index"], 0)
        np.testing.assert_array_equal(kept(tmp_path, chunk["index"])["audio"], generated(small, chunk, given))


def test_without_a_voice_the_first_chunks_own_speaks_the_rest(small, tmp_path):
    made = speak(small, resume_folder=tmp_path)
    made.audio()
    first = voice_of(kept(tmp_path, 0))
    assert [chunk["voice"] for chunk in made.chunks] == [None] + [first.fingerprint] * 5
    assert made.voices == {"": first}
    np.testing.assert_array_equal(kept(tmp_path, 4)["audio"], generated(small, made.chunks[4], first))


def test_rolling_continues_the_last_chunk(small, tmp_path):
    made = speak(small, mode="rolling", resume_folder=tmp_path)
    made.audio()
    before = [voice_of(kept(tmp_path, index)) for index in range(5)]
    assert [chunk["voice"] for chunk in made.chunks] == [None, *(voice.fingerprint for voice in before)]
    np.testing.assert_array_equal(kept(tmp_path, 5)["audio"], generated(small, made.chunks[5], before[4]))


def test_anchored_continues_the_voice_and_the_end_of_the_last_chunk(small, tmp_path):
    made = speak(small, mode="anchored", voice="made/short", resume_folder=tmp_path)
    made.audio()
    anchor = small.processor.voice("made/short")
    last = voice_of(kept(tmp_path, 3))
    assert last.seconds > 0.2
    wanted = Voice.concat(anchor, last.trim(0.4 / 3))
    assert made.chunks[0]["voice"] == anchor.fingerprint
    assert made.chunks[4]["voice"] == wanted.fingerprint
    np.testing.assert_array_equal(kept(tmp_path, 4)["audio"], generated(small, made.chunks[4], wanted))


def a_voice(number, semantic=20):
    frames = np.full((8, semantic * 3 // 2), number)
    return Voice(np.full(semantic, number), frames[:2], frames)


def test_a_dialogue_waits_only_for_voices_that_must_first_be_heard():
    cast, anna, ben, carl = Cast("fixed", 0.4), "anna", "ben", "carl"
    parts = [part(i, speaker) for i, speaker in enumerate([anna, ben, anna, anna, ben, carl, ben, carl, anna])]
    assert cast.together(parts) == 1  # soonest heard
    cast.heard(parts[0], a_voice(0), True)
    assert cast.together(parts[1:]) == 3  # Ben's second part needs his first
    for one in parts[1:4]:
        cast.heard(one, a_voice(one.index), True)
    assert cast.together(parts[4:]) == 3
    assert [cast.history(one) for one in parts[4:6]] == [a_voice(1), None]
    cast.heard(parts[5], None, False)  # too short to be a voice: the next one opens again
    assert cast.together(parts[5:]) == 2
    assert Cast("rolling", 0.4).together(parts[4:]) == 1


def test_a_voice_is_made_up_of_parts_until_it_is_long_enough():
    """A title of one word is not the voice of the whole book."""
    cast = Cast("fixed", 1.0)
    parts = [part(index) for index in range(6)]
    for index, passed in enumerate([True, False, True, True, True]):
        assert cast.together(parts[index:]) == (2 if index == 4 else 1)
        cast.heard(parts[index], a_voice(index), passed)
    assert cast.history(parts[5]) == Voice.concat(*(a_voice(index) for index in (0, 2, 3)))


def test_a_failed_opening_stands_in_and_is_never_part_of_the_voice():
    """Music or a stutter in the first chunk would else be every later chunk's voice."""
    for mode in ("fixed", "rolling", "anchored"):
        cast = Cast(mode, 0.2)
        cast.heard(part(0), a_voice(0), False)
        assert cast.history(part(1)) == a_voice(0)
        assert cast.together([part(1), part(2)]) == 1
        cast.heard(part(1), a_voice(1), False)
        assert cast.history(part(2)) == a_voice(0)
        cast.heard(part(2), a_voice(2), True)
        assert cast.voices == {part(2).who: a_voice(2)}
        assert set(cast.history(part(3)).semantic_prompt) == {2}


def test_a_voice_that_is_given_is_no_other_once_heard():
    given = Cast("fixed", 1.0)
    given.heard(part(0, voice=a_voice(9, 10)), a_voice(0), True)
    assert given.history(part(1, voice=a_voice(9, 10))) == a_voice(9, 10)
    assert given.together([part(1, voice=a_voice(9, 10))] * 3) == 3


def test_a_part_that_fails_is_not_continued():
    for mode in ("rolling", "anchored"):
        cast = Cast(mode, 4.2)
        cast.heard(part(0), a_voice(0), True)
        good = cast.history(part(1))
        cast.heard(part(1), a_voice(1), False)
        assert cast.history(part(2)) == good
        cast.heard(part(2), None, True)
        assert cast.history(part(3)) == good
        cast.heard(part(3), a_voice(3), True)
        assert cast.history(part(4)) != good


def test_a_lines_voice_wins_over_the_default(small):
    lines = [Line("Hello.", None, None), Line("A song!", "made/uint16", None), Line("A dog.", None, None)]
    made = speak(small, lines, voice="made/short")
    made.audio()
    own, default = (small.processor.voice(name).fingerprint for name in ("made/uint16", "made/short"))
    assert [chunk["voice"] for chunk in made.chunks] == [default, own, default]


def test_pauses_of_a_script_are_silence_and_others_are_natural(small):
    made = speak(small, "[pause:0.7s] Hello. [pause:1.5s] A song!\n\nA dog. [pause:200ms] Music? [pause:1s]")
    audio, rate = made.audio(), made.sampling_rate
    starts, ends = ([chunk[side] for chunk in made.chunks] for side in ("start", "end"))
    gaps = [start - end for start, end in zip(starts, [0, *ends], strict=False)]
    np.testing.assert_allclose(gaps, [0.7, 1.5, PAUSES["paragraph"], 0.2], atol=0.031)  # the first keeps a breath
    assert len(audio) / rate - ends[-1] == pytest.approx(1, abs=0.101)
    for start, seconds in [(0, 0.65), (ends[0] + 0.1, 1.35), (ends[3] + 0.1, 0.85)]:
        assert not audio[round(start * rate) : round((start + seconds) * rate)].any()


def test_what_has_nothing_to_speak_is_a_break_and_sounds_are_spoken(small):
    """Bark would make up speech for a row of stars, and a text without ids would end the run."""
    made = speak(
        small,
        "Hello.\n\n* * *\n\n[pause:2s] \u200b\n\n[laughs]\n\n♪\n\n... [pause:1s]",
        max_seconds=2,
        max_new_tokens=120,
    )
    audio = made.audio()
    assert [chunk["text"] for chunk in made.chunks] == ["Hello.", "[laughs]", "♪"]
    first, second, last = made.chunks
    assert second["start"] - first["end"] == pytest.approx(2, abs=0.031)
    assert len(audio) / made.sampling_rate - last["end"] == pytest.approx(1, abs=0.101)


def test_a_turn_in_a_paragraph_pauses_as_a_sentence_does(small):
    made = speak(small, [Line("Hello.", None, None), Line("A song!", None, None)])
    made.audio()
    first, second = made.chunks
    assert second["start"] - first["end"] == pytest.approx(PAUSES["sentence"], abs=0.001)


def test_each_speaker_without_a_voice_gets_one_and_keeps_it(small):
    lines = [Line("A dog.", None, name, paragraph=i) for i, name in enumerate(["Anna", "Ben", "Anna", "Ben"])]
    made = speak(small, lines)
    made.audio()
    anna, ben = made.voices["Anna"], made.voices["Ben"]
    assert anna != ben
    assert [chunk["voice"] for chunk in made.chunks] == [None, None, anna.fingerprint, ben.fingerprint]
    assert [chunk["speaker"] for chunk in made.chunks] == ["Anna", "Ben", "Anna", "Ben"]


def test_the_report_is_json_and_its_times_are_those_of_the_whole(small):
    made = speak(small, guard=True, retries=1)
    audio = made.audio()
    assert [chunk["text"] for chunk in json.loads(json.dumps(made.chunks))] == CHUNKS
    times = [time for chunk in made.chunks for time in (chunk["start"], chunk["end"])]
    assert times == sorted(times)
    assert times[-1] <= len(audio) / made.sampling_rate
    for chunk in made.chunks:
        attempt = chunk["attempts"][chunk["kept"]]
        assert chunk["seed"] == attempt["seed"]
        assert set(attempt["measures"]) >= {"length", "loop", "silence", "clipping", "collapse", "unfinished"}
        speech = audio[round(chunk["start"] * 24_000) : round(chunk["end"] * 24_000)]
        assert np.abs(speech).max() > 0


def test_progress_counts_chunks_and_seconds(whole):
    assert [(one.chunks, one.of_chunks) for one in whole.progress] == [(i + 1, 6) for i in range(6)]
    heard = np.cumsum([len(piece.audio) for piece in whole.pieces]) / 24_000
    np.testing.assert_allclose([one.seconds for one in whole.progress], heard)
    assert whole.progress[-1].of_seconds == whole.progress[-1].seconds
    assert all(one.of_seconds > one.seconds for one in whole.progress[:-1])


def test_the_first_piece_is_heard_before_the_rest_is_made(small, monkeypatch):
    asked = []
    own = type(small.model).generate_many

    def counted(model, inputs, *arguments, **options):
        return own(model, (asked.append(one) or one for one in inputs), *arguments, **options)

    monkeypatch.setattr(type(small.model), "generate_many", counted)
    made = speak(small, "\n\n".join([TEXT] * 3), voice="made/short", batch_size=2)
    assert not asked
    next(made)
    assert len(asked) == 1
    next(made)
    assert len(asked) < 9


def alive(monkeypatch, kind):
    """Those of a class that are made from now on and not yet gone."""
    found, own = weakref.WeakSet(), kind.__init__
    monkeypatch.setattr(kind, "__init__", lambda self, *a, **k: found.add(self) or own(self, *a, **k))
    return found


def test_memory_does_not_grow_with_the_text(small, monkeypatch):
    spoken = alive(monkeypatch, Spoken)
    counts = [len(spoken) for _ in speak(small, "\n\n".join([TEXT] * 2), batch_size=2)]
    assert len(counts) == 12
    assert min(counts) >= 1
    assert max(counts) <= 4  # the one that is delivered, and those of its batch that were faster


def test_closing_frees_everything(small, monkeypatch):
    small.model.sessions.clear()
    spoken, sessions = alive(monkeypatch, Spoken), alive(monkeypatch, DecodeSession)
    made = speak(small, batch_size=2)
    next(made)
    next(made)
    assert (len(spoken) > 0, len(sessions) > 0) == (True, True)
    made.close()
    small.model.sessions.clear()
    assert (len(spoken), len(sessions)) == (0, 0)
    assert list(made) == []


SCRIPT = """
import os, signal, sys
import torch
from bark_hf import BarkModel, BarkProcessor
from bark_hf.longform import speak_long
torch.set_num_threads(1)
checkpoint, folder, text = sys.argv[1:]
def stop(progress):
    if progress.chunks == 3:
        os.kill(os.getpid(), signal.SIGKILL)
model, processor = BarkModel.from_pretrained(checkpoint).eval(), BarkProcessor.from_pretrained(checkpoint)
list(speak_long(model, processor, text, resume_folder=folder, progress=stop, batch_size=2,
                seed=3, language="en", max_seconds=0.9, guard=False, max_new_tokens=60, max_coarse_history=60))
"""


def test_killed_at_half_and_resumed_it_gives_the_same_bytes(small, whole, tmp_path):
    folder = tmp_path / "book"
    arguments = [small.checkpoint, folder, TEXT]
    killed = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, arguments)], timeout=120, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert 3 <= len(before) < 6
    made = speak(small, resume_folder=folder)
    assert made.audio().tobytes() == joined(whole).tobytes()
    assert made.chunks == whole.chunks
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}.items()


def test_a_finished_run_is_read_and_nothing_is_made(small, tmp_path, monkeypatch):
    first = speak(small, seed=None, resume_folder=tmp_path)
    wanted = first.audio()
    monkeypatch.setattr(type(small.model), "generate_many", None)
    again = speak(small, seed=None, resume_folder=tmp_path)
    assert again.seed == first.seed
    np.testing.assert_array_equal(again.audio(), wanted)
    assert Voice.load(tmp_path / "000000.safetensors") == again.voices[""]


@pytest.mark.parametrize("mode", ["fixed", "rolling", "anchored"])
def test_an_interruption_leaves_what_is_finished(small, tmp_path, mode):
    def interrupt(progress):
        if progress.chunks == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(speak(small, mode=mode, resume_folder=tmp_path, batch_size=1, progress=interrupt))
    assert {path.name for path in tmp_path.iterdir()} >= {"plan.json", "000000.safetensors", "000001.safetensors"}
    resumed = speak(small, mode=mode, resume_folder=tmp_path)
    assert resumed.audio().tobytes() == speak(small, mode=mode).audio().tobytes()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"text": TEXT + " And more."}, "text"),
        ({"voice": "made/short"}, "voices"),
        ({"seed": 4}, "seed"),
        ({"mode": "rolling"}, "mode"),
        ({"best_of": 2, "guard": True}, "guard"),
        ({"language": "de"}, "language"),
        ({"temperature": 0.6}, "options"),
    ],
)
def test_changed_input_is_refused_by_name(small, tmp_path, changed, named):
    next(speak(small, resume_folder=tmp_path))
    with pytest.raises(ValueError, match=rf"of another run: {named} differ"):
        speak(small, changed.pop("text", TEXT), resume_folder=tmp_path, **changed)


def test_another_model_is_another_fingerprint(small):
    fingerprint = weights(small.model)
    bias = small.model.fine_acoustics.layernorm_final.bias
    old = bias.data.clone()
    bias.data[0] += 1e-3
    try:
        assert weights(small.model) != fingerprint
    finally:
        bias.data.copy_(old)
    assert weights(small.model) == fingerprint


def test_offloaded_weights_have_a_fingerprint_and_others_are_not_asked(small, monkeypatch, tmp_path):
    with init_empty_weights(include_buffers=True):
        offloaded = type(small.model)(small.model.config)
    assert weights(offloaded) == weights(offloaded) != weights(small.model)
    monkeypatch.setattr(longform, "weights", None)
    speak(small, "Hello.")
    with pytest.raises(TypeError):
        speak(small, "Hello.", resume_folder=tmp_path / "parts")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(ValueError, match="nothing to resume"):
        ChunkStore(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_chunk_without_sound_is_reported_and_the_rest_goes_on(small):
    made = speak(small, min_eos_p=0.0, guard=True, retries=1)
    assert len(made.audio()) == 0
    assert len(made.chunks) == 6
    assert all(chunk["attempts"][0]["measures"] == {"empty": 100.0} for chunk in made.chunks)
    assert made.voices == {}


def test_failing_chunks_are_made_again_and_reported(small):
    bad = {attempt_seed(3, 2, 0), attempt_seed(3, 2, 1), attempt_seed(3, 4, 0)}
    judge = lambda result, text: Verdict(2.0, ("bad",)) if result.seeds[0] in bad else Verdict(0.0)
    made = speak(small, guard=judge)
    made.audio()
    assert [len(chunk["attempts"]) for chunk in made.chunks] == [1, 1, 3, 1, 2, 1]
    assert [chunk["kept"] for chunk in made.chunks] == [0, 0, 2, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "no words"),
        ("[pause:1s]", {}, "no words"),
        ("...\n\n* * *", {}, "no words"),
        (TEXT, {"language": "xx"}, "Bark speaks"),
        (TEXT, {"best_of": 2}, "leave `guard` on"),
        (TEXT, {"mode": "random"}, "fixed, rolling, anchored"),
        (TEXT, {"voice": "nobody"}, "Unknown voice"),
        ([Line("Hello.", "nobody", None)], {}, "Unknown voice"),
    ],
)
def test_what_cannot_be_spoken_is_refused_at_once(small, text, options, message):
    with pytest.raises(ValueError, match=message):
        speak(small, text, **options)


def test_the_example_writes_a_book_and_its_report(small, tmp_path, monkeypatch, capsys):
    (tmp_path / "book.txt").write_text("Hello. [pause:1s] A song!")
    wav = tmp_path / "book.wav"
    monkeypatch.setattr(sys, "argv", ["audiobook.py", *map(str, (small.checkpoint, tmp_path / "book.txt", wav))])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "2/2 chunks" in capsys.readouterr().err
    report = json.loads(wav.with_suffix(".json").read_text())
    assert [chunk["text"] for chunk in report] == ["Hello.", "A song!"]
    assert soundfile.info(wav).duration == pytest.approx(report[-1]["end"], abs=0.11)
