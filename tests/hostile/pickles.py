"""Pickles that would run code, lie, or grow: each a whole zip checkpoint beside or inside one honest layer."""

# ruff: noqa: E501 - one case, one line

from __future__ import annotations

import pickle
import struct

from hostile.build import (
    CHANNELS,
    FIELDS,
    archive,
    call,
    checkpoint,
    finished,
    floats,
    layer,
    many,
    mapping,
    named,
    number,
    records,
    state,
    tensor,
    text,
)
from hostile.names import NAMES

CODE = (
    "os.system", "posix.system", "nt.system", "os.popen", "os.execvp", "subprocess.Popen", "subprocess.check_output",
    "subprocess.run", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", "builtins.getattr",
    "builtins.open", "__builtin__.eval", "__builtin__.execfile", "runpy.run_path", "runpy._run_code", "pty.spawn",
    "importlib.import_module", "code.interact", "codeop.compile_command", "pickle.loads", "_pickle.loads",
    "marshal.loads", "ctypes.CDLL", "socket.create_connection", "shutil.rmtree", "timeit.timeit", "pdb.run",
    "cProfile.run", "profile.run", "operator.methodcaller", "functools.partial", "types.FunctionType",
    "torch.load", "torch.hub.load", "torch.jit.unsupported_tensor_ops.execWrapper", "torch._inductor.codecache.os.system",
    "numpy.load", "numpy.testing._private.utils.runstring", "webbrowser.open", "logging.config.listen", "bdb.Bdb.run",
    "multiprocessing.util.spawnv_passfds", "asyncio.unix_events._UnixSubprocessTransport._start", "sys.setrecursionlimit",
    "signal.raise_signal", "os._exit", "os.kill", "faulthandler._sigsegv", "bninspect.cli.run",
)  # fmt: skip


def code(canary: str) -> dict[str, bytes]:
    """Payloads beside an honest layer: the layer is read, the payload is not run."""
    command = text(f"touch {canary}")
    payloads = {f"reduce-{path}": call(path, command) for path in CODE}
    system = named("os.system")
    arguments = command + pickle.TUPLE1
    payloads |= {
        "inst": pickle.MARK + command + pickle.INST + b"os\nsystem\n",
        "obj": pickle.MARK + system + command + pickle.OBJ,
        "newobj": system + arguments + pickle.NEWOBJ,
        "newobj-ex": system + arguments + pickle.EMPTY_DICT + pickle.NEWOBJ_EX,
        "stack-global": text("os") + text("system") + pickle.STACK_GLOBAL + arguments + pickle.REDUCE,
        "dotted": text("os") + text("path.os.system") + pickle.STACK_GLOBAL + arguments + pickle.REDUCE,
        "setstate": call("collections.OrderedDict") + mapping({"__setstate__": system}) + pickle.BUILD,
        "reduce-ex": call("collections.OrderedDict") + mapping({"__reduce_ex__": system}) + pickle.BUILD,
        "call-of-call": call("functools.partial", system) + arguments + pickle.REDUCE,
        "subclass": call("torch._tensor._rebuild_from_type_v2", system, named("torch.Tensor"), arguments, number(None)),
        "nested-subclass": call(
            "torch._tensor._rebuild_from_type_v2", named("torch._tensor._rebuild_from_type_v2"), named("torch.Tensor"),
            pickle.MARK + system + named("torch.Tensor") + arguments + number(None) + pickle.TUPLE, number(None)
        ),
        "parameter-hook": call("torch._utils._rebuild_parameter", tensor("0"), number(True), call("os.system", command)),
        "default-factory": call("collections.defaultdict", system) + text("x") + number(1) + pickle.SETITEM,
        "dropped": call("os.system", command) + pickle.POP + number(1),
        "own-folder": call("evil.payload", command), "own-folder-module": named("evil.Net") + pickle.EMPTY_TUPLE + pickle.NEWOBJ,
    }  # fmt: skip
    return {f"code-{name}": checkpoint(state(extra={"payload": raw})) for name, raw in payloads.items()}


def storages() -> dict[str, bytes]:
    """Lies about storages, sizes, strides and offsets of a BatchNorm tensor: all refused."""
    lies = {
        "count-large": tensor("3", count=5), "count-small": tensor("3", count=3), "count-huge": tensor("3", count=1 << 62),
        "count-beyond": tensor("3", count=1 << 80), "count-negative": tensor("3", count=-4), "count-text": tensor("3", count="4"),
        "count-float": tensor("3", count=4.0), "count-none": tensor("3", count=None),
        "count-zero": tensor("3", count=0), "missing-record": tensor("9"), "key-number": tensor(3),
        "key-escape": tensor("../data.pkl"), "key-pickle": tensor("../../a/data.pkl"), "key-empty": tensor(""),
        "key-nul": tensor("\0"), "key-surrogate": tensor("\ud800"), "key-long": tensor("3" * 100_000),
        "offset-beyond": tensor("3", offset=1), "offset-huge": tensor("3", offset=1 << 62), "offset-negative": tensor("3", offset=-1),
        "offset-text": tensor("3", offset="0"), "offset-none": tensor("3", offset=None), "offset-bool": tensor("3", offset=True),
        "stride-beyond": tensor("3", strides=(2,)), "stride-huge": tensor("3", strides=(1 << 62,)),
        "stride-negative": tensor("3", strides=(-1,)), "stride-none": tensor("3", strides=()), "stride-two": tensor("3", strides=(1, 1)),
        "stride-text": tensor("3", strides=("1",)), "shape-float": tensor("3", shape=(4.0,)), "shape-negative": tensor("3", shape=(-4,)),
        "shape-none": tensor("3", shape=number(None)), "shape-list": tensor("3", shape=pickle.EMPTY_LIST),
        "shape-bool": tensor("3", shape=(True,)), "dims-65": tensor("3", shape=(1,) * 65, strides=(1,) * 65),
        "dims-100k": tensor("3", shape=(1,) * 100_000, strides=(1,) * 100_000),
        "type-double": tensor("3", storage="torch.DoubleStorage"), "type-half": tensor("3", storage="torch.HalfStorage"),
        "twice": tensor("2", count=5), "bare-number": number(3) + pickle.BINPERSID,
        "pid-short": many(("storage", 1)) + pickle.BINPERSID, "pid-text": pickle.PERSID + b"storage\n",
    }  # fmt: skip
    made = {f"lie-{name}": checkpoint(state(running_var=raw)) for name, raw in lies.items()}
    good = state()
    made["lie-byteorder"] = archive([(n, b"middle" if n.endswith("byteorder") else raw) for n, raw in records(good)])
    made["lie-byteorder-long"] = archive(
        [(n, b"x" * (1 << 21) if n.endswith("byteorder") else raw) for n, raw in records(good)]
    )
    made["lie-record-short"] = checkpoint(good, [*floats()[:3], b"1234"])
    made["lie-record-long"] = checkpoint(good, [*floats()[:3], b"1234" * 9])
    made["lie-record-empty"] = checkpoint(good, [*floats()[:3], b""])
    return made


def alignments() -> dict[str, bytes]:
    """A record that torch divides by, and that is nothing to us: read."""
    said = {"zero": b"0", "negative": b"-1", "text": b"x", "digits": b"9" * 5000, "empty": b""}
    return {
        f"alignment-{name}": archive([*records(state()), ("a/.storage_alignment", raw)]) for name, raw in said.items()
    }


def kinds() -> dict[str, bytes]:
    """Tensors without plain values: refused where a layer's statistics are such, left out elsewhere."""
    made = {}
    for func in (
        "_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor", "_rebuild_qtensor", "_rebuild_nested_tensor",
        "_rebuild_meta_tensor_no_storage", "_rebuild_wrapper_subclass", "_rebuild_device_tensor_from_numpy",
    ):  # fmt: skip
        odd = call(f"torch._utils.{func}", number(1))
        made[f"refuse-{func}"] = checkpoint(state(running_mean=odd))
        made[f"read-{func}"] = checkpoint(state(extra={"other": odd, "x.weight": odd}, weight=odd))
    values = [*floats(), struct.pack("<2q", -1, 1 << 50), *floats()[:1], b"1234", bytes(32)]
    for name, odd in whole_kinds().items():
        made[f"refuse-{name}"] = checkpoint(state(running_var=odd), values)
        made[f"read-{name}"] = checkpoint(state(extra={"other": odd}), values)
    return made


def whole_kinds() -> dict[str, bytes]:
    """Sparse and quantized tensors as torch spells them: indices far outside, sizes that nothing backs."""
    hooks, beyond = pickle.NEWFALSE + call("collections.OrderedDict"), 1 << 40
    index = tensor("4", 2, (1, 2), (2, 1), storage="torch.LongStorage")
    layout = call("torch.serialization._get_layout", text("torch.sparse_coo"))
    compressed = call("torch.serialization._get_layout", text("torch.sparse_csr"))
    scheme = pickle.MARK + named("torch.per_tensor_affine") + number(0.1) + number(0) + pickle.TUPLE
    values = tensor("5", shape=(2,))
    parts = pickle.MARK + index + values + many((beyond,)) + pickle.NEWTRUE + pickle.TUPLE
    rows = pickle.MARK + index + index + values + many((beyond, beyond)) + pickle.TUPLE
    return {
        "sparse": call("torch._utils._rebuild_sparse_tensor", layout, parts),
        "sparse-csr": call("torch._utils._rebuild_sparse_tensor", compressed, rows),
        "quantized": tensor("6", storage="torch.QInt8Storage", func="torch._utils._rebuild_qtensor", tail=scheme + hooks),
        "quantized-huge": tensor("6", shape=(beyond,), storage="torch.QInt8Storage", func="torch._utils._rebuild_qtensor", tail=scheme + hooks),
        "quantized-plain": tensor("6", storage="torch.QInt8Storage"), "complex": tensor("7", storage="torch.ComplexFloatStorage"),
        "constructor": call("torch.FloatTensor", number(CHANNELS)),
    }  # fmt: skip


def bombs() -> dict[str, bytes]:
    """Little files that ask for much: all refused."""
    shown = 10**12
    made = {
        "stride-0": checkpoint(state(running_mean=tensor("2", shape=(shown,), strides=(0,)), running_var=tensor("3", shape=(shown,), strides=(0,)))),
        "stride-0-million": checkpoint(state(**{f: tensor(str(k), shape=(10**7,), strides=(0,)) for k, f in enumerate(("weight", "bias", "running_mean", "running_var"))})),
        "overlap": checkpoint(finished(mapping({k: v for i in range(3000) for k, v in layer(f"l{i}", **{f: tensor("0", 10_000, (9_000,)) for f in ("weight", "bias", "running_mean", "running_var")}).items()})), [b"1234" * 10_000]),
        "deflated-pickle": archive(records(pickle.PROTO + b"\2" + b"]0" * 5_000_000), deflate=("a/data.pkl",)),
        "deflated-record": archive(records(state(), [b"\0" * 50_000_000] * 4), deflate=tuple(f"a/data/{k}" for k in range(4))),
        "deflated-records": archive(records(finished(mapping({k: v for i in range(25) for k, v in layer(f"l{i}", **{f: tensor(str(4 * i + j), 4_000_000) for j, f in enumerate(FIELDS)}).items()})), [bytes(16_000_000)] * 100), deflate=tuple(f"a/data/{k}" for k in range(100))),
        "lists": checkpoint(pickle.PROTO + b"\2" + pickle.EMPTY_LIST * 8_000_000 + pickle.STOP),
        "dicts": checkpoint(pickle.PROTO + b"\2" + pickle.EMPTY_DICT * 8_000_000 + pickle.STOP),
        "steps": checkpoint(pickle.PROTO + b"\2" + b"N0" * 17_000_000 + pickle.STOP),
        "bytearray-claim": checkpoint(finished(pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 40), 5)),
        "text-claim": checkpoint(finished(pickle.BINUNICODE + struct.pack("<I", 0xFFFFFFFF))),
        "bytes-claim": checkpoint(finished(pickle.BINBYTES8 + struct.pack("<Q", (1 << 64) - 1), 4)),
        "long-claim": checkpoint(finished(pickle.LONG4 + struct.pack("<I", 0x7FFFFFFF))),
        "digits": checkpoint(finished(pickle.LONG + b"9" * 1_000_000 + b"L\n")),
        "digits-of-index": checkpoint(finished(pickle.NONE + pickle.PUT + b"9" * 1_000_000 + b"\n")),
        "get-digits": checkpoint(finished(pickle.GET + b"9" * 1_000_000 + b"\n")),
        "stack-underflow": checkpoint(finished(pickle.POP)), "mark-missing": checkpoint(finished(pickle.TUPLE)),
        "memo-missing": checkpoint(finished(pickle.BINGET + b"\7")), "odd-items": checkpoint(finished(pickle.EMPTY_DICT + pickle.MARK + number(1) + pickle.SETITEMS)),
        "set-on-number": checkpoint(finished(number(1) + number(1) + number(1) + pickle.SETITEM)),
        "set-on-tensor": checkpoint(finished(tensor() + number(1) + number(1) + pickle.SETITEM)),
        "append-to-number": checkpoint(finished(number(1) + number(1) + pickle.APPEND)),
        "build-number": checkpoint(finished(number(1) + mapping({}) + pickle.BUILD)),
        "build-tensor": checkpoint(state(running_mean=tensor("2") + mapping({"x": number(1)}) + pickle.BUILD)),
        "protocol-99": checkpoint(finished(number(1), 99)), "opcode-unknown": checkpoint(finished(b"\xff")),
        "extension": checkpoint(finished(pickle.EXT1 + b"\1")), "buffer": checkpoint(finished(pickle.NEXT_BUFFER, 5)),
        "no-stop": checkpoint(finished(number(1))[:-1]), "empty-pickle": checkpoint(b""),
        "utf8": checkpoint(finished(pickle.BINUNICODE + struct.pack("<I", 1) + b"\xff")),
        "float-text": checkpoint(finished(pickle.FLOAT + b"nope\n")), "int-text": checkpoint(finished(pickle.INT + b"0x1\n")),
        "call-without-tuple": checkpoint(finished(named("os.system") + text("x") + pickle.REDUCE)),
        "global-of-number": checkpoint(finished(number(1) + number(2) + pickle.STACK_GLOBAL)),
    }  # fmt: skip
    return {f"bomb-{name}": raw for name, raw in made.items()}


def _nested(opening: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + number(1) + closing * depth


def shapes_of_graph() -> dict[str, bytes]:
    """Objects that are shared, nested or circular: the honest layer beside them is read."""
    double = pickle.BINPUT + b"\1" + pickle.POP + pickle.BINGET + b"\1" + pickle.BINGET + b"\1" + pickle.TUPLE2
    as_dict = (
        pickle.BINPUT + b"\1" + pickle.POP + pickle.EMPTY_DICT + text("a") + pickle.BINGET + b"\1" + pickle.SETITEM
        + text("b") + pickle.BINGET + b"\1" + pickle.SETITEM
    )  # fmt: skip
    extras = {
        "billion-laughs": pickle.EMPTY_LIST + double * 200,
        "billion-laughs-dict": pickle.EMPTY_LIST + as_dict * 200,
        "deep-list": pickle.EMPTY_LIST * 100_000 + pickle.APPEND * 99_999,
        "deep-tuple": pickle.EMPTY_LIST + pickle.TUPLE1 * 100_000,
        "deep-dict": (pickle.EMPTY_DICT + text("k")) * 50_000 + number(1) + pickle.SETITEM * 50_000,
        "deep-call": named("a.b") * 50_000 + pickle.EMPTY_TUPLE + (pickle.REDUCE + pickle.TUPLE1) * 50_000,
        "deep-build": call("a.b") * 50_000 + pickle.BUILD * 49_999,
        "cycle-list": pickle.EMPTY_LIST + pickle.BINPUT + b"\2" + pickle.BINGET + b"\2" + pickle.APPEND,
        "cycle-dict": pickle.EMPTY_DICT + pickle.BINPUT + b"\2" + text("me") + pickle.BINGET + b"\2" + pickle.SETITEM,
        "cycle-module": call("a.Net") + pickle.BINPUT + b"\2" + pickle.EMPTY_DICT + text("_modules") + pickle.EMPTY_DICT
        + text("me") + pickle.BINGET + b"\2" + pickle.SETITEM + pickle.SETITEM + pickle.BUILD,
        "hash-collision": mapping({}) + pickle.MARK + b"".join(number(k * ((1 << 61) - 1)) + pickle.NONE for k in range(1, 50_000)) + pickle.SETITEMS,
        "unhashable-key": mapping({}) + pickle.EMPTY_LIST + number(1) + pickle.SETITEM,
        "huge-key": mapping({}) + number(1 << 900) + pickle.EMPTY_LIST + pickle.SETITEM,
        "long-global": named("x." + "a" * 1_000_000), "long-text": text("ü" * 500_000), "nan": number(float("nan")),
        "keys-twice": pickle.EMPTY_DICT + pickle.MARK + (text("k") + number(1)) * 1000 + pickle.SETITEMS,
        "memo-index": number(1) + pickle.LONG_BINPUT + b"\xff\xff\xff\xff", "memo-text": number(1) + pickle.PUT + b"99999999999\n",
        "frozen": pickle.MARK + number(1) + pickle.FROZENSET, "set": pickle.EMPTY_SET + pickle.MARK + number(1) + pickle.ADDITEMS,
        "python-2": pickle.SHORT_BINSTRING + b"\2\xff\xfe" + pickle.POP + pickle.STRING + b"'a'\n",
        "path-explosion": _nested(pickle.EMPTY_DICT + text("k" * 1000), pickle.SETITEM, 5_000),
        "alike-1d": mapping({"x.running_mean": tensor("0", shape=(2, 2), strides=(2, 1)), "x.running_var": tensor("1", shape=(2, 2), strides=(2, 1))}),
        "different-lengths": mapping({"y.running_mean": tensor("0"), "y.running_var": tensor("1", shape=(3,))}),
        "bytearray": call("builtins.bytearray", number(1 << 31)),
        "codecs": named("_codecs.encode") * 24 + text("ab" * 99) + (text("hex") + pickle.TUPLE2 + pickle.REDUCE) * 24,
        "shadow-items": call("collections.OrderedDict") + mapping(layer("shadow")) + pickle.BUILD + mapping({"items": number(1), "keys": number(2), "__class__": text("x")}) + pickle.BUILD,
        "integers": mapping({"z.running_mean": number(3), "z.running_var": tensor("1")}),
    }  # fmt: skip
    return {f"graph-{name}": checkpoint(state(extra={"extra": raw})) for name, raw in extras.items()}


def names() -> dict[str, bytes]:
    """Honest layers under hostile names: read, and the name kept as it is."""
    return {f"name-{kind}": checkpoint(state(name)) for kind, name in NAMES.items()}
