"""Under which name lmms-eval finds its model of speceyes: what its entry point says.

It stands apart, as lmms-eval reads it while it is being imported itself.
"""

from __future__ import annotations

from typing import Final

from lmms_eval.models.registry_v2 import ModelManifest

MANIFEST: Final = ModelManifest("speceyes", simple_class_path="lmms_eval_speceyes.SpecEyesModel")
