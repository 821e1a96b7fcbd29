"""Which tests need a sandbox: where there is none, a laptop skips them and CI does not."""

import os
import shutil

import pytest

needs_walls = pytest.mark.skipif(
    shutil.which("bwrap") is None and not os.environ.get("CI"),
    reason="bubblewrap is not installed: apt install bubblewrap",
)
