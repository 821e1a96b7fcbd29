"""Sight is what the vision tower makes of pictures: features for the language model to read.

It refuses to know prompts. It is used by one thread, the one that owns the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from speceyes.engines.patches import Patches
from speceyes.engines.shelf import Shelf


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Hold one picture's features, M tokens of width C; `deep` are those for the first layers."""

    tokens: torch.Tensor  # (M, C)
    deep: tuple[torch.Tensor, ...]  # each (M, C); Qwen3-VL only

    @property
    def nbytes(self) -> int:
        """What they take in memory."""
        return sum(int(t.nbytes) for t in (self.tokens, *self.deep))

    def after(self, skipped: int) -> Features:
        """Leave out the first so many tokens."""
        return Features(self.tokens[skipped:], tuple(layer[skipped:] for layer in self.deep))


class VisionTower:
    """See pictures with a model's vision tower, each distinct one once, and keep recent features.

    A picture's features depend on nothing but the picture: attention does not cross pictures.
    """

    def __init__(self, model: Any, *, limit_bytes: int) -> None:
        self._model = model
        self._shelf: Shelf[Features] = Shelf(limit_bytes)
        self.pictures_seen = 0

    def see(self, pictures: Iterable[Patches]) -> dict[str, Features]:
        """Give each picture's features, by digest."""
        seen: dict[str, Features] = {}
        unseen: dict[str, Patches] = {}
        for patches in pictures:
            kept = self._shelf.get(patches.digest)
            if kept is not None:
                seen[patches.digest] = kept
            else:
                unseen[patches.digest] = patches
        if unseen:
            seen |= self._look(unseen)
        return seen

    def forget(self) -> None:
        """Let go of all features kept."""
        self._shelf.clear()

    def _look(self, unseen: dict[str, Patches]) -> dict[str, Features]:
        device = self._model.device
        out = self._model.get_image_features(
            torch.cat([p.pixels for p in unseen.values()]).to(device),
            torch.tensor([p.grid for p in unseen.values()], device=device),
            return_dict=True,
        )
        counts = [p.token_count for p in unseen.values()]
        by_layer = [_per_picture(d, counts) for d in getattr(out, "deepstack_features", None) or ()]
        found = {}
        for number, (digest, tokens) in enumerate(zip(unseen, out.pooler_output, strict=True)):
            # Copies, because the parts of a joint tensor would keep all of it alive.
            deep = tuple(layer[number].clone() for layer in by_layer)
            found[digest] = Features(tokens.clone(), deep)
            self._shelf.put(digest, found[digest], size_bytes=found[digest].nbytes)
        self.pictures_seen += len(found)
        return found


def _per_picture(features: Any, counts: list[int]) -> Any:
    # transformers gives the joint tensor up to 5.22, one tensor per picture from 5.23 on.
    return features.split(counts) if isinstance(features, torch.Tensor) else features
