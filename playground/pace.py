"""When an answer's text came, thinned out so that it stays small however long the answer: for replays."""

from dataclasses import dataclass, field

MOST = 400


@dataclass
class Pace:
    """Points of (milliseconds since the request was written, characters so far), both rising."""

    points: list[tuple[float, int]] = field(default_factory=list)
    every: int = 1
    seen: int = 0

    def reach(self, ms: float | None, characters: int) -> None:
        """So much text had come by then. Past MOST points each second one goes, and as many are kept of what
        follows; the last one always stands.
        """
        if ms is None:
            return
        if self.seen % self.every and len(self.points) > 1:
            self.points.pop()
        self.points.append((round(ms, 1), characters))
        self.seen += 1
        if len(self.points) > MOST:
            self.points = [*self.points[:-1:2], self.points[-1]]
            self.every *= 2
