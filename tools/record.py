"""Makes the live run that ships (``colosim/data/recorded-run``) of one that was run here.

colosim live colosim/data/recorded-run/scenario.toml --out out/recorded
python tools/record.py out/recorded
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from colosim.watching.shipped import RECORDED, keep


def main() -> None:
    """Replace all but the scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    scenario = (RECORDED / "scenario.toml").read_text("utf-8")
    shutil.rmtree(RECORDED)
    keep(run, RECORDED)
    (RECORDED / "scenario.toml").write_text(scenario, "utf-8")
    print(f"{RECORDED}: {sum(path.stat().st_size for path in RECORDED.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
