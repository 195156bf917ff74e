"""What a person sees: sentences and progress bars, all on stderr, so that stdout is free for results."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

stderr = Console(stderr=True)


def say(message: str) -> None:
    stderr.print(message, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """Progress bars on a terminal, for as long as a `with` lasts; elsewhere nothing is drawn."""

    def __init__(self, *columns: ProgressColumn, quiet: bool = False):
        self.bars = Progress(*columns, console=stderr, disable=quiet or not stderr.is_terminal)

    def __enter__(self):
        self.bars.start()
        return self

    def __exit__(self, *exception) -> None:
        if not self.bars.disable:  # before 14.3 rich ends bars that never began with an empty line
            self.bars.stop()


class StageBars(Bars):
    """Draws one bar a stage, by `put`."""

    def __init__(self):
        super().__init__(TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.tasks: dict[str, TaskID] = {}

    def put(self, progress) -> None:
        if progress.stage not in self.tasks:
            self.end()
            self.tasks[progress.stage] = self.bars.add_task(progress.stage, total=progress.total)
        self.bars.update(self.tasks[progress.stage], completed=progress.done, total=progress.total)

    def end(self) -> None:
        for task in self.tasks.values():  # a stage may end before its limit
            self.bars.update(task, total=self.bars.tasks[task].completed)

    def __exit__(self, *exception) -> None:
        self.end()
        super().__exit__(*exception)


class ChunkBar(Bars):
    """Draws how much of a long text can be heard, in chunks and seconds."""

    def __init__(self, quiet: bool):
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        super().__init__(*columns, quiet=quiet)
        self.task = self.bars.add_task("chunks", total=None)

    def put(self, progress) -> None:
        said = f"{progress.seconds:.0f} of about {progress.of_seconds:.0f} s"
        self.bars.update(self.task, completed=progress.chunks, total=progress.of_chunks, description=said)


class BenchBar(Bars):
    """Shows a benchmark's progress: a bar on a terminal, else a line for each step."""

    def __init__(self):
        super().__init__(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self.task = self.bars.add_task("", total=None)

    def report(self, done: int, total: int, sentence: str) -> None:
        self.bars.update(self.task, completed=done, total=total, description=sentence)
        if not stderr.is_terminal:
            say(f"{done}/{total} {sentence}")
