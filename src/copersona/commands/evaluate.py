"""The command `copersona evaluate`: runs an evaluation and writes its report.

Only options and progress are handled here. What takes long to load is imported when the command
runs.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from copersona.commands import terminal
from copersona.commands.session import Session

_EVERY_S = 30.0


def evaluate(  # noqa: PLR0913  one parameter per option
    ctx: typer.Context,
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="Folder of the data sets.")
    ] = None,
    size: Annotated[str, typer.Option(help="smoke, glance, small or full.")] = "smoke",
    task: Annotated[
        list[str] | None, typer.Option(help="acl.title, acl, all …; again for more.")
    ] = None,
    system: Annotated[
        list[str] | None, typer.Option(help="ladder.6, baseline.*, module:Class …; again for more.")
    ] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE[,OUTPUTS]", help="Official LaMP file …")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Outputs and report.")] = Path("run"),
    cache: Annotated[Path, typer.Option(metavar="DIR", help="What is not computed twice.")] = Path(
        ".copersona-cache"
    ),
    split: Annotated[str, typer.Option(help="dev or test.")] = "dev",
    reason: Annotated[str, typer.Option(help="Why test is looked at; it is logged.")] = "",
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Who is asked is not learnt from.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto, for a local model.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Threads of a local model.")] = None,
    judged: Annotated[
        int | None, typer.Option(help="Requests a task that the language model judges.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Tokens added to a request at most.")] = None,
    summaries: Annotated[
        bool, typer.Option("--summaries", help="The language model writes profiles for PAG.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Compare CoPersona with baselines and write the report.

    Without DATA the invented people of the demonstration are asked. The language model is the one
    of `--llm`; without it contexts are judged by what they show. The same command goes on where it
    was stopped.
    """
    from copersona.evaluation.runs import RunConfig, run  # noqa: PLC0415
    from copersona.reporting.report import write_report  # noqa: PLC0415
    from copersona.tasks.benchmark_files import benchmark_task  # noqa: PLC0415  `--help`
    from copersona.tasks.splits import side_named  # noqa: PLC0415

    session = ctx.ensure_object(Session)
    extra = []
    for given in benchmark or []:
        name, _, files = given.partition("=")
        path, _, outputs = files.partition(",")
        extra.append(benchmark_task(name, Path(path), Path(outputs) if outputs else None))
    config = RunConfig(
        out=out, cache=cache, data=data or Path(), size=size, tasks=tuple(task or ()),
        systems=tuple(system or ()), extra=tuple(extra), side=side_named(split), reason=reason,
        unseen=unseen, encoder=session.settings.encoder or "static", llm=session.settings.llm,
        api_key=session.settings.api_key, device=device, threads=threads, summaries=summaries,
        n_judged=judged, budget_tokens=budget, jobs=jobs,
        command=shlex.join(["copersona", *sys.argv[1:]]),
    )  # fmt: skip
    with _progress() as report:
        run(config, report)
        report("report", 0, 1)
        html, markdown = write_report(out, out)
        report("report", 1, 1)
    terminal.say(f"{html}\n{markdown}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal; else a line now and then, with the time that is left at this speed."""
    if sys.stderr.isatty():
        with terminal.progress_bars() as bars:
            yield bars
        return
    began: dict[str, tuple[float, int]] = {}
    said: dict[str, float] = {}

    def report(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, first = began.setdefault(stage, (now, done))
        if done < total and now - said.get(stage, 0.0) < _EVERY_S:
            return
        said[stage] = now
        left = ""
        if first < done < total:
            left = f", about {(now - start) / (done - first) * (total - done):.0f} s left"
        terminal.notice(f"{stage}: {done} of {total}{left}")

    yield report


def cached_results(
    cache: Annotated[Path, typer.Argument(metavar="DIR", help="Cache folder of an evaluation.")],
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all results to a new file.")
    ] = None,
    merge: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take in the results of such a file.")
    ] = None,
) -> None:
    """Carry the results of an evaluation to another machine.

    What language models said and what was encoded; parts of runs are computed anew.
    """
    from copersona.evaluation.cache import ResultCache  # noqa: PLC0415
    from copersona.evaluation.runs import RESULTS  # noqa: PLC0415

    with ResultCache(cache / RESULTS) as results:
        said: dict[str, Any] = {}
        if merge is not None:
            said["merged"] = results.merge(merge)
        if export is not None:
            said["exported"] = results.export(export)
    terminal.say_json(said)
