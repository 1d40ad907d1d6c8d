"""axe-core, run in a page."""

from pathlib import Path

from playwright.sync_api import Page

AXE = Path(__file__).parent.parent.parent / "node_modules/axe-core/axe.min.js"


def violations(page: Page) -> list[str]:
    """Each violation axe finds: its rule and the first element, as one line."""
    # Evaluated, not added as a script: the page's own policy forbids strangers' scripts.
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]
