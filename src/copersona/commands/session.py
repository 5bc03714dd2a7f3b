"""One run of the command line: the settings in force and the pipeline they open.

Imports what takes long to load only when something is opened. Knows settings and the pipeline;
knows no command, and prints nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import typer

from copersona.commands.settings import Settings
from copersona.errors import ConfigError

if TYPE_CHECKING:
    from copersona.pipeline import CoPersona
    from copersona.reading.masking import Masker


@dataclass(slots=True)
class Session:
    """What the options before the verb say."""

    settings: Settings = field(default_factory=Settings)
    is_debugging: bool = False
    masker: Masker | None = None

    def open(self, *, create: bool = False, namespace: str | None = None) -> CoPersona:
        """The pipeline on the store that is meant; only with `create` is a new one made.

        Args:
            namespace: another one than the settings name.

        Raises:
            ConfigError: there is no such store, and none is to be made.
        """
        from copersona.pipeline import CoPersona  # noqa: PLC0415  `--help` must be quick

        settings = self.settings
        file = settings.store_file
        if file is not None and not create and not file.exists():
            raise ConfigError(
                f"there is no store at {file}; `copersona ingest` makes one, --store names another"
            )
        masker = self._masker()
        engine = CoPersona.open(
            file or settings.store,
            namespace=namespace or settings.namespace,
            encoder=settings.encoder,
            generator=settings.llm,
            state_dir=settings.state,
            api_key=settings.api_key,
            encoder_api_key=settings.encoder_api_key,
        )
        if masker:
            engine.mask_with(masker)
        return engine

    def _masker(self) -> Masker | None:
        """What masks, where it is wanted; one for all namespaces."""
        if self.settings.mask_pii and self.masker is None:
            from copersona.reading.masking import Masker  # noqa: PLC0415  as above

            self.masker = Masker()
        return self.masker


def mask_where_asked(session: Session, is_asked: bool) -> None:
    """Mask what tells a person, where the option of a command or the settings say so."""
    if is_asked:
        session.settings = replace(session.settings, mask_pii=True)


def session_of(ctx: typer.Context) -> Session:
    """The session of a command line."""
    return ctx.ensure_object(Session)


def check(user: str, text: str | None = None) -> None:
    """Refuse a user id or a text that no store would take.

    Raises:
        DataError: empty, oversized, with NUL bytes or not Unicode; names the field.
    """
    from copersona import interactions  # noqa: PLC0415  as above
    from copersona.records import Interaction  # noqa: PLC0415

    interactions.check(Interaction(user=user, response=user if text is None else text))
