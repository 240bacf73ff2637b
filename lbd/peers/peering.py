"""From one configuration of peers to the next, as the supervisor takes it into force or leaves it.

Lives here: what is opened before anything changes, and closed once it has. Never here: the talk.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from config.peers import Peers
from lbd.peers.talk import SecretError, Services, Settings, Talk

log = logging.getLogger(__name__)


class Peering:
    """`talk`: None where there are no peers."""

    def __init__(self, services: Services) -> None:
        self.talk: Talk | None = None
        self._services = services

    def prepare(self, config: Peers | None) -> tuple[Talk, Settings] | None:
        """What `take` wants: bound, the secret read, and nothing in force yet; None for no peers.

        Raises ListenError, SecretError; but where only the secret may be another one, the former
        stays if there is none to be read, for no other change is to fail for it.
        """
        if config is None:
            return None
        talk = self.talk
        if talk is None or talk.settings.config.listen != config.listen:
            settings = Settings.of(config)
            return Talk(settings, self._services), settings
        try:
            return talk, Settings.of(config)
        except SecretError as error:
            if config.key_file != talk.settings.config.key_file:
                raise
            log.error("%s; the former one stays", error)
            return talk, replace(talk.settings, config=config)

    async def take(self, prepared: tuple[Talk, Settings] | None) -> None:
        """Put it in force."""
        before = self.talk
        self.talk, settings = prepared or (None, None)
        if self.talk is not None and settings is not None:
            if self.talk is not before:
                self.talk.start()
            elif settings != self.talk.settings:
                self.talk.configure(settings)
        if before is not None and before is not self.talk:
            await before.close()

    async def leave(self, prepared: tuple[Talk, Settings] | None) -> None:
        """What is in force stays so."""
        if prepared is not None and prepared[0] is not self.talk:
            await prepared[0].close()

    async def close(self) -> None:
        await self.take(None)
