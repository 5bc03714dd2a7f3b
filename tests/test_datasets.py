from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import copersona
from copersona.commands import cli
from copersona.errors import ConfigError, DataError
from copersona.ingestion import PUBLIC
from copersona.interactions import check
from copersona.reading.datasets import DATASETS, load
from copersona.records import Interaction

Rows = list[dict[str, object]]
REVIEW = {"user_id": "u1", "item_id": "p1", "timestamp": 86_400, "category": "Tea"}
REVIEW |= {"title": "Fine", "text": "Tastes of hay.", "rating": 4.0}


def write(folder: Path, name: str, rows: Rows) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def loaded(name: str, folder: Path, **tables: Rows) -> list[Interaction]:
    """Made-up tables written where the data set expects them, and read from there."""
    for table, rows in tables.items():
        write(folder / DATASETS[name].folder, table, rows)
    return [check(row) for row in load(name, folder)]


def pairs(rows: list[Interaction]) -> list[tuple[str, str, str]]:
    return [(row.user, row.input, row.response) for row in rows]


def test_critics_are_joined_with_films_and_incomplete_rows_left_out(tmp_path: Path) -> None:
    quote = {"user_id": "Cy", "item_id": "f1", "timestamp": None, "category": "Drama|Noir"}
    quote |= {"text": "Slow.", "rating": 0.0, "rating_text": "2/5", "fresh": "rotten"}
    quote |= {"publisher": "Paper"}
    reviews: Rows = [
        quote,
        quote | {"user_id": None},
        quote | {"text": None},
        quote | {"item_id": "f9", "timestamp": 86_400},
    ]
    movies: Rows = [{"item_id": "f1", "synopsis": "A dog waits.", "genre": "Drama|Kids"}]
    first, second = loaded("rotten_tomatoes_critics", tmp_path, reviews=reviews, movies=movies)
    assert (first.user, first.input, first.response) == ("Cy", "Drama, Kids\nA dog waits.", "Slow.")
    assert (first.rating, first.label, first.at, first.item) == (0.0, "rotten", None, "f1")
    assert (second.input, second.at) == ("Drama, Noir", 86_400.0)


def test_papers_go_to_the_first_or_the_last_author(tmp_path: Path) -> None:
    paper = {"item_id": "P1", "year": 2019, "timestamp": 0, "category": "P19"}
    papers: Rows = [
        paper | {"title": "On tea", "text": "We brew."},
        paper | {"title": "No abstract", "text": None},
        paper | {"item_id": "P2", "title": "Nobody's", "text": "Unsigned."},
    ]
    authorship: Rows = [
        {"item_id": "P1", "user_id": "zoe", "position": 1},
        {"item_id": "P1", "user_id": "ann", "position": 0},
    ]
    first = loaded("acl_anthology", tmp_path, papers=papers, authorship=authorship)
    assert pairs(first) == [("ann", "We brew.", "On tea")]
    assert first[0].metadata == {"category": "P19", "year": 2019, "n_authors": 2}
    assert pairs(loaded("acl_anthology:last", tmp_path)) == [("zoe", "We brew.", "On tea")]


def test_sampled_reviews_and_their_titles(tmp_path: Path) -> None:
    row = REVIEW | {"role": "heldout", "source_split": "test", "product_title": "Green tea"}
    reviews: Rows = [row, row | {"title": None, "product_title": None}]
    name = "amazon_2023_multicategory_sample"
    rows = loaded(name, tmp_path, reviews=reviews)
    assert pairs(rows) == [
        ("u1", "Green tea", "Fine\nTastes of hay."),
        ("u1", "", "Tastes of hay."),
    ]
    assert (rows[0].rating, rows[0].item, rows[0].label, rows[0].facet) == (4.0, "p1", None, None)
    assert rows[0].metadata["category"] == "Tea"
    titles = loaded(f"{name}:titles", tmp_path)
    assert pairs(titles) == [("u1", "Green tea\nTastes of hay.", "Fine")]


def test_other_amazon_sets(tmp_path: Path) -> None:
    copy = REVIEW | {"is_repeat_text": True}
    first = REVIEW | {"is_repeat_text": False}
    fashion: Rows = [first, copy]
    rows = loaded("amazon_2018_5core", tmp_path, AMAZON_FASHION_5=fashion, All_Beauty_5=[first])
    assert pairs(rows) == [("u1", "", "Fine\nTastes of hay.")] * 2
    name = "amazon_2014_5core_musical_instruments"
    (row,) = loaded(name, tmp_path, Musical_Instruments_5_first5050=[dict(REVIEW)])
    assert (row.response, row.metadata["category"]) == ("Fine\nTastes of hay.", "Tea")
    beauty: Rows = [REVIEW | {"product_title": "Soap", "timestamp": None}]
    (row,) = loaded("amazon_2023_all_beauty", tmp_path, reviews=beauty)
    assert (row.input, row.at) == ("Soap", None)


def test_pgraphrag_names_of_two_domains_are_two_users(tmp_path: Path) -> None:
    review = REVIEW | {"user_id": "Dave", "split": "dev"}
    tables: dict[str, Rows] = {
        f"{domain}_dev": [review | {"domain": domain}]
        for domain in ("hotel", "gap", "b2w", "amazon")
    }
    rows = loaded("pgraphrag_dev", tmp_path, **tables)
    assert [row.user for row in rows] == ["amazon/Dave", "b2w/Dave", "gap/Dave", "hotel/Dave"]


def test_single_texts(tmp_path: Path) -> None:
    posts: Rows = [
        {"user_id": "b1", "timestamp": 5, "text": "Rain again."},
        {"user_id": "b1", "timestamp": 6, "text": None},
    ]
    (row,) = loaded("blog_authorship_adults", tmp_path, posts=posts)
    assert (row.response, row.input, row.at) == ("Rain again.", "", 5.0)
    post = {"user_id": "r1", "timestamp": None, "category": "tea", "text": "Hay?"}
    (row,) = loaded("reddit_multisubreddit_users", tmp_path, posts=[post | {"source_split": "val"}])
    assert row.metadata == {"category": "tea", "source_split": "val"}
    assert row.facet is None


def test_news_and_a_blog_of_several_authors(tmp_path: Path) -> None:
    article = {"item_id": "a", "timestamp": 1, "title": "Tea up", "text": "Prices rise."}
    news: Rows = [article | {"user_id": user, "category": "FOOD"} for user in ("Ann", None)]
    (row,) = loaded("huffpost_news", tmp_path, articles_2018=news)
    assert (row.input, row.response, row.label) == ("Prices rise.", "Tea up", None)
    assert row.metadata == {"category": "FOOD"}
    posts: Rows = [article | {"user_ids": ["ann", "ben"], "tags": ["tea", "trade"]}]
    rows = loaded("blog_18f", tmp_path, posts=posts)
    assert pairs(rows) == [(user, "Prices rise.", "Tea up") for user in ("ann", "ben")]
    assert rows[0].metadata == {"category": "tea, trade"}


def test_the_input_of_a_message_is_the_last_one_of_another_sender(tmp_path: Path) -> None:
    said = [
        ("ann", "hi"),
        ("ann", "tea?"),
        ("ben", "yes"),
        ("ben", None),
        ("ben", "green"),
        ("ann", "ok"),
    ]
    messages: Rows = [
        {"user_id": user, "item_id": "c1", "timestamp": 1, "category": None, "text": text}
        for user, text in said
    ]
    messages.append(messages[2] | {"item_id": "c2"})
    rows = loaded("chitchat_byu", tmp_path, messages=messages)
    assert [(row.input, row.response) for row in rows] == [
        ("", "hi"),
        ("", "tea?"),
        ("tea?", "yes"),
        ("tea?", "green"),
        ("green", "ok"),
        ("", "yes"),
    ]
    assert [row.thread for row in rows] == ["c1"] * 5 + ["c2"]


def test_each_session_of_a_long_conversation_is_a_thread(tmp_path: Path) -> None:
    turns: Rows = [
        {"user_id": user, "timestamp": 1, "text": f"{user} {session}", "sample_id": "s"}
        | {"session": session, "dia_id": "D1"}
        for session in (1, 2)
        for user in ("ann", "ben")
    ]
    rows = loaded("locomo10", tmp_path, turns=turns)
    assert [row.input for row in rows] == ["", "ann 1", "", "ann 2"]
    assert [row.thread for row in rows] == ["s/1", "s/1", "s/2", "s/2"]


def test_film_ratings_have_an_input_and_no_response(tmp_path: Path) -> None:
    ratings: Rows = [{"user_id": "1", "item_id": "f", "timestamp": 9, "rating": 2.5}]
    movies: Rows = [{"item_id": "f", "title": "Heat Haze", "genres": ["Crime", "Noir"]}]
    (row,) = loaded("movielens_latest_small", tmp_path, ratings=ratings, movies=movies)
    assert (row.input, row.response, row.rating) == ("Heat Haze\nCrime, Noir", "", 2.5)


def test_the_folder_may_be_the_data_sets_own(tmp_path: Path) -> None:
    post: Rows = [{"user_id": "b1", "timestamp": 5, "text": "Rain again."}]
    rows = loaded("blog_authorship_adults", tmp_path, posts=post)
    assert rows == list(load("blog_authorship_adults", tmp_path / "blog_authorship_adults"))


def test_what_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    name = "huffpost_news"
    with pytest.raises(ConfigError, match="known: rotten_tomatoes_critics, acl_anthology"):
        load("no_such", tmp_path)
    with pytest.raises(DataError, match="no folder 'huffpost_news'"):
        load(name, tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"articles_2018\.parquet: no such file"):
        list(load(name, tmp_path))
    write(tmp_path / name, "articles_2018", [{"user_id": "a", "text": "b"}])
    with pytest.raises(DataError, match="no column item_id, timestamp, category, title"):
        list(load(name, tmp_path))
    (tmp_path / name / "articles_2018.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read"):
        list(load(name, tmp_path))


def test_every_data_set_says_what_it_is() -> None:
    for name, reader in DATASETS.items():
        assert name.split(":")[0] == reader.folder
        assert 0 < len(reader.description) <= 90
        assert "\n" not in reader.description


# ---- what the authors of a public data set allow ----------------------------------------------


def shelf(folder: Path, *users: str) -> Path:
    posts: Rows = [
        {"user_id": user, "timestamp": 86_400, "text": f"{user} steeps tea {n} min."}
        for user in users for n in range(2)
    ]  # fmt: skip
    write(folder / "blog_authorship_adults", "posts", posts)
    return folder


def test_authors_of_a_public_data_set_lend_text_and_may_be_trained_on(tmp_path: Path) -> None:
    shelf(tmp_path, "ann", "ben", "cy")
    with copersona.open(tmp_path / "p.db") as cp:
        cp.set_consent("ann", lend="no")
        cp.set_consent("ben", lend="aggregate")  # the default, but ben's own word
        report = cp.ingest_dataset("blog_authorship_adults", tmp_path)
        assert (report.stored, report.consents_set) == (6, 1)
        assert cp.consent("cy") == PUBLIC
        assert [cp.consent(user).lend for user in ("ann", "ben", "cy")] == [
            "no", "aggregate", "text",
        ]  # fmt: skip
        cp.set_consent("cy", lend="no")
        assert cp.ingest_dataset("blog_authorship_adults", tmp_path).consents_set == 0
        assert cp.consent("cy").lend == "no"


def test_a_dry_run_and_a_wish_to_keep_consent_set_nothing(tmp_path: Path) -> None:
    shelf(tmp_path, "ann")
    with copersona.open(tmp_path / "p.db") as cp:
        report = cp.ingest_dataset("blog_authorship_adults", tmp_path, dry_run=True)
        assert (report.stored, report.consents_set) == (2, 0)
        assert cp.store.consents("default") == {}
        cp.ingest_dataset("blog_authorship_adults", tmp_path, consent=None)
        assert cp.consent("ann") == cp.store.default_consent


def test_forgotten_and_impossible_authors_are_rejected_not_let_in(tmp_path: Path) -> None:
    shelf(tmp_path, "ann", "ben", "nul\0")
    with copersona.open(tmp_path / "p.db") as cp:
        cp.forget("ann")
        report = cp.ingest_dataset("blog_authorship_adults", tmp_path)
        assert (report.stored, report.consents_set, len(report.rejected)) == (2, 1, 4)
        assert cp.consent("ann").lend == "no"


def test_the_command_line_says_whose_texts_are_lent(tmp_path: Path) -> None:
    shelf(tmp_path, "ann", "ben")
    words = ["--store", str(tmp_path / "p.db"), "ingest"]
    words += ["--dataset", "blog_authorship_adults", str(tmp_path)]
    kept = CliRunner().invoke(cli.app, [*words, "--keep-consent", "--dry-run"])
    assert (kept.exit_code, "lend text" in kept.stdout) == (0, False)
    result = CliRunner().invoke(cli.app, words)
    assert (result.exit_code, "2 new users lend text" in result.stdout) == (0, True)
