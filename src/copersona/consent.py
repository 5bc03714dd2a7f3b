"""What may cross from one user to another: the one place that decides.

A `Policy` is a snapshot of everybody's consent, taken when something is read; fitting, peers,
evidence and words all ask it. Words that cross are checked here too: no digits, no links, no names,
and only what enough different people used.

Knows consent and words. Does not know how anything is computed from what may cross.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from copersona.records import Consent

MIN_DONORS = 3
"""Different users behind any word or name that crosses."""

_LINK = re.compile(r"\S*(?:://|www\.|@)\S*")
_LONG_NUMBER = re.compile(r"\d(?:[ ./()-]*\d){4}")
_WORD = re.compile(r"[^\W\d_]{3,}")
_CONTRACTION = re.compile(r"['’]\w")
_SENTENCE_START = re.compile(r"(?:^|[.!?…:\n\"“(]\s*)$")
NO_CONSENT = Consent(remember=False, learn=False, lend="no", train=False)


@dataclass(frozen=True)
class Policy:
    """Who allows what, in one namespace, at one moment.

    Attributes:
        exceptions: users who differ from the default; everybody else has it.
        absent: users of the fitted state who are in the store no longer (forgotten, gone).
    """

    default: Consent
    exceptions: Mapping[str, Consent]
    absent: frozenset[str] = frozenset()

    def of(self, user: str) -> Consent:
        """What this user allows."""
        if user in self.absent:
            return NO_CONSENT
        return self.exceptions.get(user, self.default)

    def lends(self, user: str) -> bool:
        """May others get statistics that this user is part of?"""
        consent = self.of(user)
        return consent.remember and consent.lend != "no"

    def lends_text(self, user: str) -> bool:
        """May this user's items be quoted to another user's language model?"""
        consent = self.of(user)
        return consent.remember and consent.lend == "text"

    def trains(self, user: str) -> bool:
        """May this user's history be what a model is trained to foretell?"""
        consent = self.of(user)
        return consent.remember and consent.train

    def learns(self, user: str) -> bool:
        """May this user's persona be completed by others?"""
        return self.of(user).learn


def crossable_words(text: str) -> list[str]:
    """Words of a text that may cross if enough others use them too, lower-cased, in order.

    A capitalised word in mid-sentence is taken for a name; words with digits and links never cross.
    """
    words = []
    text = _LINK.sub(" ", text)
    for match in _WORD.finditer(text):
        before, word = text[max(0, match.start() - 3) : match.start()], match.group()
        is_mid_sentence = not _SENTENCE_START.search(before) and match.start() > 0
        is_cut = _CONTRACTION.match(text, match.end()) is not None  # the “hasn” of “hasn't”
        touches_digit = before[-1:].isdigit() or text[match.end() : match.end() + 1].isdigit()
        if is_cut or touches_digit or (is_mid_sentence and word[0].isupper()):
            continue
        words.append(word.lower())
    return words


def may_be_learnt_from(text: str) -> bool:
    """Whether a text may train a model at all: not where it holds a link, an address or a number.

    Of five digits or more. What users repeat may begin to show to others, see docs/privacy.md.
    """
    return not _LINK.search(text) and not _LONG_NUMBER.search(text)


def shared_words(words_of_user: Mapping[str, Iterable[str]], min_donors: int) -> dict[str, int]:
    """Words used by at least `min_donors` different users, with the number of users."""
    users_of: dict[str, int] = {}
    for words in words_of_user.values():
        for word in set(words):
            users_of[word] = users_of.get(word, 0) + 1
    return {word: n for word, n in users_of.items() if n >= max(min_donors, MIN_DONORS)}


def pseudonym(key: bytes, borrower: str, peer: str) -> str:
    """A name for a peer that differs for every borrower; only the key could turn it back."""
    message = f"{len(borrower)}:{borrower}{peer}".encode("utf-8", "surrogatepass")
    return "peer-" + hmac.new(key, message, hashlib.sha256).hexdigest()[:8]
