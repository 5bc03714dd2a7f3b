"""What tells a person is masked before anything is stored, and nothing is fetched or logged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import copersona
from copersona import Interaction
from copersona.commands.settings import read_settings
from copersona.errors import ConfigError

SAID = "Write to ana.lind@example.com or call +44 20 7946 0958."
WANTED = "Write to <EMAIL> or call <PHONE>."


class Plain:
    """Masks two values, as the real one does, without its model."""

    def text(self, text: str) -> str:
        return text.replace("ana.lind@example.com", "<EMAIL>").replace(
            "+44 20 7946 0958", "<PHONE>"
        )

    def interaction(self, row: Interaction) -> Interaction:
        return Interaction(row.user, self.text(row.input), self.text(row.response), id=row.id)


def test_nothing_reaches_the_file_unmasked(tmp_path: Path) -> None:
    with copersona.open(tmp_path / "x.db", encoder="hashing") as engine:
        engine.mask_with(Plain())  # type: ignore[arg-type]
        rows = [Interaction(f"u{n}", "tool: kettle", f"{SAID} {n}") for n in range(4)]
        assert {one.status for one in engine.add(rows)} == {"stored"}
        assert engine.add([Interaction("", response="x")])[0].status == "rejected"
        engine.instruct("u0", SAID)
        engine.fit()
        trace = engine.prompt("u0", SAID).trace_id
        assert engine.feedback(trace, "edit", edited=f"Mine: {SAID}", note=SAID)
        kept = engine.export_user("u0")
        engine.correct("u0", kept.interactions[0].id, response=SAID)
        assert kept.instructions == (WANTED,)
        assert kept.interactions[0].response == f"{WANTED} 0"
        assert kept.feedback[trace]["note"] == WANTED
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"ana.lind" not in stored
    assert b"7946" not in stored


def test_the_setting_is_true_or_false() -> None:
    assert read_settings({"COPERSONA_MASK_PII": "true"}).mask_pii
    assert not read_settings({}).mask_pii
    with pytest.raises(ConfigError):
        read_settings({"COPERSONA_MASK_PII": "perhaps"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_real_masker_finds_both_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("presidio_analyzer")
    from copersona.reading.masking import Masker  # noqa: PLC0415  takes seconds

    with caplog.at_level(logging.DEBUG):
        row = Masker().interaction(Interaction("u", SAID, SAID, metadata={"a": [SAID, 1]}))
    assert (row.input, row.response, row.metadata) == (WANTED, WANTED, {"a": [WANTED, 1]})
    assert "ana.lind" not in caplog.text
