"""The Python of the README and of each page of docs/ runs as it stands, from the first block on."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {  # and their blocks
    "README.md": 4,
    "docs/boundary.md": 1,
    "docs/data.md": 1,
    "docs/examples.md": 4,
    "docs/recipes.md": 1,
    "docs/runs.md": 1,
    "docs/transport.md": 1,
    "docs/extending.md": 2,
}


def run(page: Path) -> int:
    """Runs the blocks of a page in one namespace, as a reader would."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    return len(blocks)


# one example is about what the warning says
@pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning")
@pytest.mark.parametrize("name", PAGES)
def test_the_examples_run(name, capsys) -> None:
    assert run(ROOT / name) == PAGES[name]
    assert name != "README.md" or "{1: " in capsys.readouterr().out


def test_every_page_with_code_is_run() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]
    with_code = {str(p.relative_to(ROOT)) for p in pages if "```python" in p.read_text()}
    assert with_code == set(PAGES)


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")):
        for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", page.read_text()):
            other = page.parent / target if target else page
            assert other.exists(), (page.name, target)
            if anchor:
                headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
                assert anchor in {_anchor(heading) for heading in headings}, anchor


def _anchor(heading: str) -> str:
    """As GitHub makes it: small letters, no punctuation, hyphens for blanks."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
