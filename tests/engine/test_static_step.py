"""Captures of steps on CUDA, without CUDA: tensors that have a device but no data, and a module that takes notes."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bark_hf.engine import decoding
from bark_hf.engine.decoding import DecodeSession, RowCache
from bark_hf.engine.static_step import WARM_UPS, StaticStep

DEVICE = torch.device("cuda", 1)  # the current one is 0


class Notes:
    """Stands for `torch.cuda`: knows which device is current, and which stream, graph and mode a run was made in."""

    def __init__(self):
        self.current, self.capturing, self.runs = 0, None, []

    @contextmanager
    def device(self, device):
        before, self.current = self.current, device if isinstance(device, int) else device.index
        yield
        self.current = before

    def Stream(self):
        return SimpleNamespace(device=self.current, wait_stream=lambda other: None)

    def current_stream(self):
        return self.Stream()

    @contextmanager
    def stream(self, stream):
        assert stream.device == self.current
        yield

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: None)

    @contextmanager
    def graph(self, graph, stream=None, capture_error_mode="global"):
        # without a stream of the caller's, torch takes one of the device that was current at the very first capture
        with self.device(0 if stream is None else stream.device):
            self.capturing = capture_error_mode
            yield
            self.capturing = None


@pytest.fixture
def cuda(monkeypatch):
    notes = Notes()
    for name in ("device", "Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(notes, name))
    return notes


def capture(cuda, monkeypatch):
    """What each run of a capture saw: current device, error mode or None, autocast, and autocast's cache."""
    step = StaticStep(RowCache(2, 64))

    def run(ids, positions, limit, legal):
        assert ids.device == positions.device == DEVICE
        state = torch.is_autocast_enabled("cuda"), torch.is_autocast_cache_enabled()
        cuda.runs.append((cuda.current, cuda.capturing, *state))
        return ids

    monkeypatch.setattr(step, "_run", run)
    with FakeTensorMode():
        captured = step._capture(2, 64, None, DEVICE)
    assert captured.graph is not None
    return cuda.runs


def test_a_capture_is_made_on_the_models_device_and_minds_no_other_thread(cuda, monkeypatch):
    """A stream of another device captured an empty graph, whose replays left garbage."""
    runs = capture(cuda, monkeypatch)
    assert len(runs) == WARM_UPS + 1
    assert {current for current, *_ in runs} == {1}
    assert [mode for _, mode, *_ in runs] == [None] * WARM_UPS + ["thread_local"]
    assert cuda.current == 0


@pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning")
def test_a_capture_under_autocast_holds_its_own_casts_of_weights(cuda, monkeypatch):
    """Autocast's cached ones are freed at its end, and a graph would go on reading where they were."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    with torch.autocast("cuda", torch.bfloat16):
        runs = capture(cuda, monkeypatch)
        assert torch.is_autocast_cache_enabled()
    assert {run[2:] for run in runs} == {(True, False)}
    cuda.runs.clear()
    assert {run[2:] for run in capture(cuda, monkeypatch)} == {(False, False)}


def test_numbers_go_to_cuda_from_pinned_memory(monkeypatch):
    """A copy from other memory makes the host wait for all that the device still has to do, at each step."""
    copies = []
    make = torch.tensor

    def tensor(numbers, **options):
        copies.append(options.pop("pin_memory", False))
        return make(numbers, **options)

    with FakeTensorMode():
        monkeypatch.setattr(torch, "tensor", tensor)
        monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: copies.append((*a, k["non_blocking"])) or self)
        decoding.on_device([3, 5], DEVICE)
        decoding.on_device([3, 5], torch.device("cpu"))
    assert copies == [True, (DEVICE, True), False, (torch.device("cpu"), False)]


@pytest.mark.parametrize("static", [False, True])
def test_no_step_sends_a_list_to_the_device_by_itself(small, monkeypatch, static):
    """Rows of different lengths, in steps of fixed shapes or not: all positions go through `on_device`."""
    model = small.model.semantic
    session = DecodeSession(model, 2, 64)
    session.fast = decoding.fast_step(model)
    session.static = StaticStep(session.cache) if static else None
    ids = torch.randint(0, 40, (2, 12))
    with torch.no_grad():
        session.prefill(0, [{"input_ids": ids[0, :9]}, {"input_ids": ids[1, :7]}], None)
        sent, send = [], decoding.on_device
        monkeypatch.setattr(
            decoding, "on_device", lambda numbers, device: sent.append(numbers) or send(numbers, device)
        )
        make = torch.tensor
        monkeypatch.setattr(
            torch, "tensor", lambda *a, **k: make(*a, **k) if k["device"] == "cpu" else pytest.fail("a hidden wait")
        )
        session.step(ids[:, 9], None)
    assert sent == [[9, 7]]
