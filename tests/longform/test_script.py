"""Scripts: marked-up text and JSON become lines with voices and pauses, and mistakes are named by their line."""

import json

import pytest

from bark_hf.longform import Line, parse_script, read_script

VOICES = {"Anna": "v2/en_speaker_9", "Ben": "v2/en_speaker_6", "老王": "v2/zh_speaker_1"}


def test_prose_is_a_line_a_paragraph_with_its_white_space_folded():
    assert parse_script("One\n two.\r\n\r\n \n\nThree: [laughs] four. ♪ la ♪\n") == [
        Line("One two.", None, None, paragraph=0),
        Line("Three: [laughs] four. ♪ la ♪", None, None, paragraph=1),
    ]
    assert parse_script(" \n\n") == []


def test_only_names_of_the_voice_map_speak():
    text = "Anna: Hi.\nHow are you?\nBen : Fine. Note: Anna: no.\nNote: this is prose.\n\nNobody speaks.\n老王：好。"  # noqa: RUF001
    assert parse_script(text, VOICES) == [
        Line("Hi. How are you?", "v2/en_speaker_9", "Anna"),
        Line("Fine. Note: Anna: no. Note: this is prose.", "v2/en_speaker_6", "Ben"),
        Line("Nobody speaks.", None, None, paragraph=1),
        Line("好。", "v2/zh_speaker_1", "老王", paragraph=1),
    ]
    assert [line.speaker for line in parse_script(text)] == [None, None]


@pytest.mark.parametrize(
    ("mark", "seconds"),
    [
        ("[pause:1.5s]", 1.5),
        ("[pause:1.5]", 1.5),
        ("[pause 300ms]", 0.3),
        ("[ Pause: 2 S ]", 2),
        ("[pause:60 Ms]", 0.06),
        ("[pause:60]", 60),
    ],
)
def test_a_pause_splits_its_line(mark, seconds):
    assert parse_script(f"One, {mark} two.") == [Line("One,", None, None), Line("two.", None, None, seconds)]


def test_pauses_add_up_cross_paragraphs_and_outlast_the_last_words():
    lines = parse_script("[pause:1s]Anna: Hi. [pause:1s]\n\n[pause:500ms]\n\nBye.[pause:2s]", VOICES)
    assert lines == [
        Line("Hi.", "v2/en_speaker_9", "Anna", 1),
        Line("Bye.", None, None, 1.5, paragraph=1),
        Line("", None, None, 2, paragraph=1),
    ]
    assert parse_script("[pause:1s]") == [Line("", None, None, 1)]


def test_a_voice_lasts_until_the_next_the_next_speaker_or_the_paragraphs_end():
    lines = parse_script("A. [voice:Ben] B.\nC. [voice: v2/x ] D.\nAnna: E. [voice:../f] F.\n\nG.", VOICES)
    assert [(line.text, line.voice, line.speaker) for line in lines] == [
        ("A.", None, None),
        ("B. C.", "v2/en_speaker_6", None),
        ("D.", "v2/x", None),
        ("E.", "v2/en_speaker_9", "Anna"),
        ("F.", "../f", "Anna"),  # a name that no voice has: it is never a path
        ("G.", None, None),
    ]


def test_barks_own_tags_stay_in_the_text():
    text = "[MAN] Ha [laughs] [music] [voice of reason] [pauses] [ 1 ] [unclosed"
    assert parse_script(text) == [Line(text, None, None)]


@pytest.mark.parametrize(
    "mark",
    [
        *("[pause]", "[pause:]", "[pause:soon]", "[pause:1,5s]", "[pause:1s", "[pause:1s [laughs]", "[pause:nan]"),
        *("[pause:-1s]", "[pause:61s]", "[pause:60001ms]", f"[pause:{400 * '9'}]", "[voice:]", "[voice:x"),
    ],
)
def test_marks_that_are_none_name_their_line(mark):
    with pytest.raises(ValueError, match=r"^Line 3: .*(\[pause:1\.5s\]|0 to 60 seconds)"):
        parse_script(f"One.\n\nTwo. {mark}\nThree.")


def test_json_says_what_text_says(tmp_path):
    lines = [
        {"speaker": "Anna", "text": "Hi,\n\n[pause:1s] you."},
        {"text": "Prose. Ben: no."},
        {"speaker": "Ben", "voice": "Anna", "text": "Ha.", "pause": 2},
        {"speaker": "Eve", "voice": "v2/x", "text": "[voice:Ben] Bye.", "pause": None},
        {"text": "", "pause": 0.5},
    ]
    script = {"voices": {"Anna": "mine"}, "lines": lines}
    wanted = [
        Line("Hi,", "mine", "Anna"),
        Line("you.", "mine", "Anna", 1),
        Line("Prose. Ben: no.", None, None, paragraph=1),
        Line("Ha.", "mine", "Ben", 2, paragraph=2),
        Line("Bye.", "v2/en_speaker_6", "Eve", paragraph=3),
        Line("", None, None, 0.5, paragraph=4),
    ]
    path = tmp_path / "script.json"
    path.write_text("\ufeff" + json.dumps(script), encoding="utf-8")
    assert read_script(path, VOICES) == wanted
    assert read_script(json.dumps(script, indent=1), VOICES) == wanted
    assert [line.voice for line in read_script(json.dumps(lines[:2]))] == [None] * 3
    assert read_script("[]") == [Line("[]", None, None)]  # text, where nothing says that it is JSON
    path.write_text("[]")
    assert read_script(path) == []


def test_text_is_read_from_paths_and_strings_and_a_string_is_never_a_path(tmp_path):
    path = tmp_path / "script.txt"
    path.write_bytes("\ufeff[laughs] Größe.\r\nAnna: Hi.".encode())
    assert [line.text for line in read_script(path, VOICES)] == ["[laughs] Größe.", "Hi."]
    assert read_script(str(path)) == [Line(str(path), None, None)]
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"script\.txt is no UTF-8 text"):
        read_script(path)
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        read_script(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('[{"text": "a"},\n {"text": }]', "no valid JSON: .*line 2"),
        ('[{"text": ' + 100_000 * "[", "no valid JSON"),
        ('{"text": "a"}', "a list of lines"),
        ('{"lines": {"text": "a"}}', "a list of lines"),
        ('{"lines": [], "voice": {}}', "a list of lines"),
        ('{"lines": [], "voices": []}', "a list of lines"),
        ('{"lines": [], "voices": {"Anna": 3}}', "must map names"),
        ('[{"text": "a"}, "b"]', "^Line 2: .*got 'b'"),
        ('[{"text": "a"}, {"speaker": "Anna"}]', "^Line 2: .*may have"),
        ('[{"text": "a"}, {"text": null}]', "^Line 2: .*may have"),
        ('[{"text": "a"}, {"text": "b", "mood": "c"}]', "^Line 2: .*mood"),
        ('[{"text": "a"}, {"text": "b", "pause": "1s"}]', "^Line 2: .*seconds"),
        ('[{"text": "a"}, {"text": "b", "pause": true}]', "^Line 2: .*seconds"),
        ('[{"text": "a"}, {"text": "b", "voice": ["v2"]}]', "^Line 2: .*name"),
        ('[{"text": "a"}, {"text": "b", "pause": -1}]', "^Line 2: a pause lasts 0 to 60 seconds, got -1"),
        ('[{"text": "a"}, {"text": "b", "pause": NaN}]', "^Line 2: .*0 to 60 seconds"),
        ('[{"text": "a"}, {"text": "b", "pause": 1' + 400 * "0" + "}]", "^Line 2: .*0 to 60 seconds"),
        ('[{"text": "a"}, {"text": "b [pause:x]"}]', r"^Line 2: write \[pause"),
        (
            '[{"text": "a"}, {"text": "b", "speaker": "Eve"}]',
            "^Line 2: 'Eve' has no voice; the voices are of Anna, Ben",
        ),
    ],
)
def test_json_of_another_shape_is_refused_in_a_sentence(script, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        read_script(script, VOICES)


def test_hostile_text_takes_no_time():
    """A backtracking pattern would take minutes here."""
    for text in ("a" + " " * 200_000 + "b", "[" * 200_000, "[ " * 100_000, "[]" * 100_000, "[ voice" * 50_000):
        assert len(parse_script(text, VOICES)) == 1
    with pytest.raises(ValueError, match="Line 1"):
        parse_script(f"[pause:{'1' * 200_000}x]")
