"""What axe-core finds on a page."""

from pathlib import Path
from typing import Any

from tests.browser.person import Person

SOURCE = (Path(__file__).parent / "vendor/axe/axe.min.js").read_text()

_RUN = """
async (rules) => {
  const found = await axe.run(document, {
    preload: false,
    resultTypes: ["violations"],
    runOnly: rules.length ? rules : ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  });
  return found.violations
    .filter(each => ["serious", "critical"].includes(each.impact))
    .map(({id, help, nodes}) =>
      [id, help, nodes.slice(0, 4).map(({target, failureSummary}) => [target.join(" "), failureSummary])]);
}
"""


async def problems(person: Person, *rules: str) -> list[Any]:
    """What is serious or critical, each with its first places. rules: only these.

    A context that looks at many pages has SOURCE as a script of its own.
    """
    if not await person.page.evaluate("() => 'axe' in window"):
        await person.page.evaluate(f"() => {{ {SOURCE}\n }}")
    found: list[Any] = await person.page.evaluate(_RUN, list(rules))
    return found
