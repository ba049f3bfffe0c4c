"""What can be computed of how a page looks: that it fits, that nothing is cut off or lies upon something else."""

from playwright.async_api import Page

_SETTLED = """
async () => {
  const drawn = () => new Promise(requestAnimationFrame);
  while (document.readyState !== "complete" || document.querySelector(".htmx-request")) await drawn();
  await document.fonts.ready;
  await drawn();
  await drawn();
}
"""

_FAULTS = """
() => {
  const faults = [];
  const root = document.documentElement;
  const width = root.clientWidth;
  if (root.scrollWidth > width) faults.push(`the page is ${root.scrollWidth - width} px too wide`);

  const called = (element) => {
    const text = element.textContent.trim().replace(/\\s+/g, " ").slice(0, 50);
    const kind = element.className && element.className.baseVal === undefined ? `.${element.className}` : "";
    return `<${element.localName}${kind}> “${text}”`;
  };
  const scrolls = (style) => /auto|scroll/.test(style.overflowX);
  const hides = (style) => /hidden|clip/.test(style.overflowX);
  const unseen = (element) => {
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) return true;
    for (let each = element; each; each = each.parentElement) {
      const style = getComputedStyle(each);
      const box = each.getBoundingClientRect();
      if (hides(style) && (box.width <= 2 || box.height <= 2)) return true;
      if (style.position === "absolute" && (box.right < 0 || box.bottom < 0)) return true;
    }
    return false;
  };

  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const element = node.parentElement;
    if (!node.nodeValue.trim() || element.closest("script, style, noscript, option, svg, .uplot")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = [...range.getClientRects()].filter((box) => box.width > 1 && box.height > 1);
    if (!boxes.length || unseen(element)) continue;

    let fixed = false;
    let held = false;
    for (let each = element; each && each !== root; each = each.parentElement) {
      const style = getComputedStyle(each);
      if (style.position === "fixed" || style.position === "sticky") fixed = true;
      if (scrolls(style)) held = true;
      if (!held && hides(style) && !(style.textOverflow === "ellipsis" && each.closest("[title]"))) {
        const frame = each.getBoundingClientRect();
        if (boxes.some((box) => box.right > frame.right + 2 || box.left < frame.left - 2)) {
          faults.push(`${called(element)} is cut off`);
          break;
        }
      }
    }
    if (!held && boxes.some((box) => box.right > width + 1 || box.left < -1)) {
      faults.push(`${called(element)} goes beyond the edge`);
    }
    if (!fixed && !held) for (const box of boxes) texts.push({element, box});
  }

  for (const control of document.querySelectorAll("button, select, input:not([type=hidden])")) {
    if (unseen(control) || control.localName === "input") continue;
    if (control.scrollWidth > control.clientWidth + 2 && hides(getComputedStyle(control))) {
      faults.push(`${called(control)} is cut off`);
    }
  }

  texts.sort((one, other) => one.box.top - other.box.top);
  for (let first = 0; first < texts.length; first++) {
    const {element, box} = texts[first];
    for (let second = first + 1; second < texts.length && texts[second].box.top < box.bottom; second++) {
      const other = texts[second];
      const wide = Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left);
      const high = Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top);
      if (wide > 3 && high > 0.45 * Math.min(box.height, other.box.height)) {
        faults.push(`${called(element)} and ${called(other.element)} lie upon one another`);
      }
    }
  }
  return [...new Set(faults)];
}
"""


async def settle(page: Page) -> None:
    """Wait until a page has all that it loads by itself."""
    await page.evaluate(_SETTLED)


async def faults(page: Page) -> list[str]:
    """What looks wrong, in words."""
    found: list[str] = await page.evaluate(_FAULTS)
    return found
