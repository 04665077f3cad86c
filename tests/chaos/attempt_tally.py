"""What the gateways did about faults, by their own counters: attempts after the first, by cause and kind."""

from collections import Counter

from tests.chaos.fleet import Fleet, label
from wire.messages import Stage

_ATTEMPTS = "millrace_gateway_attempts_total"


class AttemptTally:
    """Reads the pages of the gateways that can be seen. What one has counted since its last page is lost with it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._seen: dict[str, Counter[str]] = {}

    async def news(self) -> Counter[str]:
        """How many there were since this was asked last, named by cause and kind: "gap reattach"."""
        news: Counter[str] = Counter()
        for gateway in self._fleet.present(Stage.GATEWAY):
            page = await self._fleet.series(gateway)
            counted = Counter(
                {
                    f"{label(labels, 'cause')} {label(labels, 'kind')}": int(value)
                    for (name, labels), value in page.items()
                    if name == _ATTEMPTS and label(labels, "cause") != "new"
                }
            )
            news += counted - self._seen.get(gateway.instance_id, Counter())
            self._seen[gateway.instance_id] = counted
        return news
