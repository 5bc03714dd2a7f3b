"""Soft tokens in a real, tiny model: right place, right numbers, gradients for them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from copersona.errors import BackendError, DataError, ShapeError
from copersona.language.generation import LocalGenerator
from copersona.language.likelihood import Likelihood, LocalScorer
from copersona.language.softened import Prepared, SoftScorer
from tiny_model import CONTEXT, TEMPLATE, save_tiny_model

ROUND = {"role": "system", "content": "Be brief."}
LONG = [
    ROUND,
    {"role": "user", "content": "Tea or coffee? " * 4},
    {"role": "assistant", "content": "Tea, röd 🙂"},
]
"""What an example in front of the request adds."""


def messages(text: str, *, is_long: bool = False) -> list[dict[str, str]]:
    return [*(LONG if is_long else [ROUND]), {"role": "user", "content": text}]


PAIRS = [
    (messages("Tea?"), "Tea, and a lot of it."),
    (messages("Tea?", is_long=True), "Coffee"),
    (messages("Tea?", is_long=True), "x"),
    (messages("Tea?"), ""),
    (messages("What did you make of the play on Tuesday?"), "röd 🙂, rather long"),
    ([{"role": "user", "content": "no system \ud800"}], "a \udfff b"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> SoftScorer:
    return SoftScorer(folder)


def drawn(lm: SoftScorer, seed: int, n_tokens: int = 3) -> Any:
    vectors = np.random.default_rng(seed).normal(size=(n_tokens, lm.width))
    return (lm.token_norm * vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype("f4")


def one_by_one(lm: SoftScorer, row: Prepared, soft: Any) -> float:
    """The nats of a reference, without batch, padding or memory."""
    embed = lm._model.get_input_embeddings()
    rest = [*row.after, *row.reference]
    vectors = torch.cat([embed(torch.tensor(row.before)), torch.tensor(soft),
                         embed(torch.tensor(rest))])[None]  # fmt: skip
    with torch.no_grad():
        logits = lm._model(inputs_embeds=vectors, use_cache=False).logits[0].double()
    n = len(row.reference)
    judged = logits[-n - 1 : -1].log_softmax(dim=-1)
    return -float(judged[torch.arange(n), torch.tensor(row.reference)].sum())


# ---- the place ---------------------------------------------------------------------------------


def test_soft_tokens_go_in_front_of_the_last_message_of_the_user(scorer: SoftScorer) -> None:
    row = scorer.prepare(messages("Tea?", is_long=True), "Yes")
    before, after = map(scorer._tokenizer.decode, (row.before, row.after))
    assert before.endswith("röd 🙂<|end|><|turn|>user: ")
    assert after == "Tea?<|end|><|turn|>assistant: "
    assert [*row.before, *row.after] == scorer._prompt(messages("Tea?", is_long=True))
    assert scorer._tokenizer.decode(row.reference) == "Yes"


def test_an_answer_behind_the_last_request_stays_behind(scorer: SoftScorer) -> None:
    said = {"role": "assistant", "content": "Well"}
    row = scorer.prepare([*messages("Tea?"), said], "Yes")
    assert scorer._tokenizer.decode(row.after).startswith("Tea?<|end|><|turn|>assistant: Well")


def test_a_mark_in_the_text_is_only_text(scorer: SoftScorer) -> None:
    row = scorer.prepare(messages("\ue000a\ue001b"), "Yes")
    assert scorer._tokenizer.decode(row.after).startswith("\ue000a\ue001b<|end|>")


def test_what_has_no_place_is_refused(scorer: SoftScorer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no message is a user's"):
        scorer.prepare([ROUND], "Yes")
    with pytest.raises(DataError, match="a reference without tokens"):
        scorer.prepare(messages("Tea?"), "")
    fits = CONTEXT - len(scorer._prompt(messages(""))) - 1
    scorer.prepare(messages("x" * fits), "y")
    with pytest.raises(BackendError, match=f"holds {CONTEXT} tokens; the prompt has {CONTEXT}"):
        scorer.prepare(messages("x" * fits), "y", n_soft=1)
    twice = TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] }}{{ m['content'] }}")
    other = SoftScorer(save_tiny_model(tmp_path, template=twice))
    with pytest.raises(BackendError, match="no place for soft tokens"):
        other.prepare(messages("Tea?"), "Yes")


def test_width_and_norm_are_those_of_the_token_embeddings(scorer: SoftScorer) -> None:
    table = scorer._model.get_input_embeddings().weight
    assert scorer.width == 32
    assert scorer.token_norm == pytest.approx(float(table.norm(dim=1).mean()), rel=1e-5)
    np.testing.assert_array_equal(
        scorer.embeddings("Tea"), table[scorer._encoded("Tea")].detach().numpy()
    )


# ---- the numbers -------------------------------------------------------------------------------


def test_without_soft_tokens_likelihoods_are_those_of_the_scorer(
    folder: Path, scorer: SoftScorer
) -> None:
    expected = LocalScorer(folder).nll(PAIRS)
    found = scorer.soft_nll(PAIRS, [None] * len(PAIRS))
    assert [each.n_tokens for each in found] == [each.n_tokens for each in expected]
    assert [each.nats for each in found] == pytest.approx([each.nats for each in expected])
    said = [pair for pair in PAIRS if pair[1]]
    losses = scorer.losses([scorer.prepare(*pair) for pair in said], None)
    assert losses.tolist() == pytest.approx(
        [each.nats / each.n_tokens for each in expected if each.n_tokens], abs=1e-4
    )


@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_with_soft_tokens_a_batch_is_as_one_by_one(folder: Path, batch_tokens: int) -> None:
    lm = SoftScorer(folder, batch_tokens=batch_tokens)
    softs = [drawn(lm, 0), drawn(lm, 1), None, drawn(lm, 2), drawn(lm, 3, n_tokens=1), drawn(lm, 4)]
    found = lm.soft_nll(PAIRS, softs)
    assert found[3] == Likelihood(0.0, 0)
    assert found[2].nats == pytest.approx(lm.nll(PAIRS[2:3])[0].nats)
    for place in (0, 1, 4, 5):
        expected = one_by_one(lm, lm.prepare(*PAIRS[place]), softs[place])
        assert found[place].nats == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ShapeError, match="rows of 32 numbers"):
        lm.soft_nll(PAIRS[:1], [np.zeros((2, 31), "f4")])


def test_losses_are_the_same_from_kept_beginnings_and_in_the_mean_of_their_tokens(
    scorer: SoftScorer,
) -> None:
    rows = [scorer.prepare(*pair) for pair in PAIRS if pair[1]]
    soft = np.stack([drawn(scorer, n) for n in range(len(rows))])
    scorer.forget_beginnings()
    first, again = (scorer.losses(rows, torch.tensor(soft)) for _ in range(2))
    assert torch.equal(first, again)
    expected = [
        one_by_one(scorer, r, s) / len(r.reference) for r, s in zip(rows, soft, strict=True)
    ]
    assert first.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_beginning_goes_through_the_network_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = SoftScorer(folder)
    encoded: list[int] = []
    forward = lm._model.forward

    def counted(*arguments: Any, **named: Any) -> Any:
        encoded.append(named["input_ids"].shape[1] if "input_ids" in named else 0)
        return forward(*arguments, **named)

    monkeypatch.setattr(lm._model, "forward", counted)
    softs = [drawn(lm, n) for n in range(4)]
    pairs = [(messages(f"{n}?", is_long=n % 2 > 0), "Yes") for n in range(4)]
    lm.soft_nll(pairs, softs)
    lm.soft_nll(pairs, softs)
    n_before = {len(lm.prepare(*pair).before) for pair in pairs}
    assert sorted(n for n in encoded if n) == sorted(n_before)
    lm.forget_beginnings()
    lm.soft_nll(pairs, softs)
    assert len([n for n in encoded if n]) == 2 * len(n_before)


def test_no_more_is_kept_than_allowed(folder: Path) -> None:
    a_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, their width, bytes
    n_before = len(SoftScorer(folder).prepare(*PAIRS[0]).before)
    for room, expected in ((2, 2), (1, 1), (0, 0)):
        lm = SoftScorer(folder, kept_bytes=room * (n_before + 2) * a_token)
        rows = [
            lm.prepare([{"role": "system", "content": f"Be brief {n}"}, PAIRS[0][0][-1]], "x")
            for n in range(4)
        ]
        plain = SoftScorer(folder).losses(rows, None)
        assert torch.allclose(lm.losses(rows, None), plain, atol=1e-5)
        held = lm._beginnings._held
        assert len(held) == expected
        if expected == 2:  # the oldest, and in the place of the newest the newest
            assert list(held) == [rows[0].before, rows[3].before]


# ---- gradients ---------------------------------------------------------------------------------


def test_gradients_are_those_of_the_whole_prompt_and_reach_nothing_else(
    scorer: SoftScorer,
) -> None:
    rows = [scorer.prepare(*pair) for pair in PAIRS if pair[1]]
    soft = torch.tensor(np.stack([drawn(scorer, n) for n in range(len(rows))]), requires_grad=True)
    scorer.losses(rows, soft).sum().backward()  # type: ignore[no-untyped-call]
    assert soft.grad is not None
    embed = scorer._model.get_input_embeddings()
    for n, row in enumerate(rows):
        alone = soft.detach()[n].clone().requires_grad_()
        vectors = torch.cat([embed(torch.tensor(row.before)), alone,
                             embed(torch.tensor(row.tail))])[None]  # fmt: skip
        logits = scorer._model(inputs_embeds=vectors).logits[0, -len(row.reference) :]
        torch.nn.functional.cross_entropy(logits, torch.tensor(row.reference)).backward()  # type: ignore[no-untyped-call]
        assert alone.grad is not None
        assert torch.allclose(soft.grad[n], alone.grad, atol=1e-5)
        assert float(alone.grad.abs().sum()) > 1e-3
    assert all(weight.grad is None for weight in scorer._model.parameters())


def test_half_precision_weights_take_soft_tokens_too(tmp_path: Path) -> None:
    lm = SoftScorer(save_tiny_model(tmp_path, dtype="bfloat16"))
    rows = [lm.prepare(*pair) for pair in PAIRS if pair[1]]
    soft = torch.tensor(np.stack([drawn(lm, n) for n in range(len(rows))]), requires_grad=True)
    losses = lm.losses(rows, soft)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert losses.dtype == torch.float32
    assert soft.grad is not None
    assert soft.grad.dtype == torch.float32
    assert lm.embeddings("Tea").dtype == np.float32
    scored = lm.soft_nll([pair for pair in PAIRS if pair[1]], list(soft.detach().numpy()))
    assert [each.nats / each.n_tokens for each in scored] == pytest.approx(
        losses.tolist(), rel=0.05
    )


# ---- answers -----------------------------------------------------------------------------------


def test_the_generator_answers_from_soft_tokens(folder: Path, scorer: SoftScorer) -> None:
    generator = LocalGenerator(folder)
    asked = messages("Tea?")
    soft = drawn(scorer, 1)
    said = generator.generate(asked, max_tokens=12, soft=soft)
    assert said == "".join(generator.stream(asked, max_tokens=12, soft=soft))
    assert said != generator.generate(asked, max_tokens=12)
    likeliest = min(
        (scorer.soft_nll([(asked, letter)], [soft])[0].nats, letter)
        for letter in map(chr, range(32, 127))
    )
    assert 32 <= ord(said[0]) < 127  # else it is not among those scored
    assert said[0] == likeliest[1]
    assert generator.identity == scorer.identity


def test_own_embeddings_as_soft_tokens_are_the_words_themselves(
    folder: Path, scorer: SoftScorer
) -> None:
    generator, soft = LocalGenerator(folder), scorer.embeddings("Well: ")
    plain = generator.generate(messages("Well: Tea?"), max_tokens=12)
    assert generator.generate(messages("Tea?"), max_tokens=12, soft=soft) == plain
    found = scorer.soft_nll([(messages("Tea?"), "Yes")], [soft])[0]
    expected = scorer.nll([(messages("Well: Tea?"), "Yes")])[0]
    assert found.nats == pytest.approx(expected.nats, abs=1e-4)


def test_the_generator_refuses_soft_tokens_that_do_not_fit(folder: Path) -> None:
    generator = LocalGenerator(folder)
    with pytest.raises(ShapeError, match="rows of 32 numbers"):
        generator.generate(messages("Tea?"), soft=np.zeros((2, 8), "f4"))
    many = np.ones((CONTEXT, 32), "f4")
    with pytest.raises(BackendError, match=f"holds {CONTEXT} tokens"):
        generator.generate(messages("Tea?"), soft=many)


@pytest.mark.local_model
def test_the_real_model_hears_its_own_words_as_soft_tokens() -> None:
    lm = SoftScorer("smollm2")
    soft = lm.embeddings("My name is Ada.\n")
    asked = [{"role": "user", "content": "What is my name?"}]
    heard, unheard = lm.soft_nll([(asked, "Your name is Ada.")] * 2, [soft, None])
    assert heard.nats < unheard.nats - 2
    generator = LocalGenerator("smollm2")
    told = [{"role": "user", "content": "My name is Ada.\nWhat is my name?"}]
    expected = generator.generate(told, max_tokens=8)
    assert generator.generate(asked, max_tokens=8, soft=soft) == expected
