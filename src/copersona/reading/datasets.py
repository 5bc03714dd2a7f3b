"""The public data sets CoPersona is judged on, as interactions, each read in one documented way.

The files are not part of the package: they lie in a folder the user names, one sub-folder a data
set, as Parquet. Each reader says which column is what, joins tables where it must, and keeps the
order of its file, so that two runs see the same. This module knows no splits, tasks or metrics;
rows are not checked here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from copersona.errors import ConfigError, DataError
from copersona.records import Interaction

Row = Mapping[str, Any]
Convert = Callable[[Row], Interaction | None]
Read = Callable[[Path], Iterator[Interaction]]

_BATCH_ROWS = 2_048


@dataclass(frozen=True, slots=True)
class DatasetReader:
    """How one data set is read.

    Attributes:
        description: one line: whose words, what is input and what is response.
        folder: sub-folder of the data folder.
        read: gives the interactions found in that sub-folder.
    """

    description: str
    folder: str
    read: Read


def load(name: str, directory: str | Path) -> Iterator[Interaction]:
    """Interactions of a data set, in the order of its files, without ids.

    Args:
        name: one of `DATASETS`.
        directory: the folder with all data sets, or the one of this data set.

    Raises:
        ConfigError: unknown name.
        DataError: a folder or file is missing or damaged, or lacks columns.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    reader = DATASETS[name]
    return reader.read(_folder(Path(directory), reader.folder))


def _folder(directory: Path, name: str) -> Path:
    for folder in (directory / name, directory):
        if folder.resolve().name == name and folder.is_dir():
            return folder
    raise DataError(f"no folder {name!r} there", source=str(directory))


def _rows(path: Path, columns: str) -> Iterator[Row]:
    """Rows of a Parquet file as dictionaries of these columns, named in one text."""
    names = columns.split()
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in names if name not in file.schema_arrow.names]
            if missing:
                raise DataError(f"no column {', '.join(missing)}", source=str(path))
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=names):
                yield from batch.to_pylist()
    except FileNotFoundError as error:
        raise DataError("no such file", source=str(path)) from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot be read: {error}", source=str(path)) from error


def _table(file: str, columns: str, convert: Convert) -> Read:
    """A reader of one table, row by row; rows that convert to None are left out."""

    def read(folder: Path) -> Iterator[Interaction]:
        found = map(convert, _rows(folder / file, columns))
        return (interaction for interaction in found if interaction is not None)

    return read


def _tables(files: tuple[str, ...], columns: str, convert: Convert) -> Read:
    """A reader of several tables of the same columns, one after the other."""
    readers = [_table(file, columns, convert) for file in files]
    return lambda folder: chain.from_iterable(read(folder) for read in readers)


def _lines(*texts: str | None) -> str:
    """The texts that are there, each on its own line."""
    return "\n".join(text for text in texts if text)


def _kept(row: Row, *names: str) -> dict[str, Any]:
    """Metadata of these columns, where they hold something."""
    return {name: row[name] for name in names if row[name] is not None}


def _seconds(value: float | None) -> float | None:
    return None if value is None else float(value)


def _interaction(
    row: Row, *, input: str = "", response: str = "", **rest: Any
) -> Interaction | None:
    """The interaction of a row; None where nobody or nothing is there."""
    if not row["user_id"] or not (input or response):
        return None
    at = _seconds(row["timestamp"])
    return Interaction(user=row["user_id"], input=input, response=response, at=at, **rest)


# Reviews: what is reviewed is the input, title and text of the review are the response.

_REVIEW_COLUMNS = "user_id item_id timestamp title text rating"


def _review(row: Row, *kept: str, product: str = "") -> Interaction | None:
    return _interaction(
        row,
        input=product,
        response=_lines(row["title"], row["text"]),
        item=row["item_id"],
        rating=row["rating"],
        metadata=_kept(row, "title", *kept),
    )


def _plain_review(row: Row) -> Interaction | None:
    return _review(row, "category")


def _product_review(row: Row) -> Interaction | None:
    return _review(row, "category", product=row["product_title"] or "")


def _sampled_review(row: Row) -> Interaction | None:
    return _review(row, "category", "role", "source_split", product=row["product_title"] or "")


def _review_title(row: Row) -> Interaction | None:
    if not row["title"]:
        return None
    return _interaction(
        row,
        input=_lines(row["product_title"], row["text"]),
        response=row["title"],
        item=row["item_id"],
        rating=row["rating"],
        metadata=_kept(row, "category", "role", "source_split"),
    )


def _first_copy(row: Row) -> Interaction | None:
    """A review that is not the same text on another variant of the product."""
    return None if row["is_repeat_text"] else _plain_review(row)


def _domain_review(row: Row) -> Interaction | None:
    # Screen names of two domains are not the same person.
    owner = f"{row['domain']}/{row['user_id']}" if row["user_id"] else None
    return _review({**row, "user_id": owner}, "domain", "split")


def _read_critics(folder: Path) -> Iterator[Interaction]:
    """Reviews joined with what is known of the film; rows without critic or text are left out."""
    films = {row["item_id"]: row for row in _rows(folder / "movies.parquet", _FILM_COLUMNS)}
    for row in _rows(folder / "reviews.parquet", _CRITIC_COLUMNS):
        if not (row["user_id"] and row["text"]):
            continue
        film = films.get(row["item_id"], {})
        genres = film.get("genre") or row["category"] or ""
        yield Interaction(
            user=row["user_id"],
            input=_lines(genres.replace("|", ", "), film.get("synopsis")),
            response=row["text"],
            item=row["item_id"],
            rating=row["rating"],
            label=row["fresh"],
            at=_seconds(row["timestamp"]),
            metadata=_kept(row, "category", "publisher", "rating_text"),
        )


_FILM_COLUMNS = "item_id synopsis genre"
_CRITIC_COLUMNS = "user_id item_id timestamp category text rating rating_text fresh publisher"


def _read_ratings(folder: Path) -> Iterator[Interaction]:
    """Ratings joined with title and genres of the film."""
    films = {
        row["item_id"]: _lines(row["title"], ", ".join(row["genres"] or ()))
        for row in _rows(folder / "movies.parquet", "item_id title genres")
    }
    for row in _rows(folder / "ratings.parquet", "user_id item_id timestamp rating"):
        film = films.get(row["item_id"], "")
        found = _interaction(row, input=film, item=row["item_id"], rating=row["rating"])
        if found is not None:
            yield found


# Papers, news and posts.


def _papers_by(place: int) -> Read:
    """A reader of papers with an abstract, by the first (0) or last (-1) author."""

    def read(folder: Path) -> Iterator[Interaction]:
        authors: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for row in _rows(folder / "authorship.parquet", "user_id item_id position"):
            authors[row["item_id"]].append((row["position"], row["user_id"]))
        for row in _rows(folder / "papers.parquet", _PAPER_COLUMNS):
            found = _paper(row, sorted(authors.get(row["item_id"], [])), place)
            if found is not None:
                yield found

    return read


_PAPER_COLUMNS = "item_id year timestamp category title text"


def _paper(row: Row, authors: list[tuple[int, str]], place: int) -> Interaction | None:
    if not (authors and row["text"] and row["title"]):
        return None
    return _interaction(
        {**row, "user_id": authors[place][1]},
        input=row["text"],
        response=row["title"],
        item=row["item_id"],
        metadata={**_kept(row, "category", "year"), "n_authors": len(authors)},
    )


def _article(row: Row) -> Interaction | None:
    if not (row["text"] and row["title"]):
        return None
    metadata = _kept(row, "category")
    return _interaction(
        row, input=row["text"], response=row["title"], item=row["item_id"], metadata=metadata
    )


def _read_posts(folder: Path) -> Iterator[Interaction]:
    """Posts of a shared blog, one interaction for each author of each post."""
    columns = "user_ids item_id timestamp tags title text"
    for row in _rows(folder / "posts.parquet", columns):
        row = {**row, "category": ", ".join(row["tags"] or ()) or None}
        for user in row["user_ids"] or ():
            found = _article({**row, "user_id": user})
            if found is not None:
                yield found


def _own_text(row: Row) -> Interaction | None:
    return _interaction(row, response=row["text"] or "")


def _subreddit_text(row: Row) -> Interaction | None:
    metadata = _kept(row, "category", "source_split")
    return _interaction(row, response=row["text"] or "", metadata=metadata)


# Conversations: the message is the response, the last message of another sender the input.


def _message(row: Row) -> tuple[str, Row]:
    return row["item_id"], _kept(row, "category")


def _session_turn(row: Row) -> tuple[str, Row]:
    return f"{row['sample_id']}/{row['session']}", _kept(row, "dia_id")


def _dialogue(file: str, columns: str, threaded: Callable[[Row], tuple[str, Row]]) -> Read:
    """A reader of messages in order; `threaded` gives thread and metadata of a row."""

    def read(folder: Path) -> Iterator[Interaction]:
        last: dict[str, dict[str, str]] = defaultdict(dict)
        for row in _rows(folder / file, columns):
            thread, metadata = threaded(row)
            said = last[thread]
            others = [text for sender, text in said.items() if sender != row["user_id"]]
            text = row["text"] or ""
            before = others[-1] if others else ""
            if text and row["user_id"]:
                said.pop(row["user_id"], None)  # so that the newest sender comes last
                said[row["user_id"]] = text
                yield Interaction(
                    user=row["user_id"],
                    input=before,
                    response=text,
                    at=_seconds(row["timestamp"]),
                    thread=thread,
                    metadata=metadata,
                )

    return read


_SAMPLED_COLUMNS = f"{_REVIEW_COLUMNS} category role source_split product_title"
_PGRAPHRAG_FILES = tuple(f"{domain}_dev.parquet" for domain in ("amazon", "b2w", "gap", "hotel"))

DATASETS: Mapping[str, DatasetReader] = {
    "rotten_tomatoes_critics": DatasetReader(
        "film critics: genres and synopsis → review quote, with fresh/rotten",
        "rotten_tomatoes_critics",
        _read_critics,
    ),
    "acl_anthology": DatasetReader(
        "paper titles by first author: abstract → title", "acl_anthology", _papers_by(0)
    ),
    "acl_anthology:last": DatasetReader(
        "paper titles by last author: abstract → title", "acl_anthology", _papers_by(-1)
    ),
    "amazon_2023_multicategory_sample": DatasetReader(
        "product reviews over 22 categories: product → review title and text, with rating",
        "amazon_2023_multicategory_sample",
        _table("reviews.parquet", _SAMPLED_COLUMNS, _sampled_review),
    ),
    "amazon_2023_multicategory_sample:titles": DatasetReader(
        "titles of the same reviews: product and review text → review title",
        "amazon_2023_multicategory_sample",
        _table("reviews.parquet", _SAMPLED_COLUMNS, _review_title),
    ),
    "blog_authorship_adults": DatasetReader(
        "blog posts of adults: the post alone",
        "blog_authorship_adults",
        _table("posts.parquet", "user_id timestamp text", _own_text),
    ),
    "huffpost_news": DatasetReader(
        "news: short description → headline; the section is metadata",
        "huffpost_news",
        _table("articles_2018.parquet", "user_id item_id timestamp category title text", _article),
    ),
    "chitchat_byu": DatasetReader(
        "chats of two people: last message of the other → message",
        "chitchat_byu",
        _dialogue("messages.parquet", "user_id item_id timestamp category text", _message),
    ),
    "reddit_multisubreddit_users": DatasetReader(
        "Reddit posts: the post alone; the subreddit is metadata",
        "reddit_multisubreddit_users",
        _table("posts.parquet", "user_id timestamp category text source_split", _subreddit_text),
    ),
    "movielens_latest_small": DatasetReader(
        "film ratings: title and genres, rated, nothing written",
        "movielens_latest_small",
        _read_ratings,
    ),
    "amazon_2014_5core_musical_instruments": DatasetReader(
        "product reviews: review title and text alone, with rating",
        "amazon_2014_5core_musical_instruments",
        _table(
            "Musical_Instruments_5_first5050.parquet",
            f"{_REVIEW_COLUMNS} category",
            _plain_review,
        ),
    ),
    "amazon_2018_5core": DatasetReader(
        "product reviews without the copies on product variants, with rating",
        "amazon_2018_5core",
        _tables(
            ("AMAZON_FASHION_5.parquet", "All_Beauty_5.parquet"),
            f"{_REVIEW_COLUMNS} category is_repeat_text",
            _first_copy,
        ),
    ),
    "amazon_2023_all_beauty": DatasetReader(
        "product reviews of one dense category: product → review title and text, with rating",
        "amazon_2023_all_beauty",
        _table("reviews.parquet", f"{_REVIEW_COLUMNS} category product_title", _product_review),
    ),
    "pgraphrag_dev": DatasetReader(
        "reviews of the four PGraphRAG domains: review title and text alone, with rating",
        "pgraphrag_dev",
        _tables(_PGRAPHRAG_FILES, f"{_REVIEW_COLUMNS} domain split", _domain_review),
    ),
    "blog_18f": DatasetReader(
        "posts of a team blog, once for each author: text → title; tags are metadata",
        "blog_18f",
        _read_posts,
    ),
    "locomo10": DatasetReader(
        "long synthetic conversations: last turn of the partner → turn",
        "locomo10",
        _dialogue(
            "turns.parquet", "user_id timestamp text sample_id session dia_id", _session_turn
        ),
    ),
}
