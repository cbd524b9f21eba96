"""The delegated leaves in use: obtained from the CA when needed, renewed at half their life.

Owns them in memory, keys included; nothing of it is ever written or logged. A leaf that the CA
refuses is left out and said in `refused`: its workload has no identity until it is approved.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from appliance.ca.issue import SIGN_TOGETHER_MAX
from appliance.compile import LeafNeed
from appliance.enroll.credentials import Credential, Signers, obtain_each
from appliance.errors import ApplianceError, Denied, Unavailable
from dataplane.snapshot import Leaf

log = logging.getLogger(__name__)

TTL_S = 86_400
TOGETHER_MAX = 2  # calls of the CA: keys are made for one while the other is signed
_RETRY_S = 5.0
_LOOK_S = 60.0


class Leaves:
    def __init__(
        self,
        ca: Signers,
        renewed: Callable[[], None],
        ttl_s: int = TTL_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ca, self._renewed = ca, renewed
        self._ttl_s, self._clock = ttl_s, clock
        self._held: dict[str, Credential] = {}
        self._due: dict[str, float] = {}  # UNIX seconds: when to renew
        self._needs: Mapping[str, LeafNeed] = {}
        self.refused: dict[str, str] = {}  # key: why
        self.unanswered = 0  # of the last try

    def missing(self, needs: Iterable[LeafNeed]) -> tuple[LeafNeed, ...]:
        return tuple(need for need in needs if need.key not in self._held)

    def get(self, key: str) -> Credential | None:
        return self._held.get(key)

    async def ensure(
        self, needs: Iterable[LeafNeed], *, strict: bool = False
    ) -> Mapping[str, Leaf]:
        """Obtains what is missing; forgets what is not needed.

        strict: raises Denied or Unavailable when a leaf that is newly needed cannot be had; then
        nothing is forgotten.
        """
        wanted = {need.key: need for need in needs}
        new = [need for key, need in wanted.items() if key not in self._needs]
        await self._obtain(self.missing(wanted.values()))
        if strict:
            for need in new:
                if need.key in self.refused:
                    raise Denied(
                        f"{need.spiffe_id} is not approved at the CA ({self.refused[need.key]}): "
                        "apply on the box itself, as root or in the admin group"
                    )
                if need.key not in self._held:
                    raise Unavailable("the CA does not answer: nothing was applied")
        self._needs = wanted
        for key in [key for key in self._held if key not in wanted]:
            del self._held[key], self._due[key]
        self.refused = {key: why for key, why in self.refused.items() if key in wanted}
        return {key: held.leaf for key, held in self._held.items()}

    async def run(self) -> None:
        """Renews at half life, and asks again for what could not be had. Never returns."""
        while True:
            await asyncio.sleep(self._wait_s())
            await self.renew()

    async def renew(self) -> None:
        """What is due or missing; tells when there is anything new."""
        now = self._clock()
        due = [self._needs[key] for key, at in self._due.items() if at <= now]
        before = dict(self._held)
        await self._obtain((*due, *self.missing(self._needs.values())))
        if any(before.get(key) is not held for key, held in self._held.items()):
            self._renewed()

    async def renew_all(self) -> None:
        """The CA is another one: what it did not sign is of no use."""
        self._due = dict.fromkeys(self._due, self._clock())
        await self.renew()

    def _wait_s(self) -> float:
        if self.refused or self.unanswered or self.missing(self._needs.values()):
            return _RETRY_S
        return min(_LOOK_S, max(1.0, min(self._due.values(), default=_LOOK_S) - self._clock()))

    async def _obtain(self, needs: Iterable[LeafNeed]) -> None:
        wanted = tuple(needs)
        gate = asyncio.Semaphore(TOGETHER_MAX)
        self.unanswered = 0

        async def some(part: Sequence[LeafNeed]) -> None:
            async with gate:
                if self.unanswered:  # one silence is enough
                    self.unanswered += len(part)
                    return
                answers: Sequence[Credential | ApplianceError]
                try:
                    answers = await obtain_each(self._ca, part, self._ttl_s)
                except Unavailable as error:
                    self.unanswered += len(part)
                    for need in part:
                        self.refused.pop(need.key, None)
                    log.warning("no leaf for %s and others: %s", part[0].spiffe_id, error)
                    return
                except ApplianceError as error:
                    answers = [error] * len(part)
            for need, answer in zip(part, answers, strict=True):
                self._take(need, answer)

        parts = range(0, len(wanted), SIGN_TOGETHER_MAX)
        await asyncio.gather(*(some(wanted[at : at + SIGN_TOGETHER_MAX]) for at in parts))

    def _take(self, need: LeafNeed, answer: Credential | ApplianceError) -> None:
        if isinstance(answer, ApplianceError):
            if need.key not in self.refused:
                log.warning("no leaf for %s: %s", need.spiffe_id, answer)
            self.refused[need.key] = str(answer)
            return
        self.refused.pop(need.key, None)
        now = self._clock()
        self._held[need.key] = answer
        self._due[need.key] = now + (answer.not_after - now) * random.uniform(0.45, 0.5)
