"""Why no sandbox could be started here, as a named error with its mend (pure).

It refuses to know how it was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from speceyes.errors import ConfigError

# What bubblewrap says of a system that does not let it make namespaces.
_NO_NAMESPACES: Final = (
    "No permissions to creat",  # it says both "create" and "creating"
    "Creating new namespace failed",
    "setting up uid map",
    "Operation not permitted",
    "namespaces are not",
)
_SWITCHES: Final = {
    "kernel.apparmor_restrict_unprivileged_userns": "1",
    "kernel.unprivileged_userns_clone": "0",
    "user.max_user_namespaces": "0",
}
SWITCHES: Final = tuple(_SWITCHES)
_MENDED: Final = {"1": "0", "0": "1"}
_MAX_TOLD: Final = 300


def refused(told: str, switches: Mapping[str, str]) -> ConfigError:
    """Name what bubblewrap or the process inside said; `switches` are the kernel's as they are.

    >>> print(refused("bwrap: No permissions to create new namespace", {}))
    sandbox: namespaces are refused here (bwrap: No permissions to create new namespace); allow ...
    """
    words = " ".join(told.split())[-_MAX_TOLD:] or "it said nothing"
    off = [name for name, value in _SWITCHES.items() if switches.get(name) == value]
    if off or any(mark in words for mark in _NO_NAMESPACES):
        return ConfigError("sandbox", f"namespaces are refused here ({words}); {_mend(off)}")
    return ConfigError(
        "sandbox", f"it could not be started ({words}); --unsafe-python runs code without walls"
    )


def _mend(off: list[str]) -> str:
    if not off:
        return (
            "allow unprivileged user namespaces (in a container: run it with --security-opt "
            "seccomp=unconfined), or run code without walls by --unsafe-python"
        )
    name = off[0]
    value = "15000" if name == "user.max_user_namespaces" else _MENDED[_SWITCHES[name]]
    return f"sysctl -w {name}={value}, or run code without walls by --unsafe-python"
