"""Train the built-in pair, all of it: `python -m training.pair` (or `make train`).

Stages: draw the pool; freeze the tokenizer; then for each model vision, language (and, for the
small one, tuning end to end), export; the closer one is made from the large one; at last the gates
are calibrated. The small and the large one train side by side, one thread each on a CPU. Every
stage resumes from its own checkpoint, so an interrupted run goes on when started again; `--fresh`
begins anew.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from training.export import MODELS
from training.tokenizer import train_tokenizer

SHARDS = 6
SHARD_SIZE = 5_000
VISION_STEPS = {"small": 4_000, "large": 3_600}
LANGUAGE_STEPS = {"small": (900, 4_200), "large": (3_000, 9_000)}  # listing, in all
LANGUAGE_BATCH = {"small": 32, "large": 16}
TUNE_STEPS = 1_800  # of the small model
CLOSER_STEPS = 4_600


def main() -> None:
    """Run every stage that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("training/runs"))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for each model")
    parser.add_argument("--bf16", action="store_true", help="language models in bfloat16")
    parser.add_argument("--fresh", action="store_true", help="forget earlier checkpoints")
    a = parser.parse_args()
    if a.fresh:
        shutil.rmtree(a.out, ignore_errors=True)
    missing = [s for s in range(SHARDS) if not (a.out / "pool" / f"scenes-{s}.pkl").exists()]
    _side_by_side([[_pool(a.out, s) for s in missing[i::2]] for i in (0, 1)])
    if not (MODELS / "large" / "tokenizer.json").exists():
        train_tokenizer(MODELS / "large")
    _side_by_side([_stages(role, a) for role in ("small", "large")])
    _side_by_side([_closer_stages(a)])
    _side_by_side([[["calibrate"]]])


def _pool(out: Path, shard: int) -> list[str]:
    return ["pool", "--seed", str(shard), "--size", str(SHARD_SIZE), "--out", str(out / "pool")]


def _stages(role: str, a: argparse.Namespace) -> list[list[str]]:
    listing, steps = LANGUAGE_STEPS[role]
    where = ["--out", str(a.out), "--device", a.device, "--threads", str(a.threads)]
    counts = ["--listing-steps", str(listing), "--steps", str(steps)]
    counts += ["--batch", str(LANGUAGE_BATCH[role]), *(["--bf16"] if a.bf16 else [])]
    words = ["--tokenizer", str(MODELS / "large" / "tokenizer.json")]
    tune = [["tune", "--steps", str(TUNE_STEPS), *words, *where]] if role == "small" else []
    last = "tune" if tune else "language"
    return [
        ["vision", role, "--steps", str(VISION_STEPS[role]), *where],
        ["language", role, *counts, *where],
        *tune,
        ["export", role, "--checkpoint", str(a.out / f"{last}-{role}.pt")],
    ]


def _closer_stages(a: argparse.Namespace) -> list[list[str]]:
    where = ["--out", str(a.out)]
    steps = ["--steps", str(CLOSER_STEPS), "--batch", "32", *(["--bf16"] if a.bf16 else [])]
    run = [*steps, *where, "--device", a.device, "--threads", str(a.threads)]
    checkpoint = a.out / "language-closer.pt"
    begin = [] if checkpoint.exists() else [["shrink", *where]]
    trained = ["language", "closer", *run]
    return [*begin, trained, ["export", "closer", "--checkpoint", str(checkpoint)]]


def _side_by_side(chains: list[list[list[str]]]) -> None:
    failed: list[str] = []

    def run(chain: list[list[str]]) -> None:
        for module, *arguments in chain:
            command = [sys.executable, "-m", f"training.{module}", *arguments]
            if subprocess.run(command, check=False).returncode != 0:  # noqa: S603  # our own
                failed.append(" ".join(command))
                return

    threads = [threading.Thread(target=run, args=(chain,)) for chain in chains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit(
            "stopped: " + "; ".join(failed) + "\nrun the same command again to go on from there"
        )


if __name__ == "__main__":
    main()
