import itertools
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.histogram import buckets, svg, text

latencies = st.lists(st.floats(0, 50_000), min_size=1)


@given(latencies)
def test_each_latency_is_in_one_bucket(seconds: list[float]) -> None:
    found = buckets(seconds)
    assert sum(bucket.count for bucket in found) == len(seconds)
    assert found[0].count > 0
    assert found[-1].count > 0
    assert all(one.high == other.low for one, other in itertools.pairwise(found))
    least, most = found[0].low / 1000, found[-1].high / 1000
    assert all(least <= each < most for each in seconds if each >= 0.0001)


@given(latencies)
def test_a_line_for_each_bucket_and_a_bar_for_each_that_is_not_empty(seconds: list[float]) -> None:
    lines = text(seconds)
    found = buckets(seconds)
    assert len(lines) == len(found)
    for line, bucket in zip(lines, found, strict=True):
        assert line.endswith(f"  {bucket.count}")
        assert ("█" in line) is (bucket.count > 0)


def test_nothing_has_no_histogram() -> None:
    assert buckets([]) == []
    assert text([]) == []


def test_the_text_as_it_is() -> None:
    assert text([0.004, 0.004, 0.012]) == [
        f"  3–5 ms  {'█' * 40}  2",
        f"  5–7 ms  {' ' * 40}  0",
        f" 7–10 ms  {' ' * 40}  0",
        f"10–15 ms  {'█' * 20 + ' ' * 20}  1",
    ]


@given(st.lists(st.floats(0, 100)), st.text(st.characters(categories=["L", "P", "S"])))
def test_the_picture_is_xml_whatever_the_title(seconds: list[float], title: str) -> None:
    root = ElementTree.fromstring(svg(title, {"one": seconds, "two": [0.1]}, {"two": "p50 <1 ms"}))
    names = "{http://www.w3.org/2000/svg}"
    assert (root.findtext(f"{names}title") or "") == title
    bars = [each for each in root.findall(f"{names}rect") if each.get("x")]
    assert len(bars) == len(buckets(seconds)) + 1
    height = float(root.get("height") or 0)
    assert all(float(each.get("y") or 0) < height for each in root.findall(f"{names}text"))
