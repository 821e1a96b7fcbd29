"""A run in a process of its own, to be killed: `python -m tests.killable FOLDER [ITEMS]`.

Engines are scripted and a little slow, so that there is time to be killed in. It says `begun` when
the first record may come.
"""

import sys
from functools import partial
from pathlib import Path

import anyio

from speceyes.bench.folder import open_folder
from tests.scripted_pair import METHODS, ListSuite, Quiet, ScriptedPair, keep, manifest, tiny_items

CONCURRENCY = 3


class Telling(Quiet):
    """A watcher that says when it begins in earnest."""

    def begins(self, stage, items, *, done=0):
        super().begins(stage, items, done=done)
        if stage == "answering":
            print("begun", flush=True)


def main():
    items = tiny_items(int(sys.argv[2]) if len(sys.argv) > 2 else 40)
    asked = manifest(ListSuite(items), concurrency=CONCURRENCY)
    pair = ScriptedPair(items, pace=0.01)
    with open_folder(Path(sys.argv[1]), asked) as folder:
        work = partial(
            keep,
            folder,
            items,
            methods=METHODS,
            concurrency=CONCURRENCY,
            pair=pair,
            watcher=Telling(),
            warm_up=[],
        )
        anyio.run(work)


if __name__ == "__main__":
    main()
