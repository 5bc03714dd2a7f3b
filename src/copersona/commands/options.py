"""The arguments and options that commands share, each with the sentence that `--help` shows.

What a command does with them is its own business; this module knows neither commands nor anything
they call.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

StoreName = Annotated[
    str | None, typer.Option("--store", metavar="PATH_OR_URL", help="SQLite file or database URL.")
]
Namespace = Annotated[str | None, typer.Option(help="Which population; others are not seen.")]
Encoder = Annotated[
    str | None, typer.Option(help="hashing, static, minilm, st:NAME or openai:MODEL@URL.")
]
Llm = Annotated[str | None, typer.Option(help="openai:MODEL@URL, local:NAME or echo.")]
Config = Annotated[Path | None, typer.Option(help="TOML file with these settings.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error arose.")]


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"copersona {version('copersona')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", is_eager=True, callback=_say_version, help="Show the version."),
]

User = Annotated[str, typer.Argument(metavar="USER", help="A user id, as it was ingested.")]
Text = Annotated[str, typer.Argument(metavar="TEXT", help="What the request is about.")]
Said = Annotated[str, typer.Argument(metavar="TEXT", help="What is to be kept in mind.")]
MaybeText = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="Where left out: every line of stdin.")
]
NewText = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="A new request of USER; nothing is kept.")
]
TraceOrUser = Annotated[
    str,
    typer.Argument(metavar="TRACE_ID|USER", help="Of a past request; or, with TEXT, a user id."),
]
InteractionId = Annotated[str, typer.Argument(metavar="ID", help="Id of one interaction.")]
Files = Annotated[
    list[Path] | None, typer.Argument(metavar="FILE…", help="CSV, JSON lines, Parquet, chats …")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="As `models list` shows it.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Serve nothing that was trained on the user.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and check only; store nothing.")]

UserColumn = Annotated[str | None, typer.Option(metavar="COL", help="Column with the user id.")]
InputColumn = Annotated[
    str | None, typer.Option(metavar="COL", help="Column with what was answered or looked at.")
]
ResponseColumn = Annotated[
    str | None, typer.Option(metavar="COL", help="Column with the user's own words.")
]
ItemColumn = Annotated[
    str | None, typer.Option(metavar="COL", help="Column with the product, film, paper …")
]
RatingColumn = Annotated[
    str | None, typer.Option(metavar="COL", help="Column with the user's rating.")
]
LabelColumn = Annotated[
    str | None, typer.Option(metavar="COL", help="Column with a category the user chose.")
]
TimeColumn = Annotated[str | None, typer.Option(metavar="COL", help="Column with the time.")]
FacetColumn = Annotated[
    str | None, typer.Option(metavar="COL", help="Column with a theme, shelf, forum …")
]
Format = Annotated[
    str | None, typer.Option(help="Format of the files, where the content does not tell.")
]
Whose = Annotated[
    str | None, typer.Option(metavar="USER", help="Whose a file without user ids is.")
]
AcceptDerived = Annotated[
    bool,
    typer.Option("--accept-derived", help="Take what a memory product derived as their own words."),
]
Dataset = Annotated[
    tuple[str, Path] | None,
    typer.Option(metavar="NAME DIR", help="A public data set; its authors lend text."),
]
KeepConsent = Annotated[
    bool, typer.Option("--keep-consent", help="Authors of the data set stay at the default.")
]

MaskPii = Annotated[
    bool,
    typer.Option("--mask-pii", help="Mask names, addresses and numbers before they are stored."),
]

BranchNames = Annotated[
    str, typer.Option("--branches", metavar="NAMES", help="text,graph, text, graph or none.")
]
Reasoning = Annotated[
    bool, typer.Option("--reasoning", help="Train graph reasoning as well; see `train`.")
]
Graph = Annotated[bool, typer.Option("--graph", help="Train graph reasoning.")]
SoftPrompt = Annotated[
    bool, typer.Option("--soft-prompt", help="Train soft prompts for a local language model.")
]
Gate = Annotated[
    bool, typer.Option("--gate", help="Fit what decides what may enter a context, with the same.")
]
Steps = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Most steps of training soft prompts.")
]
Device = Annotated[str, typer.Option(help="cpu, or cuda where there is one.")]
Budget = Annotated[int | None, typer.Option(min=1, help="Most tokens the context may have.")]
Instruction = Annotated[str, typer.Option(help="What the language model is to do with TEXT.")]
Item = Annotated[str | None, typer.Option(help="The item that the request is about.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer.")]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=2.0, help="0 is repeatable, higher is more varied; 0, or .8 for several."
    ),
]
Samples = Annotated[
    int, typer.Option(min=1, max=64, help="Answers to sample; the most fitting one is shown.")
]

Remember = Annotated[
    bool | None,
    typer.Option("--remember/--no-remember", help="Keep the history; without: erase it at once."),
]
Learn = Annotated[
    bool | None, typer.Option("--learn/--no-learn", help="Complete the persona from others.")
]
Lend = Annotated[
    Literal["no", "aggregate", "text"] | None,
    typer.Option(help="What others may get: nothing, statistics, whole texts."),
]
Train = Annotated[bool | None, typer.Option("--train/--no-train", help="Texts may train a model.")]
Changed = Annotated[str | None, typer.Option(help="The new value; an empty one clears it.")]
NewRating = Annotated[float | None, typer.Option(help="The new value.")]
Days = Annotated[
    int, typer.Option(min=0, max=100_000, metavar="DAYS", help="Age from which to erase.")
]
