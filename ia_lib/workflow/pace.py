"""How far a stage is that does things of several kinds, which take different times."""

import time
from collections.abc import Callable


class Pace:
    """Parts of a piece of work, each so many `units` of which one is expected to take `cost` times as long as one of
    another part with cost 1. As soon as a part is at work what it really takes counts, and what others took tells how
    far from its expected cost a part may be that has not begun."""

    def __init__(self, parts: dict[str, tuple[float, float]], tell: Callable[[float, float], None]):
        self._units = {name: units for name, (units, _) in parts.items()}
        self._cost = {name: cost for name, (_, cost) in parts.items()}
        self._tell, self._last = tell, time.monotonic()
        self._done, self._took = dict.fromkeys(parts, 0.0), dict.fromkeys(parts, 0.0)

    def add(self, part: str, units: float, of: float | None = None) -> None:
        """So many more units of a part are done, which has `of` in all if that is known better by now; tells (seconds
        so far, seconds in all)."""
        now = time.monotonic()
        self._units[part] = of or self._units[part]
        self._took[part] += now - self._last
        self._done[part] += units
        self._last = now
        took = sum(self._took.values())
        expected = sum(self._done[name] * self._cost[name] for name in self._done)
        scale = took / expected if expected else 1.0
        left = 0.0
        for name, units in self._units.items():
            done = self._done[name]
            one = self._took[name] / done if done else scale * self._cost[name]
            left += max(0.0, units - done) * one
        self._tell(took, took + left)
