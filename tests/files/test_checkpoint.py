"""A checkpoint's files on a hub that answers, that fails, or that may not be asked. A hub of this test's own."""

import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from huggingface_hub import constants

from bark_hf import BarkGenerationConfig, BarkModel, Voice, VoicePresets
from bark_hf.bench.workload import vocabulary_of
from bark_hf.cli.main import main
from bark_hf.files.checkpoint import find_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GENERATION = "generation_config.json"


class Hub:
    """`files` of the one repository `a/bark`; `status` is what every request gets instead, if it is not None."""

    def __init__(self):
        self.files: dict[str, bytes] = {"config.json": b"{}"}
        self.status: int | None = None
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.do_GET(body=False)

            def do_GET(self, body=True):
                hub.requests.append(f"{self.command} {self.path}")
                repo, _, rest = self.path[1:].partition("/resolve/")
                _, _, name = rest.partition("/")
                headers = {"X-Repo-Commit": COMMIT}
                if repo != "a/bark":
                    status, headers = 404, {"X-Error-Code": "RepoNotFound"}
                elif hub.status is not None:
                    status, headers = hub.status, {}
                elif name not in hub.files:
                    status, headers = 404, {**headers, "X-Error-Code": "EntryNotFound"}
                else:
                    status = 200
                content = hub.files[name] if status == 200 else b""
                self.send_response(status)
                for key, value in {**headers, "ETag": f'"{hash(content)}"', "Content-Length": len(content)}.items():
                    self.send_header(key, str(value))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield hub
    hub.close()


@pytest.fixture
def voices(tmp_path):
    """A bank of one voice, as the hub has it."""
    fine = np.zeros((8, 30), int)
    VoicePresets({"mine": Voice(np.zeros(20, int), fine[:2], fine)}).save(tmp_path / "bank.safetensors")
    return (tmp_path / "bank.safetensors").read_bytes()


def unreachable(hub, monkeypatch, how):
    if how == "refused":  # no one listens there any more
        hub.server.server_close()
    else:
        hub.status = how


FAILURES = ["refused", 503, 429, 401]


def test_what_the_hub_has_is_found_and_what_it_lacks_is_not_there(hub, voices):
    hub.files["voices.safetensors"] = voices
    presets = VoicePresets.from_pretrained("a/bark")
    assert list(presets) == ["mine"]
    assert presets["mine"].seconds == 0.4
    assert find_file("a/bark", GENERATION) is None
    assert find_file("a/bark", "config.json").endswith(f"{COMMIT}/config.json")


@pytest.mark.parametrize("how", FAILURES)
def test_a_hub_that_fails_is_an_error_and_no_checkpoint_without_voices(hub, monkeypatch, how):
    """It once gave 0 voices and Suno's generation config in silence."""
    unreachable(hub, monkeypatch, how)
    with pytest.raises(
        OSError, match=r"could not be asked whether a/bark has generation_config\.json .*HF_HUB_OFFLINE"
    ):
        VoicePresets.from_pretrained("a/bark")
    with pytest.raises(OSError, match="could not be asked"):
        vocabulary_of("a/bark")
    with pytest.raises(OSError, match="could not be asked"):
        adjusted("a/bark")


class Model:
    """What `adjust_generation_fn` changes of a model."""


def adjusted(source, **hub):
    """The generation config that `from_pretrained` gives a model."""
    BarkModel.adjust_generation_fn(model := Model(), None, False, False, source, **hub)
    return model.generation_config


@pytest.mark.parametrize("how", FAILURES)
def test_a_copy_in_the_cache_is_used_and_named(hub, voices, monkeypatch, tmp_path, how):
    config = BarkGenerationConfig()
    config.semantic_config.temperature = 0.3
    hub.files |= {"voices.safetensors": voices, GENERATION: config.to_json_string().encode()}
    assert adjusted("a/bark").semantic_config.temperature == 0.3
    VoicePresets.from_pretrained("a/bark")
    unreachable(hub, monkeypatch, how)
    where = rf"asked \(.+\): the copy .*{COMMIT}/\w+\.(json|safetensors) is used"
    with pytest.warns(UserWarning, match=where):
        assert adjusted("a/bark").semantic_config.temperature == 0.3
    with pytest.warns(UserWarning, match=where):
        assert list(VoicePresets.from_pretrained("a/bark")) == ["mine"]  # the index is known to be missing
    with pytest.raises(OSError, match=r"whether a/bark has other\.json"):
        find_file("a/bark", "other.json")
    with pytest.raises(OSError, match="could not be asked"):
        find_file("a/bark", GENERATION, force_download=True)
    assert find_file("a/bark", GENERATION, revision=COMMIT).endswith(GENERATION)  # a commit needs no question


@pytest.mark.parametrize("by", ["environment", "argument"])
def test_without_connections_the_cache_is_the_whole_checkpoint(hub, voices, monkeypatch, by):
    hub.files["voices.safetensors"] = voices
    find_file("a/bark", "config.json")
    options = {"local_files_only": True} if by == "argument" else {}
    if by == "environment":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert list(VoicePresets.from_pretrained("a/bark", **options)) == []  # never fetched, nor known to be missing
    assert adjusted("a/bark", **options).to_dict() == BarkGenerationConfig().to_dict()
    for source, more in (("a/other", {}), ("a/bark", {"revision": "old"})):
        with pytest.raises(OSError, match="neither a folder nor a checkpoint in the cache"):
            VoicePresets.from_pretrained(source, **options, **more)
    assert len(hub.requests) == before


def test_a_file_that_is_known_to_be_missing_is_enough_without_connections(hub, voices, monkeypatch):
    hub.files = {"voices.safetensors": voices}
    VoicePresets.from_pretrained("a/bark")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert list(VoicePresets.from_pretrained("a/bark")) == ["mine"]


def test_what_is_no_checkpoint_is_said(hub, tmp_path):
    for source, message in (("a/none", "could not be asked"), ("a/b/c", "nor a hub id"), ("no such", "nor a hub id")):
        with pytest.raises(OSError, match=message):
            VoicePresets.from_pretrained(source)


def test_subfolders_and_folders(hub, tmp_path):
    hub.files["inside/x.json"] = b"{}"
    assert find_file("a/bark", "x.json", subfolder="inside").endswith("inside/x.json")
    assert find_file("a/bark", "y.json", subfolder="inside") is None
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "x.json").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_file(tmp_path, "x.json", subfolder="inside") == str(tmp_path / "inside" / "x.json")
        assert find_file(tmp_path, "x.json", proxies=None, revision=None) is None


def test_the_command_line_says_it_in_a_sentence(hub, capsys):
    hub.status = 503
    with pytest.raises(SystemExit, match="1"):
        main(["voices", "--model", "a/bark"])
    said = capsys.readouterr().err
    assert "could not be asked" in said
    assert len(said.strip().splitlines()) == 1
