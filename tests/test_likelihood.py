"""Likelihoods and greedy answers: the same as one text at a time without any sharing.

What needs torch is marked `local_model`, as everywhere; but one test, all of it runs on a made-up
model of a few thousand weights.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from copersona.errors import BackendError, ConfigError
from copersona.language import likelihood
from copersona.language.generation import LocalGenerator
from copersona.language.likelihood import Likelihood, LocalScorer
from copersona.language.models import require
from tiny_model import CONTEXT, save_tiny_model

PAIRS = [
    ("Tea or coffee?", "Tea, and a lot of it."),
    ("Tea or coffee?", "Coffee"),
    ("Tea or coffee?", ""),
    ("What did you make of the play that we saw on Tuesday?", "röd 🙂, and rather long"),
    ("x", "y"),
    ("What did you make of the play that we saw on Sunday? " * 3, "Splendid."),
    ("\ud800 ☃", "a \udfff b"),
]


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def asked(pairs: list[tuple[str, str]]) -> list[tuple[list[dict[str, str]], str]]:
    return [(messages(text), reference) for text, reference in pairs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def one_by_one(folder: Path, text: str, reference: str) -> Likelihood:
    """One pass a token, without batch, padding, memory or this package."""
    torch, transformers = require("torch"), require("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    sayable = text.encode("utf-8", "replace").decode()
    prompt = f"<|turn|>system: Be brief.<|end|><|turn|>user: {sayable}<|end|><|turn|>assistant: "
    seen = tokenizer.encode(prompt)
    targets = tokenizer.encode(reference.encode("utf-8", "replace").decode())
    nats = 0.0
    for target in targets:
        with torch.no_grad():
            logits = model(torch.tensor([seen]), use_cache=False).logits[0, -1].double()
        nats += math.log(sum(math.exp(each) for each in logits.tolist())) - float(logits[target])
        seen.append(target)
    return Likelihood(nats, len(targets))


@pytest.mark.local_model
@pytest.mark.parametrize(
    "options",
    [
        {"shortest_shared": CONTEXT},  # nothing is shared
        {"shortest_shared": 1},  # everything is
        {"shortest_shared": 1, "batch_tokens": 1},
        {"shortest_shared": CONTEXT, "batch_tokens": 10_000},
        {},
    ],
)
def test_a_likelihood_is_that_of_each_token_by_itself(folder: Path, options: Any) -> None:
    scorer = LocalScorer(folder, **options)
    found = scorer.nll(asked(PAIRS))
    expected = [one_by_one(folder, *pair) for pair in PAIRS]
    assert [each.n_tokens for each in found] == [each.n_tokens for each in expected]
    assert [each.nats for each in found] == pytest.approx(
        [each.nats for each in expected], abs=1e-4
    )
    assert found[2] == Likelihood(0.0, 0)


@pytest.mark.local_model
def test_what_is_shared_goes_through_the_network_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = LocalScorer(folder, shortest_shared=8)
    sizes: list[tuple[int, ...]] = []
    forward = scorer._model.forward

    def counted(*arguments: Any, **named: Any) -> Any:
        sizes.append(tuple(named["input_ids"].shape))
        return forward(*arguments, **named)

    monkeypatch.setattr(scorer._model, "forward", counted)
    scorer.nll(asked([("one prompt", f"{n}") for n in range(5)]))
    n_prompt = len("system: Be brief.user: one prompt assistant:") + 5  # with the marks
    assert sizes == [(1, n_prompt - 1), (5, 1)]
    sizes.clear()
    scorer.nll(asked([(f"prompt {n} of 3", "x" * 10) for n in range(3)]))
    n_start, n_end = len("system: Be brief.user: prompt ") + 3, len("0 of 3assistant: ") + 2
    assert sizes == [(1, n_start), (3, n_end + 9)]


@pytest.mark.local_model
def test_the_order_of_the_pairs_changes_nothing(folder: Path) -> None:
    scorer = LocalScorer(folder)
    places = list(range(len(PAIRS)))
    random.Random(3).shuffle(places)
    plain, mixed = scorer.nll(asked(PAIRS)), scorer.nll(asked([PAIRS[place] for place in places]))
    assert [each.nats for each in mixed] == pytest.approx(
        [plain[place].nats for place in places], abs=1e-4
    )
    assert scorer.nll([]) == []


@pytest.mark.local_model
def test_marks_of_a_turn_are_no_part_of_a_reference(folder: Path) -> None:
    scorer = LocalScorer(folder)
    marked, plain = scorer.nll(asked([("x", "a<|end|>b"), ("x", "a b")]))
    assert marked == plain


@pytest.mark.local_model
def test_what_is_too_long_is_refused_with_its_sizes(folder: Path) -> None:
    scorer = LocalScorer(folder)
    n_prompt = len(scorer._prompt(messages("x")))
    fitting = "y" * (CONTEXT - n_prompt)
    assert scorer.nll(asked([("x", fitting)]))[0].n_tokens == len(fitting)
    sizes = f"holds {CONTEXT} tokens; the prompt has {n_prompt}, the reference {len(fitting) + 1}"
    with pytest.raises(BackendError, match=sizes):
        scorer.nll(asked([("x", "y"), ("x", fitting + "y")]))
    with pytest.raises(BackendError, match=f"holds {CONTEXT} tokens; the prompt has 5"):
        scorer.generate([messages("x"), messages("x" * CONTEXT)], 5)


@pytest.mark.local_model
@pytest.mark.parametrize("options", [{"shortest_shared": 8}, {"shortest_shared": CONTEXT}])
def test_answers_are_those_of_the_generator(folder: Path, options: Any) -> None:
    texts = [*(text for text, _ in PAIRS), *"abcdefgh"]
    generator = LocalGenerator(folder)
    expected = [generator.generate(messages(text), max_tokens=24) for text in texts]
    assert len({len(text) for text in expected}) > 2  # some end before the others
    for batch_tokens in (1, 1_000):
        scorer = LocalScorer(folder, batch_tokens=batch_tokens, **options)
        assert scorer.generate([messages(text) for text in texts], 24) == expected


@pytest.mark.local_model
def test_an_answer_has_no_more_tokens_than_the_model_can_hold(folder: Path) -> None:
    scorer = LocalScorer(folder)
    full = messages("x" * (CONTEXT - len(scorer._prompt(messages(""))) - 3))
    long, short = scorer.generate([full, messages("x")], 6)
    assert len(long.encode("utf-8", "replace")) <= 9  # 3 tokens, a byte or a mark for one each
    assert short == LocalGenerator(folder).generate(messages("x"), max_tokens=6)
    assert scorer.generate([], 6) == []


@pytest.mark.local_model
def test_the_identity_is_that_of_the_files(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / folder.name
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    first, second = LocalScorer(folder), LocalScorer(copy)
    assert first.identity == second.identity
    assert first.identity.startswith(f"local:{folder.name}@")
    settings = copy / "generation_config.json"
    settings.write_text(settings.read_text() + "\n")
    assert LocalScorer(copy).identity != first.identity


@pytest.mark.local_model
def test_wrong_settings_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="batch_tokens is 0"):
        LocalScorer(folder, batch_tokens=0)
    with pytest.raises(ConfigError, match="no device is called 'tpu'; known: auto, cpu, cuda"):
        LocalScorer(folder, device="tpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="'cuda' is not there"):
        LocalScorer(folder, device="cuda")
    scorer = LocalScorer(folder, device="auto")
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        scorer.generate([messages("x")], 0)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([], 0),
        ([[1, 2, 3]], 2),
        ([[1, 2, 3], [1, 2, 3]], 2),
        ([[1, 2, 3], [1, 2]], 1),
        ([[1, 2, 3, 4], [1, 2, 9, 4], [1, 2, 3, 4, 5]], 2),
        ([[2, 1, 1], [1, 1, 1]], 0),
    ],
)
def test_a_common_beginning_leaves_every_prompt_a_token(
    prompts: list[list[int]], expected: int
) -> None:
    assert likelihood._n_common(prompts) == expected


def test_batches_hold_what_fits_and_what_never_fits_alone() -> None:
    found = likelihood.batches([1, 2, 2, 9, 3], lambda batch: sum(batch) <= 4)
    assert list(found) == [[1, 2], [2], [9], [3]]
    assert list(likelihood.batches([], lambda batch: True)) == []


@pytest.mark.local_model
def test_the_real_model_finds_sense_likelier_than_nonsense() -> None:
    scorer = LocalScorer("smollm2")
    question = messages("What is the capital of France?")
    right, wrong = scorer.nll(
        [(question, "The capital of France is Paris."), (question, "The of is capital Paris Fr.")]
    )
    assert right.nats / right.n_tokens < 1 < wrong.nats / wrong.n_tokens
    expected = LocalGenerator("smollm2").generate(question, max_tokens=8)
    assert scorer.generate([question], 8) == [expected]
    assert scorer.identity.startswith("local:smollm2@b179c9")
