"""What tests of the command line share: a command's exit code, and the one sentence of one that fails."""

import pytest

from bark_hf.cli.main import main


def run(*arguments: str) -> int:
    """The command line's exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def error(capsys, *arguments: str) -> str:
    """Runs, expects exit code 1, nothing on stdout and one sentence on stderr; returns that."""
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: "), captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert "Traceback" not in captured.err
    return captured.err
