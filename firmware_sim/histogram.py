"""How latencies are spread: for a terminal, and as a picture (SVG)."""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
"""Where buckets begin, in each power of ten: about as wide as each other on a scale of logarithms."""

_LEAST = 0.1  # milliseconds; what is less is in the first bucket
_EDGES = [round(step * 10.0**power, 6) for power in range(-1, 8) for step in _STEPS]
_WIDTH = 40  # characters of the longest bar


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many latencies are from `low` up to but not `high`, in milliseconds."""

    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """The range for people."""
        return f"{_number(self.low)}–{_number(self.high)} ms"


def buckets(latencies: Sequence[float]) -> list[Bucket]:
    """From the least to the greatest latency (seconds), without a gap; none of nothing."""
    counts: dict[int, int] = {}
    for seconds in latencies:
        place = _place(seconds * 1000)
        counts[place] = counts.get(place, 0) + 1
    if not counts:
        return []
    places = range(min(counts), max(counts) + 1)
    return [Bucket(_EDGES[place], _EDGES[place + 1], counts.get(place, 0)) for place in places]


def text(latencies: Sequence[float]) -> list[str]:
    """A line for each bucket."""
    found = buckets(latencies)
    if not found:
        return []
    most = max(bucket.count for bucket in found)
    label = max(len(str(bucket)) for bucket in found)
    return [
        f"{bucket!s:>{label}}  {'█' * math.ceil(bucket.count / most * _WIDTH):<{_WIDTH}}  {bucket.count}"
        for bucket in found
    ]


_STYLE = (
    "<style>text{font-family:sans-serif;font-size:12px;fill:#222}.head{font-size:16px;font-weight:bold}"
    ".panel{font-size:13px;font-weight:bold}.axis{fill:#555}rect{fill:#2f6f9f}</style>"
)
_ROW, _HEAD, _LEFT, _BAR, _RIGHT = 20, 44, 130, 440, 90  # pixels


def svg(title: str, panels: Mapping[str, Sequence[float]], subtitles: Mapping[str, str] | None = None) -> str:
    """A picture with a panel of bars for each series of latencies (seconds) that has any; subtitles: a line below."""
    drawn = {name: buckets(latencies) for name, latencies in panels.items() if latencies}
    width = _LEFT + _BAR + _RIGHT
    parts: list[str] = []
    top = 36
    for name, found in drawn.items():
        parts.append(f'<text x="12" y="{top + 16}" class="panel">{escape(name)}</text>')
        parts.append(f'<text x="12" y="{top + 32}" class="axis">{escape((subtitles or {}).get(name, ""))}</text>')
        top += _HEAD
        most = max(bucket.count for bucket in found)
        for bucket in found:
            length = round(bucket.count / most * _BAR, 1)
            line = top + _ROW - 6
            parts.append(f'<text x="{_LEFT - 8}" y="{line}" class="axis" text-anchor="end">{bucket}</text>')
            parts.append(f'<rect x="{_LEFT}" y="{top + 2}" width="{length}" height="{_ROW - 4}"/>')
            parts.append(f'<text x="{_LEFT + length + 6}" y="{line}" class="axis">{bucket.count}</text>')
            top += _ROW
        top += 12
    height = top + 8
    size = f'width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            _STYLE,
            f'<rect {size} style="fill:#fff"/>',
            f'<text x="12" y="24" class="head">{escape(title)}</text>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _place(milliseconds: float) -> int:
    return min(max(bisect.bisect_right(_EDGES, max(milliseconds, _LEAST)) - 1, 0), len(_EDGES) - 2)


def _number(milliseconds: float) -> str:
    return f"{milliseconds:.12g}"
