"""Write docs/pairs.md from a run of every pair of dialects."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.wire.pairs.table import render_pairs, run_pairs  # noqa: E402

if __name__ == "__main__":
    (ROOT / "docs" / "pairs.md").write_text(render_pairs(run_pairs()))
