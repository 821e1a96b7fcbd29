"""The walls as a command line: what is inside, and that nothing there can be written."""

from pathlib import PurePosixPath

import pytest

from speceyes.tools.refusals import refused
from speceyes.tools.sandbox import TEMPORARY, Channels, Layout, command_line, environment

LAYOUT = Layout(
    bwrap="/usr/bin/bwrap",
    python="/home/ada/python/bin/python3.12",
    interpreter_folders=("/home/ada/python/lib", "/home/ada/python/lib/python3.12"),
    library_folders=("/home/ada/code/.venv/lib/python3.12/site-packages",),
    system_paths=("/usr/lib", "/etc/ld.so.cache"),
    links={"/lib": "usr/lib"},
    package="/home/ada/code/speceyes",
)
FOLDERS = ("/mnt/data/out", "/mnt/data/pictures", TEMPORARY)


def words(*, go_ahead=None):
    return command_line(
        LAYOUT,
        Channels(info=7, go_ahead=go_ahead),
        plan='{"plan": 1}',
        folders=FOLDERS,
        env={"HOME": "/its/own"},
    )


def after(line, flag, count=1):
    """Give what follows each appearance of a flag."""
    found = [line[at + 1 : at + 1 + count] for at, word in enumerate(line) if word == flag]
    return [tuple(each) if count > 1 else each[0] for each in found]


def test_every_namespace_is_its_own():
    names = ("user", "pid", "net", "ipc", "uts", "cgroup")  # mounts always are
    assert {f"--unshare-{name}" for name in names} <= set(words())


def test_nothing_of_the_host_is_bound_to_be_written():
    line = words()
    assert not {"--bind", "--bind-try", "--dev", "--proc", "--share-net"} & set(line)
    assert after(line, "--dev-bind", 2) == [
        (f"/dev/{name}", f"/dev/{name}") for name in ("null", "zero", "urandom")
    ]


def test_the_root_is_read_only_once_all_is_laid_out():
    line = words()
    last = max(at for at, word in enumerate(line) if word in {"--ro-bind", "--dir", "--symlink"})
    assert line.index("--remount-ro") > last
    assert after(line, "--remount-ro") == ["/"]


def test_only_what_is_needed_is_bound():
    bound = dict(after(words(), "--ro-bind", 2))
    assert set(bound) == {
        "/usr/lib",
        "/etc/ld.so.cache",
        "/home/ada/python/bin/python3.12",
        "/home/ada/python/lib",  # which holds the other one
        "/home/ada/code/.venv/lib/python3.12/site-packages",
        *(f"/home/ada/code/speceyes/{part}" for part in ("__init__.py", "tools/__init__.py")),
        "/home/ada/code/speceyes/tools/inside",
    }


def test_where_libraries_lie_on_the_host_is_not_to_be_seen_inside():
    inside = dict(map(reversed, after(words(), "--ro-bind", 2)))
    assert inside["/cell/lib0"] == LAYOUT.library_folders[0]
    assert not [path for path in inside if path.startswith("/home/ada/work")]


def test_folders_on_the_way_are_made_before_what_lies_in_them():
    line = words()
    for path in (path for _, path in after(line, "--ro-bind", 2)):
        for parent in PurePosixPath(path).parents[:-1]:
            made = line.index(str(parent))
            assert line[made - 1] == "--dir"
            assert made < line.index(path)


def test_the_environment_is_cleared_and_its_threads_are_few():
    line = words()
    assert "--clearenv" in line
    assert after(line, "--setenv", 2) == [("HOME", "/its/own")]
    assert environment(collects_figures=False)["OPENBLAS_NUM_THREADS"] == "1"


def test_it_dies_with_whom_it_comes_from_and_has_no_terminal():
    assert {"--die-with-parent", "--new-session"} <= set(words())


@pytest.mark.parametrize("go_ahead", [None, 9], ids=["a user", "root"])
def test_rights_are_dropped_but_those_to_lock_oneself_up(go_ahead):
    line = words(go_ahead=go_ahead)
    assert after(line, "--cap-drop") == ["ALL"]
    of_root = [] if go_ahead is None else ["CAP_SETUID", "CAP_SETGID"]
    assert after(line, "--cap-add") == ["CAP_SYS_ADMIN", *of_root]
    assert after(line, "--userns-block-fd") == ([] if go_ahead is None else ["9"])


def test_the_interpreter_takes_nothing_from_the_callers_settings():
    python = words()[words().index("--") + 1 :]
    assert python[:6] == [LAYOUT.python, "-I", "-S", "-B", "-X", "utf8"]
    assert python[-1] == '{"plan": 1}'


@pytest.mark.parametrize(
    ("switch", "value", "mend"),
    [
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_",
        ),
        ("kernel.unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user.max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    ],
)
def test_a_refusal_names_the_switch_that_makes_it(switch, value, mend):
    told = str(refused("bwrap: setting up uid map: Permission denied", {switch: value}))
    assert told.startswith("sandbox: namespaces are refused here (bwrap: setting up uid map")
    assert mend in told
    assert "--unsafe-python" in told


def test_a_refusal_without_a_known_switch_tells_of_containers():
    told = str(refused("bwrap: No permissions to create new namespace", {}))
    assert "--security-opt seccomp=unconfined" in told


def test_another_failure_is_told_as_it_is():
    told = str(refused("bwrap: Can't find source path /x", {}))
    assert told.startswith("sandbox: it could not be started (bwrap: Can't find source path /x)")
