"""The experiments on little data of docs/results.md, and the raw figures that they leave.

    python benchmarks/experiments.py --data DIR --cifar10 FILE.npz --runs DIR [NAME...]

runs those that are named, or all whose images are given, as `trgl compare` does, and goes on with
those begun. DIR holds MNIST; FILE.npz CIFAR-10's first 1,000 training images of each class and its
10,000 test images. Of each it writes, under benchmarks/results/NAME, table.json, which is
the comparison's, and metrics.csv, a row for each evaluation of each module of each run.
benchmarks/results_page.py fills the page with them.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import subprocess
import sys
from pathlib import Path

from trgl.durable import write_atomically
from trgl.rundir import SUMMARY, read_metrics

RESULTS = Path(__file__).parent / "results"

# 150 images to train on and 1,000 others of the training set to choose by
_CHOOSE = "--train-size 1150 --validation-size 1000 --epochs 150 --evaluate-every 150 --seeds 10,11"
_BOTH = f"{_CHOOSE} --methods vanilla,transport"
_TRANSPORT = f"{_CHOOSE} --methods transport"
# Table 12 with 64 filters in the place of 256
_WIDE = (
    "t12-wide-10-1-cifar10-1000-sequential-k10 --filters 64 --channels-last --recompute none "
    "--threads 1"
)
# a fifth of the epochs, to choose by
_CHOOSE_WIDE = (
    f"{_WIDE} --train-size 2000 --validation-size 1000 --epochs 10 --epochs-step 2 "
    "--evaluate-every 1000 --seeds 10"
)
# what `trgl compare` is given, but for --data and --out
EXPERIMENTS = {
    "mnist-150": "mnist-20x1 --seeds 0-4",
    "mnist-300": "mnist-20x1 --train-size 300 --seeds 0-5 --methods vanilla,transport",
    "mnist-300-whole": "mnist-20x1 --train-size 300 --seeds 0-4 --methods end-to-end",
    "mnist-600": "mnist-20x1 --train-size 600 --seeds 0-2 --methods vanilla,transport",
    "mnist-600-whole": "mnist-20x1 --train-size 600 --seeds 0-2 --methods end-to-end",
    "tau": f"mnist-20x1 {_BOTH} --taus 5,0.5,0.05,0.005,0.0005",
    "tau-sum": f"mnist-20x1 {_TRANSPORT} --reduction sum --tau 31.36",
    "post-activation": f"mnist-20x1-post {_BOTH} --taus 0.5,0.05",
    "own-heads": f"mnist-20x1 {_BOTH} --no-shared-head --taus 0.05,0.005",
    "pretrained": f"mnist-20x1 {_BOTH} --encoder pretrained --taus 0.05,0.005",
    "power-1": f"mnist-20x1 {_TRANSPORT} --power 1 --taus 0.5,0.05,0.005",
    "power-1.5": f"mnist-20x1 {_TRANSPORT} --power 1.5 --taus 0.05,0.005",
    "depth-5": f"mnist-20x1 {_BOTH} --modules 5",
    "depth-10": f"mnist-20x1 {_BOTH} --modules 10",
    "cifar-tau": f"{_CHOOSE_WIDE} --methods vanilla,transport --taus 0.1,0.01,0.001",
    "cifar-tau-fine": f"{_CHOOSE_WIDE} --methods transport --taus 0.005,0.0025",
    "cifar-1000": f"{_WIDE} --evaluate-every 1000 --seeds 0-2 --methods vanilla,transport "
    "--tau 0.01",
}
COLUMNS = (
    "method",
    "seed",
    "module",
    "epoch",
    "train_loss",
    "transport_cost",
    "validation_accuracy",
    "test_accuracy",
    "epoch_seconds",  # the median epoch of the run, evaluations apart
)


def run(name: str, data: Path, runs: Path) -> bool:
    """Runs one on the images in `data`, or goes on with it; returns whether all its runs ended."""
    out = runs / name
    words = [sys.executable, "-m", "trgl", "compare"]
    if (out / "config.json").exists():
        words += ["--resume", str(out)]
    else:
        words += [*EXPERIMENTS[name].split(), "--data", str(data), "--out", str(out)]
    return subprocess.run(words, check=False).returncode == 0


def collect(name: str, runs: Path) -> None:
    """Copies the figures of one, as far as it has got, to the results."""
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    table = (runs / name / "table.json").read_text().replace(f"{runs.resolve()}/", "")
    write_atomically(folder / "table.json", table.encode())
    written = io.StringIO()
    writer = csv.DictWriter(written, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for path in sorted((runs / name).glob("*-seed*")):
        summary = json.loads((path / SUMMARY).read_text())
        method, _, seed = path.name.rpartition("-seed")
        rows = [] if summary["state"] != "done" else read_metrics(path)
        seconds = statistics.median(row["seconds"] for row in rows) if rows else 0.0
        writer.writerows(
            row | {"method": method, "seed": seed, "epoch_seconds": f"{seconds:.3f}"}
            for row in rows
            if row["test_accuracy"] is not None
        )
    write_atomically(folder / "metrics.csv", written.getvalue().encode())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--data", type=Path, help="holds MNIST")
    parser.add_argument("--cifar10", type=Path, help="an archive of images of CIFAR-10")
    parser.add_argument("--runs", type=Path, required=True, help="where runs are kept")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - EXPERIMENTS.keys())
    if unknown:
        parser.error(f"names of {', '.join(EXPERIMENTS)} expected, received {', '.join(unknown)}")
    sound = True
    for name in options.names or EXPERIMENTS:
        data = options.cifar10 if name.startswith("cifar") else options.data
        if data is not None:
            sound &= run(name, data, options.runs)
        if (options.runs / name / "table.json").exists():
            collect(name, options.runs)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
