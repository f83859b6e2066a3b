"""Checkpoints that try to run code or to take memory, each as bytes.

Every gadget calls something that an audit hook sees. Run this file with a list of files to read
them while such a hook watches: it stops whatever is about to happen, and tells.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

CANARY = "srmri-canary"
COMMAND = f"echo {CANARY}"


class Call:
    """Pickles as a call of any global."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def _by_name(module: str, name: str, argument: str) -> bytes:
    """A protocol-0 pickle that calls ``module.name(argument)``."""
    return f"c{module}\n{name}\n(S{argument!r}\ntR.".encode()


def gadgets() -> Iterator[tuple[str, bytes]]:
    """Pickles that run something as soon as a plain unpickler reads them."""
    absent = f"/nonexistent/{CANARY}"
    for module, name, argument in (
        ("os", "system", COMMAND),
        ("posix", "system", COMMAND),
        ("os", "popen", COMMAND),
        ("subprocess", "getoutput", COMMAND),
        ("subprocess", "call", "true"),
        ("subprocess", "run", "true"),
        ("subprocess", "check_output", "true"),
        ("subprocess", "Popen", "true"),
        ("builtins", "eval", f"print({CANARY!r})"),
        ("builtins", "exec", f"print({CANARY!r})"),
        ("builtins", "__import__", "this"),
        ("builtins", "open", absent),
        ("importlib", "import_module", "antigravity"),
        ("pty", "spawn", "true"),
        ("timeit", "timeit", f"print({CANARY!r})"),
        ("shutil", "rmtree", absent),
        ("os", "remove", absent),
        ("os", "listdir", absent),
        ("glob", "glob", absent),
        ("torch", "load", absent),
        ("numpy", "load", absent),
        ("ctypes", "CDLL", absent),
        ("socket", "gethostbyname", "localhost"),
        ("urllib.request", "urlopen", "http://localhost:9"),
        ("sqlite3", "connect", absent),
    ):
        yield f"{module}.{name}", _by_name(module, name, argument)
    yield "nested", pickle.dumps({"model": {"w": Call(eval, f"print({CANARY!r})")}})
    yield "in the moving average", pickle.dumps({"ema": {"shadow_params": [Call(exec, "x = 1")]}})
    yield "protocol 4", pickle.dumps(Call(eval, f"print({CANARY!r})"), protocol=4)
    # OBJ and INST call a class without REDUCE; STACK_GLOBAL takes its name from the stack.
    yield "inst", f"(S{COMMAND!r}\nios\nsystem\n.".encode()
    yield "obj", f"(cos\nsystem\nS{COMMAND!r}\no.".encode()
    yield "stack global", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    yield "build", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R}b."


def zipped(pickle_bytes: bytes, *, compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """Put a pickle into an archive as torch lays it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle_bytes)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
        for name, content in more.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def tricks() -> Iterator[tuple[str, bytes]]:
    """Files that carry no gadget a plain unpickler would run, but want something else."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    rebuild = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("

    def tensor(count: int, shape: int, stride: int) -> bytes:
        numbers = b"J" + struct.pack("<i", count) + b"tQK\x00"
        view = b"J" + struct.pack("<i", shape) + b"\x85J" + struct.pack("<i", stride) + b"\x85"
        return rebuild + storage + numbers + view + b"\x89)tR."

    yield "storage larger than the file", zipped(tensor(2**31 - 1, 4, 1), **{"data/0": b"\0" * 16})
    yield "view larger than its storage", zipped(tensor(4, 2**30, 0), **{"data/0": b"\0" * 16})
    yield "missing storage", zipped(tensor(4, 4, 1))
    yield "bomb", zipped(b"\x80\x02}." + b"\0" * 4_000_000, compression=zipfile.ZIP_DEFLATED)
    yield "deep recursion", zipped(b"\x80\x02" + b"(" * 200_000 + b".")
    yield "memo far away", zipped(b"\x80\x02Nr\xff\xff\xff\x7f.")
    yield "long that claims 2 GB", zipped(b"\x80\x02\x8b\xff\xff\xff\x7f.")
    yield "torchscript", zipped(b"\x80\x02}.", **{"constants.pkl": b"\x80\x02)."})
    climbing = io.BytesIO()
    with zipfile.ZipFile(climbing, "w") as archive:
        archive.writestr(f"../../{CANARY}", b"x")
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    yield "climbing name", climbing.getvalue()
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data.pkX", dict(gadgets())["os.system"])
    yield "two pickles of one name", twice.getvalue().replace(b"data.pkX", b"data.pkl")
    lying = bytearray(zipped(b"\x80\x02}."))
    at = lying.rfind(b"PK\x01\x02")
    lying[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    yield "entry that claims 4 GB", bytes(lying)


def hostile_safetensors() -> Iterator[tuple[str, bytes]]:
    """Files in the format of our own checkpoints that lie about themselves."""

    def file(header: bytes, body: bytes = b"", claimed: int | None = None) -> bytes:
        size = len(header) if claimed is None else claimed
        return struct.pack("<Q", size) + header + body

    entry = b'{"ema.w":{"dtype":"F32","shape":%s,"data_offsets":%s}}'
    yield "header of 2^63 bytes", file(b"{}", claimed=2**63)
    yield "header of 100 GB", file(b"{}", claimed=100 << 30)
    yield "header of 20 MB", file(b'{"__metadata__":{"srmri":"' + b"A" * 20_000_000 + b'"}}')
    yield "tensor of 4 TB", file(entry % (b"[1099511627776]", b"[0,4398046511104]"))
    yield "negative shape", file(entry % (b"[-1]", b"[0,4]"), b"\0" * 4)
    yield (
        "overlap",
        file(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"\0" * 4,
        ),
    )
    yield "deep json", file(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
    yield "not utf-8", file(b'{"\xff\xfe":1}')
    yield "pickle inside", file(dict(gadgets())["os.system"])
    yield "the pickle alone", dict(gadgets())["os.system"]


class Watch:
    """An audit hook that reports and prevents what reading numbers has no need of."""

    WATCHED = ("os.", "subprocess.", "shutil.", "ctypes.", "socket.", "urllib.", "pty.", "glob.")
    EXACT = ("exec", "compile", "import", "open", "sqlite3.connect", "pickle.find_class")

    def __init__(self):
        self.allowed = None
        self.events = []
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.allowed is None or not (event in self.EXACT or event.startswith(self.WATCHED)):
            return
        if (
            event == "open"
            and str(arguments[0]) == str(self.allowed)
            and arguments[1] in ("r", "rb")
        ):
            return
        self.events.append(f"{event} {arguments[:1]!r}"[:200])
        # Looking a name up is not yet running it: the control has to get further.
        if event != "pickle.find_class":
            raise PermissionError(event)

    def over(self, path, read):
        self.allowed, self.events = path, []
        try:
            read(path)
            outcome = "read"
        except BaseException as error:
            outcome = type(error).__name__
        finally:
            self.allowed = None
        return {"outcome": outcome, "events": self.events}


def main(how: str, files: list[str]) -> None:
    from srmri_model.checkpoints import load_checkpoint
    from srmri_model.public_checkpoints import import_checkpoint

    readers = {
        "import": import_checkpoint,
        "load": load_checkpoint,
        "plain": lambda path: pickle.loads(path.read_bytes()),
    }
    watch = Watch()
    first, *paths = map(Path, files)
    # The first file is harmless and warms up whatever is imported late.
    for path in (first, *paths[:1]):
        watch_free = readers[how]
        if how != "plain":
            try:
                watch_free(path)
            except Exception as error:
                print(type(error).__name__, file=sys.stderr)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {path.name: watch.over(path, readers[how]) for path in paths}
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"found": found, "rise_mb": rise / 1024}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
