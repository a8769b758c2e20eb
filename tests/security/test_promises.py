"""The page about security names tests that are there, in every row."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
NAMES = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"def (test_\w+)", path.read_text())
}


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 30
    assert not named - NAMES


def test_every_risk_of_the_list_has_its_row_and_its_proof() -> None:
    rows = re.findall(r"^\| API(\d+) .*$", PAGE, re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, 11))
    for line in PAGE.splitlines():
        if line.startswith("| API"):
            assert re.search(r"`test_\w+`", line), line
