"""Processes for code are started here: behind walls, or bare where a caller insists.

It refuses to know what they will be asked.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from speceyes.notebook import OUTPUT_FOLDER, Notebook
from speceyes.tools.host import find_layout, id_to_become, library_folders, package_root
from speceyes.tools.host import map_ids as map_only
from speceyes.tools.inside.plan import Plan
from speceyes.tools.limits import SandboxLimits
from speceyes.tools.process import Launch
from speceyes.tools.sandbox import TEMPORARY, Channels, Layout, command_line, environment
from speceyes.tools.sandbox import interpreter as interpreter_line
from speceyes.tools.seccomp import build_filter

_INTERRUPTED_AT: Final = 0.95  # of the time for a block: so late its variables can still be kept


class Launcher(Protocol):
    """Start processes of one kind; those with `walls` must say that they locked themselves up."""

    @property
    def walls(self) -> bool: ...

    def launch(self) -> Launch:
        """Start one, and do not wait for it."""
        ...

    def map_ids(self, child: int) -> None:
        """Settle who the first process inside may be."""
        ...

    def moved(self, launch: Launch) -> Mapping[str, str]:
        """Say which of the folders that code knows lie elsewhere, and where."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WalledLauncher:
    """Start processes behind walls."""

    layout: Layout
    plan: Plan
    walls: bool = True

    def launch(self) -> Launch:
        """Start bubblewrap."""
        plan = self.plan
        with ExitStack() as ours, ExitStack() as theirs:
            info, info_end = _pipe(ours, theirs)
            go_end, go_ahead = (None, None) if plan.become_id is None else _pipe(theirs, ours)
            words = command_line(
                self.layout,
                Channels(info=info_end, go_ahead=go_end),
                plan=plan.to_json(),
                folders=(plan.output_folder, plan.picture_folder, TEMPORARY),
                env=environment(collects_figures=plan.collects != "printed"),
            )
            kept = (info_end,) if go_end is None else (info_end, go_end)
            begun = _start(words, {}, kept, ours=ours)
            ours.pop_all()
        return replace(begun, info=info, go_ahead=go_ahead)

    def map_ids(self, child: int) -> None:
        """Where root started it, let it become nobody."""
        if self.plan.become_id is not None:
            map_only(child, self.plan.become_id)

    def moved(self, launch: Launch) -> Mapping[str, str]:  # noqa: ARG002
        """Give none: inside, every folder lies where code knows it."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class BareLauncher:
    """Start processes that only their own resource limits hold, each with a folder on disk."""

    plan: Plan
    walls: bool = False

    def launch(self) -> Launch:
        """Start an interpreter."""
        with ExitStack() as ours:
            folder = tempfile.mkdtemp(prefix="speceyes-python-")
            ours.callback(shutil.rmtree, folder, ignore_errors=True)
            output, pictures = (_under(folder, path) for path in self._folders())
            plan = replace(self.plan, output_folder=output, picture_folder=pictures)
            for made in (plan.output_folder, plan.picture_folder):
                Path(made).mkdir(parents=True)
            words = interpreter_line(
                sys.executable, (package_root(), *library_folders()), plan.to_json()
            )
            env = environment(collects_figures=plan.collects != "printed", home=folder)
            begun = _start(words, env, (), ours=ours)
            ours.pop_all()
        return replace(begun, folder=folder)

    def map_ids(self, child: int) -> None:
        """Do nothing: it is who started it."""

    def moved(self, launch: Launch) -> Mapping[str, str]:
        """Say where in the process's own folder its folders lie."""
        return {path: _under(str(launch.folder), path) for path in self._folders()}

    def _folders(self) -> tuple[str, str]:
        return self.plan.output_folder, self.plan.picture_folder


def choose_launcher(notebook: Notebook, limits: SandboxLimits, *, unsafe: bool) -> Launcher:
    """Make the launcher for one kind of notebook. Raises: ConfigError where there are no walls."""
    plan = Plan(
        walls=not unsafe,
        become_id=None if unsafe else id_to_become(),
        seccomp="" if unsafe else build_filter(platform.machine()).hex(),
        output_folder=OUTPUT_FOLDER,
        picture_folder=str(PurePosixPath(notebook.picture_path).parent),
        collects=notebook.collects,
        interrupt_s=_INTERRUPTED_AT * limits.block_s,
        cpu_s=limits.cpu_s,
        memory_bytes=limits.memory_bytes,
        output_bytes=limits.output_bytes,
        file_bytes=limits.file_bytes,
        files=limits.files,
        open_files=limits.open_files,
        threads=limits.threads,
        text_chars=limits.text_chars,
        pictures=limits.pictures,
        picture_px=limits.picture_px,
    )
    if unsafe:
        return BareLauncher(plan=plan)
    return WalledLauncher(layout=find_layout(), plan=plan)


def _start(
    words: list[str], env: Mapping[str, str], kept: tuple[int, ...], *, ours: ExitStack
) -> Launch:
    stream, stream_end = socket.socketpair()
    ours.callback(stream.close)
    with ExitStack() as theirs, stream_end:
        told, told_end = _pipe(ours, theirs)
        # From this thread: bubblewrap ends with the thread that started it.
        process = subprocess.Popen(  # noqa: S603 - our own words; the code comes later
            words,
            stdin=stream_end.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=told_end,
            env=env,
            pass_fds=kept,
            cwd="/",
            start_new_session=True,
        )
    return Launch(process=process, stream=stream, told=told)


def _pipe(readers: ExitStack, writers: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe()
    readers.callback(os.close, reader)
    writers.callback(os.close, writer)
    return reader, writer


def _under(folder: str, path: str) -> str:
    return f"{folder}/{PurePosixPath(path).name}"
