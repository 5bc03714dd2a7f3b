"""Everybody's consent as it is now, read again only when something changed.

Also closes the gap that a forgotten lender leaves: between the tombstone and the rewritten state,
and after a crash in between, the state in force still names a user who is in the store no longer;
so it does, until the next fit, after somebody was merged into another user.
Such users allow nothing. Knows store and states; what consent means is `consent`.
"""

from __future__ import annotations

from copersona.consent import Policy
from copersona.published import States
from copersona.storage.store import Store


class Policies:
    """The policy of one namespace, moment by moment."""

    def __init__(self, store: Store, namespace: str, states: States) -> None:
        self._store, self._namespace, self._states = store, namespace, states
        self._known: tuple[tuple[int, str], Policy] | None = None
        self._gone: tuple[tuple[str, int, int], frozenset[str]] = (("", -1, -1), frozenset())

    def now(self) -> Policy:
        """The policy of this moment, for the store as it is and the state that is held."""
        held = self._states.held
        key = (self._store.revision(self._namespace), held.version if held else "")
        known = self._known
        if known is None or known[0] != key:
            consents = self._store.consents(self._namespace)
            known = (key, Policy(self._store.default_consent, consents, self._absent()))
            self._known = known
        return known[1]  # not of `self`: another thread may just have kept an older one

    def _absent(self) -> frozenset[str]:
        """Lenders of the held state who are in the store no longer, forgotten or merged.

        Looked up after somebody was.
        """
        held = self._states.held
        if held is None:
            return frozenset()
        key = (held.version, self._store.n_forgotten(), self._store.aliases.last())
        if self._gone[0] != key:
            there = set(self._store.users(self._namespace))
            self._gone = (key, frozenset(set(held.state.lenders) - there))
        return self._gone[1]
