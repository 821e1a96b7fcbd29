"""What a run says about where it was made."""

import re
import subprocess
import sys
from types import SimpleNamespace

import speceyes
from speceyes.bench import machine


def test_the_machine_is_described():
    made = machine.read_machine()
    assert made.cores >= 1
    assert made.processor
    assert made.system.split()[0] in {"Linux", "Darwin", "Windows"}


def test_threads_are_those_of_torch_and_torch_is_not_loaded_for_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert machine.read_machine().threads is None
    assert "torch" not in sys.modules
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 1, get_device_name=lambda _: "H9"
    )
    torch = SimpleNamespace(get_num_threads=lambda: 3, cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", torch)
    found = machine.read_machine()
    assert (found.threads, found.accelerators) == (3, ("H9",))


def test_versions_name_what_figures_depend_on():
    versions = machine.read_versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["speceyes"] == speceyes.__version__
    assert "numpy" in versions


def test_a_commit_is_a_hash_with_a_mark_for_changes():
    commit = machine.read_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}\+?", commit)


def test_without_git_the_commit_is_not_known(monkeypatch, tmp_path):
    def absent(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "a" / "b" / "c" / "machine.py"))
    (tmp_path / ".git").mkdir()
    assert machine.read_commit() is None


def test_an_installed_package_knows_its_commit_from_pips_note(monkeypatch, tmp_path):
    note = '{"url": "x", "vcs_info": {"vcs": "git", "commit_id": "0123abcd"}}'
    installed = SimpleNamespace(read_text=lambda _: note)
    monkeypatch.setattr(machine.metadata, "distribution", lambda _: installed)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "a" / "b" / "c" / "machine.py"))
    assert machine.read_commit() == "0123abcd"
