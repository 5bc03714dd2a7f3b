"""The command line on the real pipeline: what is printed, where, and with which exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from copersona import errors
from copersona.commands import cli, settings
from copersona.storage.store import Store

Run = Callable[..., Any]
DOCS = Path(__file__).parents[1] / "docs" / "cli.md"

THINGS = {"kitchen": ["red kettle", "iron pan", "bread knife"], "garden": ["rake", "hose", "spade"]}
WORDS = {"kitchen": "cooks evenly and cleans fast", "garden": "digs deep in wet soil"}


def made_up_rows() -> list[dict[str, object]]:
    return [
        {
            "user": f"user{number}",
            "input": f"{kind} tool: {thing}",
            # the number keeps texts apart, so that a scan for one user's finds no one else's
            "response": f"{'Splendid' if number % 2 else 'Dull'} {thing} {number}, {WORDS[kind]}.",
            "rating": 5 if number % 2 else 2,
            "at": f"20{10 + number}-01-0{place + 1}",
        }
        for number in range(8)
        for kind, things in THINGS.items()
        for place, thing in enumerate(things)
    ]


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in [*(f"COPERSONA_{n.upper()}" for n in settings.NAMES), settings.CONFIG_VARIABLE]:
        monkeypatch.delenv(name, raising=False)

    def invoke(*words: object, stdin: str | bytes | None = None) -> Any:
        head = ["--store", str(tmp_path / "s.db"), "--encoder", "hashing", "--llm", "echo"]
        return CliRunner().invoke(cli.app, [*head, *map(str, words)], input=stdin)

    return invoke


@pytest.fixture
def stocked(run: Run, tmp_path: Path) -> Run:
    assert run("ingest", write_lines(tmp_path / "rows.jsonl", made_up_rows())).exit_code == 0
    return run


@pytest.fixture
def fitted(stocked: Run) -> Run:
    assert stocked("fit").exit_code == 0
    return stocked


def data(result: Any) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


# ── taking in ──


def test_ingest_prints_guess_and_counts_and_again_only_duplicates(run: Run, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", made_up_rows())
    first, second = run("ingest", path), run("ingest", path)
    assert "user=user input=input response=response" in first.stdout
    assert "48 read, 48 stored, 0 duplicates, 0 rejected" in first.stdout
    assert (second.exit_code, "0 stored, 48 duplicates" in second.stdout) == (0, True)


def test_a_bad_row_is_named_and_the_rest_is_stored(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("user,text\nann,Boils fast.\n,Nobody said it.\nben,\n", "utf-8")
    result = run("ingest", path)
    assert result.exit_code == 0
    assert "3 read, 1 stored, 0 duplicates, 2 rejected" in result.stdout
    assert f"{path}:3: field 'user': no user" in result.stderr
    assert f"{path}:4: field 'response': no text at all" in result.stderr


def test_only_ten_rejections_are_listed_and_all_rejected_is_exit_2(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("user,text\n" + ",word of nobody\n" * 12, "utf-8")
    result = run("ingest", path, "--user", "user", "--response", "text")
    assert (result.exit_code, result.stderr.count("no user")) == (2, 10)
    assert "and 2 more" in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        b"user,text\nann,caf\xe9 \xff\xfe\n",
        b'{"user": "ann", "text": \n',
        b"alpha,beta\n1,2\n",
        b"user,text\nann,one\x00two\n",
        b"user,text\nann," + b"x" * 10_000_000 + b"\n",
        b"",
    ],
    ids=["not UTF-8", "broken JSON", "wrong columns", "NUL", "10 MB field", "empty"],
)
def test_bad_files_are_exit_2_with_the_file_and_never_a_traceback(
    run: Run, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    result = run("ingest", path)
    assert result.exit_code == 2
    assert str(path) in result.stderr
    assert "Traceback" not in result.output


def test_a_file_that_is_not_there_is_exit_2_and_the_others_are_stored(
    run: Run, tmp_path: Path
) -> None:
    good = write_lines(tmp_path / "rows.jsonl", made_up_rows())
    result = run("ingest", tmp_path / "absent.csv", good)
    assert (result.exit_code, "48 stored" in result.stdout) == (2, True)
    assert "absent.csv" in result.stderr


def test_dry_run_stores_nothing_and_json_is_one_line_a_file(run: Run, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", made_up_rows())
    report = data(run("ingest", path, "--dry-run", "--json"))
    assert (report["n_read"], report["dry_run"], report["rejected"]) == (48, True, [])
    assert data(run("ingest", path, "--json"))["stored"] == 48


def test_named_columns_win_and_one_that_is_not_there_is_exit_2(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("who,what,text\nann,kettle,Boils fast.\n", "utf-8")
    assert run("ingest", path, "--user", "absent").exit_code == 2
    result = run("ingest", path, "--user", "who", "--input", "what")
    assert "user=who input=what response=text" in result.stdout


def test_a_chat_export_needs_whose_words_it_holds(run: Run, tmp_path: Path) -> None:
    turns = [{"role": "assistant", "content": "Tea?"}, {"role": "user", "content": "No, coffee."}]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n", "utf-8")
    assert run("ingest", path).exit_code == 2
    assert data(run("ingest", path, "--whose", "ann", "--json"))["stored"] == 1


def test_ingest_wants_files_or_a_known_data_set(run: Run, tmp_path: Path) -> None:
    assert run("ingest").exit_code == 2
    result = run("ingest", "--dataset", "no-such-set", tmp_path)
    assert (result.exit_code, "known:" in result.stderr) == (2, True)


# ── asking ──


def test_asking_before_fit_is_exit_3_and_names_the_missing_call(stocked: Run) -> None:
    for words in (["persona", "user1"], ["prompt", "user1", "kettle"], ["chat", "user1", "kettle"]):
        result = stocked(*words)
        assert (result.exit_code, "fit" in result.stderr) == (3, True)
        assert result.stdout == ""


def test_fit_says_what_it_found_and_with_which_encoder(stocked: Run) -> None:
    result = stocked("fit")
    assert "48 interactions of 8 users" in result.stdout
    assert "hashing" in result.stderr
    assert data(stocked("fit", "--json"))["n_lenders"] == 8


def test_persona_is_a_table_and_for_a_stranger_the_prior(fitted: Run) -> None:
    table = fitted("persona", "user1")
    assert "what is known" in table.stdout
    assert re.search(r"0\.\d\d -> 0\.\d\d", table.stdout)
    stranger, foreign = (
        data(fitted("persona", "nobody", "--json")),
        data(fitted("persona", "nobody-else", "--json")),
    )
    assert {facet["own_confidence"] for facet in stranger["facets"]} == {0.0}
    assert stranger["facets"] == foreign["facets"]


def test_prompt_prints_messages_on_stdout_and_the_rest_on_stderr(fitted: Run) -> None:
    result = fitted("prompt", "user1", "kitchen tool: iron pan", "--budget", "300")
    assert result.stdout.startswith("[system]")
    assert "of 300 tokens; why: copersona explain" in result.stderr
    context = data(fitted("prompt", "user1", "kitchen tool: iron pan", "--json"))
    assert context["tokens"] <= context["budget_tokens"]
    assert context["trace_id"]


def test_explain_takes_a_trace_or_a_user_and_a_text(fitted: Run) -> None:
    trace_id = data(fitted("prompt", "user1", "iron pan", "--json"))["trace_id"]
    assert "request: iron pan" in fitted("explain", trace_id).stdout
    assert data(fitted("explain", trace_id, "--json"))["trace_id"] == trace_id
    assert "request: rake" in fitted("explain", "user1", "rake").stdout
    missing = fitted("explain", "user1")
    assert (missing.exit_code, "explain USER TEXT" in missing.stderr) == (3, True)


def test_chat_answers_one_text_or_every_line(fitted: Run) -> None:
    assert fitted("chat", "user1", "iron pan").stdout.strip()
    result = fitted("chat", "user1", "--json", stdin="iron pan\n\nrake\n")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["context"]["query"]["text"] for answer in answers] == ["iron pan", "rake"]
    broken = fitted("chat", "user1", stdin=b"iron pan\n\xff\n")
    assert (broken.exit_code, "standard input:2" in broken.stderr) == (2, True)


def test_chat_with_the_model_down_hands_over_the_context(fitted: Run) -> None:
    result = fitted("--llm", "openai:m@http://127.0.0.1:9", "chat", "user1", "rake", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["text"]) == (4, None)
    assert told["context"]["messages"]
    assert len(result.stderr.strip().splitlines()) == 1
    trace_id = told["context"]["trace_id"]
    assert trace_id in result.stderr
    assert "request: rake" in fitted("explain", trace_id).stdout


def test_chat_without_a_model_stores_nothing_and_prompt_needs_none(
    fitted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPERSONA_MODELS", str(tmp_path / "no-models"))
    before = (tmp_path / "s.db").read_bytes()
    head = ["--store", str(tmp_path / "s.db")]
    result = CliRunner().invoke(cli.app, [*head, "chat", "user1", "rake"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "COPERSONA_LLM" in result.stderr
    assert (tmp_path / "s.db").read_bytes() == before
    assert CliRunner().invoke(cli.app, [*head, "prompt", "user1", "rake"]).exit_code == 0


@pytest.mark.parametrize("text", ["", "  ", "one\0two", "lone \ud800 surrogate"])
def test_a_text_that_no_store_takes_is_exit_2(fitted: Run, text: str) -> None:
    for verb in ("prompt", "instruct", "chat"):
        assert fitted(verb, "user1", text).exit_code == 2
    assert fitted("persona", text).exit_code == 2


# ── deciding ──


def test_consent_is_shown_changed_and_lending_text_is_said(stocked: Run) -> None:
    assert "lend: aggregate" in stocked("consent", "user1").stdout
    result = stocked("consent", "user1", "--lend", "text", "--no-learn", "--json")
    assert data(result) == {"remember": True, "learn": False, "lend": "text", "train": False}
    assert "whoever runs it" in result.stderr
    assert "learn: no" in stocked("consent", "user1").stdout
    assert stocked("consent", "user1", "--lend", "all").exit_code == 2


def test_instructions_show_in_the_persona(fitted: Run) -> None:
    assert fitted("instruct", "user1", "always metric units").exit_code == 0
    assert "said outright: always metric units" in fitted("persona", "user1").stdout


def test_correct_and_remove_act_on_ones_own_interactions_only(stocked: Run, tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        interaction_id = store.history("default", "user1")[0].id
    changed = data(
        stocked("correct", "user1", interaction_id, "--rating", "3", "--label", "ok", "--json")
    )
    assert (changed["rating"], changed["label"]) == (3.0, "ok")
    assert stocked("correct", "user1", interaction_id).exit_code == 2
    assert stocked("correct", "user1", interaction_id, "--at", "no time").exit_code == 2
    assert stocked("remove", "user2", interaction_id).exit_code == 3
    assert stocked("remove", "user1", interaction_id).exit_code == 0
    assert stocked("remove", "user1", interaction_id).exit_code == 3


def test_expire_erases_what_is_old(stocked: Run) -> None:
    assert data(stocked("expire", "--older-than", 100_000, "--json")) == {"erased": 0}
    assert data(stocked("expire", "--older-than", 0, "--json")) == {"erased": 48}


def test_forget_asks_and_does_nothing_without_an_answer(fitted: Run) -> None:
    for answer in ("n\n", ""):
        result = fitted("forget", "user1", stdin=answer)
        assert (result.exit_code, "not confirmed" in result.stderr) == (2, True)
        assert "user1 and 6 interactions" in result.stderr
    assert data(fitted("persona", "user1", "--json"))["n_interactions"] == 6
    receipt = data(fitted("forget", "user1", "--yes", "--json"))
    assert receipt["removed"]["interactions"] == 6
    assert receipt["traces_found"] == []
    assert fitted("consent", "user1", "--lend", "text").exit_code == 2
    assert fitted("readmit", "user1").exit_code == 0
    assert fitted("consent", "user1", "--lend", "text").exit_code == 0
    assert data(fitted("persona", "user1", "--json"))["n_interactions"] == 0


def test_a_receipt_is_readable_and_rejections_alike_are_counted(
    fitted: Run, tmp_path: Path
) -> None:
    shown = fitted("forget", "user1", "--yes").stdout
    assert "erased: interactions 6" in shown
    assert "fitted state in force: 000002-" in shown
    assert "found nothing" in shown
    again = fitted("ingest", tmp_path / "rows.jsonl")
    assert again.stderr.count("forgotten") == 1
    assert "(6 rows)" in again.stderr


# ── store, models, settings, errors ──


def test_export_and_doctor(fitted: Run, tmp_path: Path) -> None:
    place = Path(data(fitted("export", tmp_path / "out", "--json"))["path"])
    assert any(place.iterdir())
    found = data(fitted("doctor", "--json"))
    assert found["problems"] == []
    assert found["facts"]["namespace"] == "default"
    assert "lenders" in found["facts"]["fitted state"]


def test_doctor_warns_of_files_that_others_may_read(fitted: Run, tmp_path: Path) -> None:
    (tmp_path / "s.db").chmod(0o644)
    doctor = fitted("doctor")
    assert (doctor.exit_code, "s.db may be read by others" in doctor.stdout) == (4, True)


def test_a_damaged_state_is_exit_4(fitted: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "s.db.state").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    doctor = fitted("doctor")
    assert (doctor.exit_code, "no fitted state is sound" in doctor.stdout) == (4, True)
    assert fitted("persona", "user1").exit_code == 4


def test_while_the_newest_state_is_damaged_the_one_before_serves(
    fitted: Run, tmp_path: Path
) -> None:
    before = data(fitted("persona", "user1", "--json"))
    newest = data(fitted("fit", "--json"))["state"]
    for path in (tmp_path / "s.db.state").glob(f"*/{newest}/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert data(fitted("persona", "user1", "--json")) == before
    assert "warning: still serving" in fitted("prompt", "user1", "rake").stderr
    doctor = fitted("doctor")
    assert (doctor.exit_code, newest in doctor.stdout) == (4, True)
    assert f"{before['state']} is served instead" in doctor.stdout


def test_a_store_that_is_not_there_is_not_made_by_asking(run: Run, tmp_path: Path) -> None:
    result = run("persona", "ann")
    assert (result.exit_code, "there is no store" in result.stderr) == (2, True)
    assert not (tmp_path / "s.db").exists()


def test_a_file_that_is_no_store_is_exit_4(run: Run, tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"not a database at all" * 100)
    result = run("persona", "ann")
    assert (result.exit_code, "Traceback" in result.output) == (4, False)


def test_namespaces_do_not_see_each_other(fitted: Run) -> None:
    assert fitted("--namespace", "other", "persona", "user1").exit_code == 3
    assert data(fitted("--namespace", "other", "expire", "--older-than", 0, "--json")) == {
        "erased": 0
    }


def test_models_are_listed_and_an_unknown_one_is_exit_2(run: Run) -> None:
    assert {model["name"] for model in data(run("models", "list", "--json"))} >= {"static"}
    assert "static" in run("models", "list").stdout
    assert run("models", "install", "no-such-model").exit_code == 2


def test_every_deliberate_error_has_a_code_and_anything_else_is_a_bug() -> None:
    two, three = (errors.ConfigError, errors.DataError), (errors.UnknownUserError,)
    assert {cli.exit_code(kind("x")) for kind in two} == {2}
    assert {cli.exit_code(kind("x")) for kind in (*three, errors.NotFittedError)} == {3}
    four = (errors.ArtifactError, errors.MigrationError, errors.MissingExtraError, OSError)
    assert {cli.exit_code(kind("x")) for kind in four} == {4}
    assert cli.exit_code(KeyError("x")) == 1


def test_debug_shows_the_traceback_and_only_then(run: Run) -> None:
    plain, debugged = run("persona", "ann"), run("--debug", "persona", "ann")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debugged.stderr
    assert (plain.exit_code, debugged.exit_code) == (2, 2)


def test_settings_given_beat_environment_beat_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('store = "file.db"\nencoder = "static"\nstate = "there"\n', "utf-8")
    environ = {"COPERSONA_CONFIG": str(file), "COPERSONA_STORE": "env.db", "COPERSONA_LLM": ""}
    found = settings.read_settings(environ, given={"encoder": "hashing", "namespace": None})
    assert found == settings.Settings("env.db", "default", "hashing", None, Path("there"))


def test_a_key_comes_from_the_environment_or_the_file_and_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('api_key = "planted-1"\n', "utf-8")
    found = settings.read_settings({"COPERSONA_ENCODER_API_KEY": "planted-2"}, file=file)
    assert (found.api_key, found.encoder_api_key) == ("planted-1", "planted-2")
    assert "planted" not in repr(found)
    file.write_text("api_key = 1234567\n", "utf-8")
    with pytest.raises(errors.ConfigError, match="api_key must be a text") as caught:
        settings.read_settings({}, file=file)
    assert "1234567" not in str(caught.value)


def test_demo_is_a_command(run: Run, tmp_path: Path) -> None:
    result = run("demo", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out" / "demo.html").is_file()


def test_training_soft_prompts_needs_a_local_model_and_few_steps(fitted: Run) -> None:
    for part in ("--soft-prompt", "--gate"):
        refused = fitted("train", part)
        assert refused.exit_code == 2
        assert "a language model in this process; echo is none" in refused.stderr
    assert fitted("train", "--soft-prompt", "--steps", 1001).exit_code == 2


def test_first_lines_of_help_are_shown_whole() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert "..." not in result.stdout.partition("Commands:")[2]
    for name in get_command(cli.app).commands:
        assert CliRunner().invoke(cli.app, [name, "--help"]).exit_code == 0


def test_the_version_is_shown_without_a_command() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"copersona {version('copersona')}\n")
    by_module = [sys.executable, "-m", "copersona", "--version"]
    assert subprocess.check_output(by_module, text=True) == result.stdout


def every_command() -> dict[str, Any]:
    """The commands by all their words, those of groups among them."""
    found = {}
    for name, command in get_command(cli.app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {n}": one for n, one in inner.items()} if inner else {name: command}
    return found


def test_every_argument_and_option_has_a_help_text() -> None:
    silent = [f"{n} {p.name}" for n, c in every_command().items() for p in c.params if not p.help]
    assert silent == []


@pytest.mark.parametrize("text", ["colour = 'red'", "store = 3", "store =", "\udcff"])
def test_a_wrong_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(errors.ConfigError, match=re.escape(str(file))):
        settings.read_settings({}, file=file)


def test_terminal_orders_in_stored_text_are_not_obeyed(fitted: Run) -> None:
    assert fitted("instruct", "user1", "be \x1b[31mred").exit_code == 0
    assert "\x1b" not in fitted("persona", "user1").stdout


def loaded_by_the_command_line() -> set[str]:
    code = "import sys, copersona.commands.cli; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(answer.stdout.split())


def test_help_does_not_load_torch() -> None:
    assert not loaded_by_the_command_line() & {"torch", "transformers"}


def test_help_does_not_load_the_pipeline() -> None:
    heavy = {"copersona.pipeline", "sqlalchemy", "scipy", "fastapi", "mcp", "uvicorn"}
    assert not loaded_by_the_command_line() & heavy


def test_every_command_and_option_is_in_the_manual() -> None:
    text, group = DOCS.read_text("utf-8"), get_command(cli.app)
    commands = {f"copersona {name}": command for name, command in every_command().items()}
    wanted = {*commands, *(option for p in group.params for option in p.opts)}
    for command in commands.values():
        wanted |= {o for p in command.params for o in p.opts if o.startswith("--")}
    assert {word for word in wanted if word not in text} <= {"--help"}
