"""A backend of matplotlib for which showing a figure means handing its pixels on.

It refuses to know who takes them. matplotlib finds it by the environment variable MPLBACKEND.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas

if TYPE_CHECKING:
    from PIL import Image as Pillow

    PillowImage: TypeAlias = Pillow.Image

listener: Callable[[PillowImage], None] | None = None


def show(*_: Any, **__: Any) -> None:
    """Hand on all open figures, and close them, as a notebook does."""
    import matplotlib.pyplot as plt

    for number in plt.get_fignums():
        image = drawn(plt.figure(number))
        if image is not None and listener is not None:
            listener(image)
    plt.close("all")


def drawn(thing: Any) -> PillowImage | None:
    """Draw a figure; None if it is none."""
    from matplotlib.figure import Figure
    from PIL import Image as Pillow

    if not isinstance(thing, Figure):
        return None
    canvas = FigureCanvas(thing)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Pillow.fromarray(pixels).convert("RGB")
