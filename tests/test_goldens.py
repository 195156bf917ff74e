"""The original's outputs, case by case, through the conversion script: tokens equal, floats within 1e-4."""

import numpy as np
import torch

from bark_hf.sampling import probabilities

TOLERANCE = 1e-4  # of max(1, the largest reference value)


def assert_close(got, wanted, name):
    got, wanted = np.asarray(got, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    assert got.shape == wanted.shape, name
    worst = np.abs(got - wanted).max()
    assert worst <= TOLERANCE * max(1.0, np.abs(wanted).max()), f"{name}: {worst}"


def assert_equal(got, wanted, name):
    np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted), err_msg=name)


def options(case, *names):
    renamed = {"max_gen_duration_s": "max_duration"}
    return {renamed.get(name, name): case[name] for name in names if name in case}


SEMANTIC = ("max_gen_duration_s", "min_eos_p", "allow_early_stop")


def test_semantic_tokens_equal_the_originals(golden, both_steps):
    for case in golden.cases("semantic"):
        inputs = golden.processor_inputs(case)
        tokens = golden.model.generate_semantic(**inputs, do_sample=False, **options(case, *SEMANTIC))
        assert_equal(tokens[0], golden.arrays[case["key"]], case["key"])


def test_coarse_codes_equal_the_originals(golden, both_steps):
    for case in golden.cases("coarse"):
        codes = golden.model.generate_coarse(
            [golden.arrays[case["key"] + "/in"]],
            history_prompt=golden.processor.voice(case["preset"]),
            do_sample=False,
            **options(case, "max_coarse_history", "sliding_window_len"),
        )
        assert_equal(codes[0], golden.arrays[case["key"] + "/out"], case["key"])


def test_fine_codes_equal_the_originals(golden):
    for case in golden.cases("fine"):
        codes = golden.model.generate_fine(
            [golden.arrays[case["key"] + "/in"]],
            history_prompt=golden.processor.voice(case["preset"]),
            temperature=None,
        )
        assert_equal(codes[0], golden.arrays[case["key"] + "/out"], case["key"])


def test_end_to_end_tokens_and_audio_equal_the_originals(golden, both_steps):
    for case in golden.cases("e2e"):
        out = golden.model.generate(
            **golden.processor_inputs(case), do_sample=False, return_dict_in_generate=True, **options(case, *SEMANTIC)
        )
        wanted = {name: golden.arrays[f"{case['key']}/{name}"] for name in ("semantic", "coarse", "fine", "audio")}
        assert_equal(out.semantic_tokens[0], wanted["semantic"], case["key"])
        assert_equal(out.coarse_codes[0], wanted["coarse"], case["key"])
        assert_equal(out.fine_codes[0], wanted["fine"], case["key"])
        assert_close(out.audio[0], wanted["audio"], case["key"])


def test_probabilities_that_are_drawn_from_equal_the_originals(golden):
    logits = torch.from_numpy(golden.arrays["probs/logits"])
    for case in golden.cases("probs"):
        legal = golden.manifest["constants"]["semantic_vocab_size"] + case.get("allow_early_stop", True)
        got = probabilities(logits[:legal], case["temp"], case.get("top_k"), case.get("top_p"))
        assert_close(got, golden.arrays[case["key"]], case["key"])
        assert_equal(got == 0, golden.arrays[case["key"]] == 0, case["key"])


def test_causal_logits_equal_the_originals(golden):
    stride = 1 if golden.manifest["layers"] == 2 and golden.manifest["width"] == 16 else 16
    for stage, model in (("text", golden.model.semantic), ("coarse", golden.model.coarse_acoustics)):
        ids = torch.from_numpy(golden.arrays[f"forward/{stage}/input"])
        for key in golden.arrays.files:
            if not key.startswith(f"forward/{stage}/logits_"):
                continue
            inputs = {"input_ids": ids[:, : int(key.rpartition("_")[2])]}
            if stage == "text":  # 256 text ids, 256 history ids, infer, semantic ids
                inputs = {
                    "input_ids": torch.cat([inputs["input_ids"][:, :256], inputs["input_ids"][:, 512:]], dim=1),
                    "history_ids": ids[:, 256:512],
                }
            with torch.no_grad():
                logits = model(**inputs, logits_to_keep=1).logits[0, -1]
            assert_close(logits[::stride], golden.arrays[key], key)


def test_fine_logits_equal_the_originals(golden):
    ids = torch.from_numpy(golden.arrays["forward/fine/input"])
    for codebook in range(1, 8):
        with torch.no_grad():
            logits = golden.model.fine_acoustics(codebook, ids).logits[0]
        key = f"forward/fine/logits_{codebook}"
        assert_close(logits[::128, ::8], golden.arrays[key], key)


def test_codec_decodes_and_encodes_like_the_original(golden):
    audio = golden.model.decode_audio([golden.arrays["codec/codes"]])[0]
    assert_close(audio, golden.arrays["codec/audio"], "codec/audio")
    wave = torch.from_numpy(golden.arrays["codec/wave_in"][0, 0])
    codes = golden.model.codec_model.encode_all([wave], 8)[0]
    assert_equal(codes, golden.arrays["codec/wave_codes"][0], "codec/wave_codes")
