"""Programs that try to get out of the sandbox, or to take more than their share: one way each.

A program that finds itself out says ESCAPED. What it cannot see itself is watched from outside: a
secret that must not come back, a file that must not appear, listeners that must hear nothing,
signals that must not come. `ends` is what must be told of it, so that none passes by not running.
@NAMES@ are filled in with what there is outside; a call is a system call by its name.
"""

# ruff: noqa: E501 - programs are strings, some of one line

from __future__ import annotations

import textwrap
from dataclasses import dataclass

PRELUDE = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    done = libc.syscall(number, *arguments)
    print(done, errno.errorcode.get(ctypes.get_errno(), "no error"))
    return done
def attempt(what, *arguments, **more):
    try:
        got = what(*arguments, **more)
    except OSError as error:
        print(type(error).__name__, errno.errorcode.get(error.errno, error))
        return None
    print("ESCAPED")
    return got
"""
OUT = "/mnt/data/temp_processed_images"
DENIED = "EPERM"
ABSENT = "ENOENT"
UNKNOWN = "ENOSYS"
TOO_LONG = "interrupted after|was ended after"


@dataclass(frozen=True)
class Program:
    """One way out, tried. `bare`: harmless enough to see it succeed where there are no walls."""

    name: str
    code: str
    ends: str
    bare: bool = False


def program(name, code, ends, **more):
    return Program(name, PRELUDE + textwrap.dedent(code), ends, **more)


def refused_call(name, arguments="0, 0, 0, 0, 0", ends=DENIED, call=None):
    """A system call that must not be made."""
    tried = f"if call(@CALL:{call or name}@, {arguments}) >= 0: print('ESCAPED')"
    return program(f"the system call {name}", tried, ends)


READING = (
    program(
        "reads a file of the host", "print(attempt(open, '@SECRET@').read())", ABSENT, bare=True
    ),
    program("reads the list of users", "attempt(open, '/etc/passwd')", ABSENT, bare=True),
    program("reads the passwords", "attempt(open, '/etc/shadow')", ABSENT),
    program(
        "looks for the secret everywhere",
        """
        found = []
        for at, folders, names in os.walk("/"):
            folders[:] = [name for name in folders if "lib" not in name]
            found += [os.path.join(at, name) for name in names if name == "canary.txt"]
        print("ESCAPED" if found else "none", found)
        """,
        "none",
    ),
    program("lists homes", "attempt(os.listdir, '/home')", ABSENT, bare=True),
    program(
        "finds nothing but an interpreter where root lives",
        """
        seen = []
        for at, folders, names in os.walk("/root"):
            folders[:] = [name for name in folders if name != "lib"]
            seen += [os.path.join(at, name) for name in names]
        print("ESCAPED" if set(seen) - {sys.executable} else "none", seen)
        """,
        "none",
    ),
    program(
        "reads the secret through a symbolic link",
        f"""
        os.symlink("@SECRET@", "{OUT}/link.txt")
        print(attempt(open, "{OUT}/link.txt").read())
        """,
        ABSENT,
    ),
    program(
        "has a host's picture shown by a symbolic link",
        f"""
        os.symlink("@SECRET_PICTURE@", "{OUT}/link.png")
        print("{OUT}/link.png")
        """,
        "link.png",
    ),
    program("has a host's picture shown by its path", "print('@SECRET_PICTURE@')", "png"),
    program(
        "has a host's picture shown by a path that climbs",
        f"print('{OUT}/../../..@SECRET_PICTURE@')",
        "png",
    ),
    program(
        "has a host's picture shown through a linked folder",
        f"""
        os.symlink(os.path.dirname("@SECRET_PICTURE@"), "{OUT}/folder")
        print("{OUT}/folder/" + os.path.basename("@SECRET_PICTURE@"))
        """,
        "png",
    ),
    program(
        "makes a hard link to the secret",
        f"attempt(os.link, '@SECRET@', '{OUT}/hard')",
        ABSENT,
    ),
    program("reads the environment", "print(sorted(os.environ), os.environ.get('CANARY'))", "HOME"),
    program(
        "reads the environment of its process as the kernel has it",
        "print(attempt(open, '/proc/self/environ').read())",
        ABSENT,
        bare=True,
    ),
    program(
        "reads the environment of the process outside",
        "print(attempt(open, '/proc/@PARENT@/environ').read())",
        ABSENT,
        bare=True,
    ),
    program("goes by /proc/self/root", "attempt(os.listdir, '/proc/self/root')", ABSENT, bare=True),
    program("goes by /proc/1/root", "attempt(os.listdir, '/proc/1/root')", ABSENT),
    program("goes by /proc/self/fd", "attempt(os.listdir, '/proc/self/fd')", ABSENT, bare=True),
    program("writes into its own memory file", "attempt(open, '/proc/self/mem', 'r+b')", ABSENT),
    program("reads the kernel's memory", "attempt(open, '/proc/kcore', 'rb')", ABSENT),
    program("reads the machine's memory", "attempt(open, '/dev/mem', 'rb')", ABSENT),
    program("looks at the machine's devices", "attempt(os.listdir, '/sys')", ABSENT, bare=True),
    program(
        "finds no device but three",
        "print('ESCAPED' if set(os.listdir('/dev')) - {'null', 'zero', 'urandom'} else 'none')",
        "none",
    ),
    program(
        "reads files left open by whom it comes from",
        """
        import stat
        for number in range(3, 1024):
            try:
                kind = os.fstat(number).st_mode
            except OSError:
                continue
            if stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISBLK(kind):
                print("ESCAPED", number)
        print("looked")
        """,
        "looked",
    ),
    program(
        "climbs out by ..",
        """
        for _ in range(64):
            os.chdir("..")
        print("ESCAPED" if os.path.exists("etc/passwd") else "none", os.getcwd())
        """,
        "none /",
    ),
    program("changes its root", "attempt(os.chroot, '/mnt')", DENIED),
    program(
        "imports a module of the host",
        """
        sys.path.insert(0, os.path.dirname("@SECRET@"))
        try:
            import canary_module
            print("ESCAPED")
        except ModuleNotFoundError as error:
            print("ModuleNotFoundError", error)
        """,
        "ModuleNotFoundError",
        bare=True,
    ),
    program(
        "loads a library that it wrote itself",
        f"""
        import shutil
        import _ctypes
        shutil.copy(_ctypes.__file__, "{OUT}/own.so")
        attempt(ctypes.CDLL, "{OUT}/own.so")
        """,
        "OSError",
    ),
)

WRITING = (
    program(
        "writes a file of the host", "attempt(open, '@TARGET@', 'w').write('x')", ABSENT, bare=True
    ),
    program("writes into the root folder", "attempt(open, '/x', 'w')", "EROFS|EACCES"),
    program("writes among the mounts", "attempt(open, '/mnt/data/x', 'w')", "EROFS|EACCES"),
    program(
        "changes a library",
        "import numpy; attempt(open, numpy.__file__, 'a')",
        "EROFS|EACCES",
    ),
    program("changes the standard library", "attempt(open, os.__file__, 'a')", "EROFS|EACCES"),
    program("changes the interpreter", "attempt(open, sys.executable, 'ab')", "EROFS|EACCES"),
    program(
        "changes what runs it", "attempt(open, '/cell/speceyes/__init__.py', 'a')", "EROFS|EACCES"
    ),
    program("changes the picture", "attempt(open, '@PICTURE@', 'r+b')", "EROFS|EACCES"),
    program("removes the picture", "attempt(os.unlink, '@PICTURE@')", "EROFS|EACCES"),
    program(
        "moves another file over the picture",
        "open('y', 'w'); attempt(os.rename, 'y', '@PICTURE@')",
        "EROFS|EXDEV|EACCES",
    ),
    program(
        "makes a device",
        f"attempt(os.mknod, '{OUT}/sda', 0o60666, os.makedev(8, 0))",
        "EPERM|EACCES",
    ),
    program(
        "makes a program that runs as its owner",
        f"""
        open("{OUT}/p", "w").write("#!/bin/sh")
        os.chmod("{OUT}/p", 0o4755)
        attempt(os.execv, "{OUT}/p", ["p"])
        """,
        DENIED,
    ),
)

NETWORK = (
    program(
        "connects by TCP",
        """
        import socket
        attempt(socket.create_connection, ("127.0.0.1", @PORT@), timeout=2)
        """,
        DENIED,
        bare=True,
    ),
    program(
        "connects by TCP over IPv6",
        """
        import socket
        attempt(lambda: socket.socket(socket.AF_INET6).connect(("::1", @PORT@)))
        """,
        DENIED,
    ),
    program(
        "sends a datagram",
        """
        import socket
        attempt(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", @PORT@)))
        """,
        DENIED,
        bare=True,
    ),
    program(
        "connects to a socket of the file system",
        "import socket; attempt(lambda: socket.socket(socket.AF_UNIX).connect('@SOCKET@'))",
        DENIED,
        bare=True,
    ),
    program(
        "connects to an abstract socket",
        "import socket; attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0@ABSTRACT@'))",
        DENIED,
        bare=True,
    ),
    program(
        "opens a socket of any family and kind",
        """
        import socket
        for family in range(64):
            for kind in (1, 2, 3, 4, 5, 10):
                try:
                    socket.socket(family, kind)
                    print("ESCAPED", family, kind)
                except OSError:
                    pass
        print("tried")
        """,
        "tried",
        bare=True,
    ),
    program(
        "makes a pair of sockets", "import socket; attempt(socket.socketpair)", DENIED, bare=True
    ),
    program(
        "asks for a name",
        "import socket; attempt(socket.getaddrinfo, 'localhost.example', 80)",
        "gaierror",
    ),
    program(
        "fetches a page",
        """
        import urllib.request
        attempt(urllib.request.urlopen, "http://127.0.0.1:@PORT@/", timeout=2)
        """,
        "URLError",
    ),
    program(
        "passes descriptors over its own stream",
        """
        import socket
        for number in range(3, 64):
            try:
                name = os.readlink(f"/proc/self/fd/{number}")
            except OSError:
                name = ""
            done = libc.sendmsg(number, ctypes.create_string_buffer(56), 0)
            if done >= 0:
                print("ESCAPED", name)
        print("tried")
        """,
        "tried",
    ),
    refused_call("io_uring_setup"),
)

PROCESSES = (
    program("forks", "attempt(os.fork)", DENIED),
    program(
        "forks twice to outlive its parent",
        """
        import time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        """,
        "PermissionError",
    ),
    program("is a fork bomb", "while True:\n    os.fork()", "PermissionError"),
    program(
        "runs a shell", "print('ESCAPED' if os.system('true') == 0 else 'none')", "none", bare=True
    ),
    program(
        "runs a program",
        "import subprocess; attempt(subprocess.run, ['/usr/lib/ld-linux.so', 'x'])",
        DENIED,
    ),
    program(
        "becomes another program",
        "attempt(os.execv, sys.executable, [sys.executable, '-c', ''])",
        DENIED,
    ),
    program(
        "spawns its interpreter",
        "attempt(os.posix_spawn, sys.executable, [sys.executable, '-c', ''], {})",
        DENIED,
        bare=True,
    ),
    program(
        "works in several processes",
        "import concurrent.futures as f\nlist(f.ProcessPoolExecutor(2).map(abs, [1]))",
        "Error",
    ),
    program("signals all it can reach", "attempt(os.kill, -1, 15)", DENIED),
    program("kills the process outside", "attempt(os.kill, @PARENT@, 10)", DENIED),
    program("kills the first process inside", "attempt(os.kill, 1, 9)", DENIED),
    program(
        "signals a thread outside", "call(@CALL:tgkill@, @PARENT@, @PARENT@, 10)", "ESRCH|EPERM"
    ),
    program("signals its group", "attempt(os.killpg, 0, 10)", DENIED),
    program(
        "queues a signal",
        "call(@CALL:rt_sigqueueinfo@, @PARENT@, 10, ctypes.create_string_buffer(128))",
        DENIED,
    ),
    program("holds the process outside", "attempt(os.pidfd_open, @PARENT@)", DENIED, bare=True),
    refused_call("ptrace", "16, 1, 0, 0"),
    refused_call("process_vm_readv", "1, 0, 0, 0, 0, 0"),
    refused_call("process_vm_writev", "1, 0, 0, 0, 0, 0"),
    refused_call("kcmp", "1, 2, 0, 0, 0"),
)

KERNEL = (
    program(
        "makes a user namespace",
        "if call(@CALL:unshare@, 0x10000000) >= 0: print('ESCAPED')",
        DENIED,
    ),
    refused_call("unshare of mounts", "0x00020000", call="unshare"),
    refused_call("setns", "0, 0"),
    refused_call("clone into namespaces", "0x10000000 | 17, 0, 0, 0, 0", call="clone"),
    refused_call("clone of a thread into namespaces", "0x10010f00, 0, 0, 0, 0", call="clone"),
    program(
        "the system call clone3",
        "if call(435, ctypes.create_string_buffer(88), 88) >= 0: print('ESCAPED')",
        UNKNOWN,
    ),
    refused_call("mount", "b'x', b'/tmp', b'tmpfs', 0, 0"),
    refused_call("umount2", "b'/mnt/data/user_images', 2"),
    program(
        "makes the pictures writable again",
        "if libc.mount(None, b'/mnt/data/user_images', None, 32, None) == 0: print('ESCAPED')\nprint('tried')",
        "tried",
    ),
    refused_call("pivot_root", "b'/mnt', b'/mnt'"),
    refused_call("fsopen", "b'tmpfs', 0"),
    refused_call("open_tree", "-100, b'/', 1"),
    refused_call("open_by_handle_at", "-100, 0, 0"),
    program("becomes root", "attempt(os.setuid, 0)", DENIED),
    program("becomes somebody else", "attempt(os.setresuid, 1, 1, 1)", DENIED),
    refused_call("capset", "ctypes.create_string_buffer(8), ctypes.create_string_buffer(24)"),
    program(
        "has a right left",
        """
        header = ctypes.create_string_buffer(b"\\x22\\x05\\x08\\x20" [::-1] + bytes(4), 8)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        rights = (ctypes.c_uint32 * 6)()
        call(@CALL:capget@, header, rights)
        print("ESCAPED" if any(rights) else "none", list(rights))
        """,
        "none",
    ),
    program(
        "lets itself gain rights again",
        "if libc.prctl(38, 0, 0, 0, 0) == 0 or libc.prctl(4, 1, 0, 0, 0) == 0: print('ESCAPED')\nprint('tried')",
        "tried",
    ),
    program(
        "raises its limits",
        """
        import resource
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC):
            for bound in ((-1, -1), (1, resource.getrlimit(kind)[1])):
                try:
                    resource.setrlimit(kind, bound)
                    print("ESCAPED")
                except (OSError, ValueError) as error:
                    print(error)
        """,
        "not permitted|not allowed",
    ),
    refused_call("seccomp", "1, 0, 0"),
    refused_call("keyctl", "0, -3, 0, 0, 0"),
    refused_call("add_key", "b'user', b'x', b'x', 1, -2"),
    refused_call("bpf", "0, 0, 0"),
    refused_call("perf_event_open", "0, 0, -1, -1, 0"),
    refused_call("userfaultfd", "1"),
    refused_call("memfd_create", "b'x', 0"),
    refused_call("init_module", "0, 0, b''"),
    refused_call("kexec_load", "0, 0, 0, 0"),
    refused_call("reboot", "0xfee1dead, 672274793, 0, 0"),
    refused_call("sethostname", "b'x', 1"),
    refused_call("settimeofday", "0, 0"),
    refused_call("personality", "0x0040000"),
    refused_call("shmget", "0, 4096, 0o1600"),
    refused_call("mq_open", "b'x', 0o100, 0o600, 0"),
    refused_call("fanotify_init", "0, 0"),
    refused_call("quotactl", "0, 0, 0, 0"),
    program(
        "types into its terminal",
        "import fcntl; attempt(fcntl.ioctl, 0, 0x5412, b'x')",
        "ENOTTY",
    ),
    program(
        "takes the other table of calls",
        "if os.uname().machine != 'x86_64': os._exit(1)\ncall(0x40000000 | @CALL:getpid@)",
        "has ended",
    ),
)

BOMBS = (
    program(
        "is a memory bomb",
        "held = []\nwhile True:\n    held.append(bytearray(1 << 24))",
        f"MemoryError|{TOO_LONG}",
    ),
    program(
        "asks for more memory than there is", "import numpy as np\nnp.ones(1 << 42)", "MemoryError"
    ),
    program(
        "is a bomb of mapped memory",
        "import mmap\nheld = []\nwhile True:\n    held.append(mmap.mmap(-1, 1 << 26))",
        "ENOMEM|Cannot allocate|MemoryError",
    ),
    program(
        "fills its folder",
        "for n in range(1 << 20):\n    with open(f'f{n}', 'wb') as file: file.write(bytes(1 << 24))",
        "No space left|ENOSPC",
    ),
    program(
        "fills the folder for temporary files",
        "for n in range(1 << 20):\n    with open(f'/tmp/f{n}', 'wb') as file: file.write(bytes(1 << 24))",
        "No space left|ENOSPC",
    ),
    program(
        "makes files without end",
        "for n in range(1 << 30):\n    open(f'f{n}', 'wb').close()",
        "No space left|ENOSPC",
    ),
    program(
        "writes one file without end",
        "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nwith open('f', 'wb') as f:\n    while True: f.write(bytes(1 << 22))",
        "File too large|EFBIG",
    ),
    program(
        "opens files without end",
        "held = []\nwhile True:\n    held.append(open('/dev/null'))",
        "Too many open|EMFILE",
    ),
    program(
        "starts threads without end",
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "can't start new thread",
    ),
    program("prints without end", "while True:\n    print('x' * 1000)", TOO_LONG),
    program("prints one endless line", "print('x' * (1 << 28))", "characters more"),
    program(
        "floods its standard output past Python",
        "while True:\n    os.write(1, bytes(1 << 16))",
        TOO_LONG,
    ),
    program("sleeps without end", "import time\nwhile True:\n    time.sleep(600)", TOO_LONG),
    program("loops without end", "while True:\n    pass", TOO_LONG),
    program(
        "ignores every signal and loops",
        """
        import signal
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            pass
        """,
        "was ended after",
    ),
    program(
        "blocks every signal and sleeps",
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntime.sleep(600)",
        "was ended after",
    ),
    program(
        "swallows its interruption",
        "import time\nwhile True:\n    try: time.sleep(0.1)\n    except BaseException: pass",
        "was ended after",
    ),
    program("hangs in C", "import re\nre.match('(a+)+$', 'a' * 64 + 'b')", TOO_LONG),
    program(
        "counts without end",
        "pow(3, 10 ** 9)",
        TOO_LONG,
    ),
    program(
        "burns more processors than one",
        """
        import hashlib, threading
        def burn():
            while True: hashlib.pbkdf2_hmac("sha256", b"x", b"y", 1 << 22)
        for _ in range(4):
            threading.Thread(target=burn, daemon=True).start()
        burn()
        """,
        TOO_LONG,
    ),
    program(
        "recurses without end",
        "def f(): f()\nsys.setrecursionlimit(1 << 30)\nf()",
        f"has ended|RecursionError|MemoryError|{TOO_LONG}",
    ),
    program("breaks its memory", "ctypes.string_at(0)", "has ended"),
    program("ends its process", "os._exit(0)", "has ended"),
    program("leaves a dump of its memory", "os.abort()", "has ended"),
    program(
        "leaves a thread that goes on",
        "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()\nprint('begun')",
        "begun",
    ),
)

RESULTS = (
    program(
        "shows a picture that is a decompression bomb",
        """
        import struct, zlib
        def chunk(kind, data):
            body = kind + data
            return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
        side = 60000
        data = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        data += chunk(b"IDAT", zlib.compress(bytes(1 << 24))) + chunk(b"IEND", b"")
        open("bomb.png", "wb").write(b"\\x89PNG\\r\\n\\x1a\\n" + data)
        print(os.path.abspath("bomb.png"))
        """,
        "no image that can be read|above",
    ),
    program(
        "shows a picture of too many pixels",
        "from PIL import Image\nImage.new('L', (9000, 9000)).save('big.png')\nprint(os.path.abspath('big.png'))",
        "it is above .* pixels",
    ),
    program(
        "shows a thin picture",
        "from PIL import Image\nImage.new('L', (5000, 2)).save('thin.png')\nprint(os.path.abspath('thin.png'))",
        "cannot be shown",
    ),
    program(
        "shows pictures without end",
        "from PIL import Image\nfor n in range(100):\n    Image.new('L', (9, 9)).save(f'{n}.png')\n    print(os.path.abspath(f'{n}.png'))",
        "no more than",
    ),
    program(
        "shows a picture that ends early",
        "from PIL import Image\nImage.effect_noise((300, 300), 90).save('cut.png')\nos.truncate('cut.png', 9000)\nprint(os.path.abspath('cut.png'))",
        "no image that can be read",
    ),
    program(
        "shows a program of a printer as a picture",
        "open('page.png', 'w').write('%!PS-Adobe-3.0 EPSF-3.0\\n%%BoundingBox: 0 0 9 9\\n(x) run')\nprint(os.path.abspath('page.png'))",
        "no image that can be read",
    ),
    program(
        "shows a folder as a picture",
        "os.mkdir('d.png')\nprint(os.path.abspath('d.png'))",
        "no file",
    ),
    program(
        "shows a pipe as a picture",
        "attempt(os.mkfifo, 'p.png')\nprint(os.path.abspath('p.png'))",
        "EPERM|EACCES",
    ),
    program(
        "shows a device as a picture",
        "os.symlink('/dev/zero', 'z.png')\nprint(os.path.abspath('z.png'))",
        "z.png",
    ),
    program(
        "answers with a pickle",
        """
        import pickle, struct
        class Evil:
            def __reduce__(self):
                return (os.system, ("touch @TARGET@",))
        data = pickle.dumps(Evil())
        for number in range(3, 64):
            try: os.write(number, struct.pack(">II", len(data), 0) + data)
            except OSError: pass
        """,
        "broke what runs it",
    ),
    program(
        "answers with a length beyond all bounds",
        "for number in range(3, 64):\n    try: os.write(number, b'\\xff' * 8)\n    except OSError: pass",
        "broke what runs it",
    ),
    program(
        "answers with nothing but noise",
        "for number in range(3, 64):\n    try: os.write(number, os.urandom(4096))\n    except OSError: pass",
        "broke what runs it",
    ),
    program(
        "answers with nested JSON without end",
        """
        import struct
        head = b"[" * 60000
        for number in range(3, 64):
            try: os.write(number, struct.pack(">II", len(head), 0) + head)
            except OSError: pass
        """,
        "broke what runs it",
    ),
    program(
        "answers with a picture larger than its pixels",
        """
        import json, struct
        head = json.dumps({"text": 0, "error": None, "pictures": [[4000, 4000]], "repairs": []}).encode()
        for number in range(3, 64):
            try: os.write(number, struct.pack(">II", len(head), 3) + head + b"abc")
            except OSError: pass
        """,
        "broke what runs it",
    ),
    program(
        "promises an answer that never comes",
        """
        import struct, time
        for number in range(3, 64):
            try: os.write(number, struct.pack(">II", 60000, 0) + b"{")
            except OSError: pass
        while True:
            try: time.sleep(600)
            except BaseException: pass
        """,
        "was ended after",
    ),
    program(
        "raises what cannot be told",
        "class Evil(Exception):\n    def __str__(self): raise SystemExit\nraise Evil",
        "Evil",
    ),
    program(
        "raises what tells itself without end",
        "class Evil(Exception):\n    def __str__(self): return 'x' * (1 << 27)\nraise Evil",
        f"Evil|MemoryError|xxx|{TOO_LONG}",
    ),
    program(
        "spoils what runs it",
        "import json, signal, builtins, io\njson.dumps = os.write = None\nbuiltins.len = None",
        "has ended|broke",
    ),
    program(
        "closes all that is open",
        "os.closerange(0, 64)",
        "has ended",
    ),
)

PROGRAMS = (*READING, *WRITING, *NETWORK, *PROCESSES, *KERNEL, *BOMBS, *RESULTS)
