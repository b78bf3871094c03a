"""Each kind of file is known by its content, and gives the layers, the attributes and the remarks that it should."""

import collections
import json
import subprocess
import sys
import warnings
import zipfile

import pytest
import torch
from hostile import build
from safetensors.torch import save_file
from torch import nn

from bninspect.errors import SourceError
from bninspect.models.stored.reading import read

FIELDS = ("weight", "bias", "running_mean", "running_var")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4, eps=1e-3, momentum=0.02)

    def forward(self, x):
        return self.bn(self.conv(x))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    made = nn.Sequential(Block(), Block(), nn.BatchNorm2d(4, affine=False))
    for _ in range(3):
        made[2](made[0](torch.randn(8, 3, 5, 5)))
    return made.eval()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model")  # no extension: content alone decides


def paths(stored):
    return [layer.path for layer in stored.layers]


def same_values(layer, state, name):
    for field in FIELDS:
        expected = state.get(f"{name}.{field}")
        got = getattr(layer, field)
        assert (got is None) == (expected is None)
        assert got is None or got.tobytes() == expected.detach().numpy().tobytes()


OWN = ["0.bn", "1.bn", "2"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict(net, path, zipped):
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=zipped)
    stored = read(path)
    assert stored.kind == ("zip checkpoint" if zipped else "legacy checkpoint")
    assert stored.evidence == "tensors"
    assert paths(stored) == OWN
    assert [layer.affine for layer in stored.layers] == [True, True, False]
    assert {layer.eps for layer in stored.layers} == {None}
    assert any("InstanceNorm" in note for note in stored.notes)
    for layer in stored.layers:
        same_values(layer, net.state_dict(), layer.path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module(net, path, zipped):
    torch.save(net, path, _use_new_zipfile_serialization=zipped)
    stored = read(path)
    assert stored.kind == "pickled module"
    assert paths(stored) == OWN
    first, _, last = stored.layers
    assert (first.kind, first.eps, first.momentum, first.affine) == ("BatchNorm2d", 1e-3, 0.02, True)
    assert (first.track_running_stats, first.training, first.num_batches_tracked) == (True, False, 3)
    assert (last.affine, last.weight) == (False, None)
    for layer in stored.layers:
        same_values(layer, net.state_dict(), layer.path)


def test_a_pickled_module_whose_class_cannot_be_imported(tmp_path, path, python):
    (tmp_path / "gone.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.bn = nn.BatchNorm1d(7)\n"
        "    def __reduce__(self):\n        return super().__reduce__()\n"
        f"torch.save({{'model': Net().half(), 'epoch': 3}}, {path!r})\n"
    )
    subprocess.run([*python, "-c", "import gone"], cwd=tmp_path, check=True)
    stored = read(path)
    assert paths(stored) == ["bn"]
    assert stored.layers[0].weight.dtype == "float16"
    assert any("under 'model'" in note for note in stored.notes)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "weights.best"])
def test_a_training_checkpoint(net, path, key):
    optimizer = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    made = {"epoch": 3, "optimizer": optimizer.state_dict(), key: net.state_dict(), "args": {"lr": 0.1, "s": {1, 2}}}
    torch.save(made, path)
    stored = read(path)
    assert paths(stored) == OWN
    assert f"found under '{key}'" in stored.notes


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_a_wrappers_prefix_is_part_of_the_path(net, path, prefix):
    torch.save({"state_dict": {prefix + key: value for key, value in net.state_dict().items()}}, path)
    assert paths(read(path)) == [prefix + name for name in OWN]


def test_copies_side_by_side_stay_apart(net, path):
    state = net.state_dict()
    ema = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "ema": {"module": ema}, "same": state}, path)
    stored = read(path)
    assert paths(stored) == [f"model.{name}" for name in OWN] + [f"ema.module.{name}" for name in OWN]
    assert any("2 sets of layers side by side, under 'model', 'ema.module'" in note for note in stored.notes)
    same_values(stored.layers[3], ema, "0.bn")


def test_a_dict_of_dicts(path):
    layer = nn.BatchNorm1d(3).state_dict()
    torch.save({"params": {"bn1": dict(layer), "bn2": dict(layer)}}, path)
    assert paths(read(path)) == ["bn1", "bn2"]


def test_one_layer_by_itself(path):
    torch.save(nn.BatchNorm1d(3).state_dict(), path)
    assert paths(read(path)) == [""]


def test_an_old_checkpoint_without_a_counter(net, path):
    state = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, path)
    assert [layer.num_batches_tracked for layer in read(path).layers] == [None] * 3


def test_a_file_without_batchnorm(path):
    torch.save(nn.Linear(2, 2).state_dict(), path)
    assert read(path).layers == ()


def test_layers_without_running_statistics_and_instance_norm(path):
    made = nn.Sequential(
        nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4, track_running_stats=True, affine=True),
        nn.BatchNorm2d(4, momentum=None), nn.InstanceNorm2d(4), nn.SyncBatchNorm(4),
    )  # fmt: skip
    torch.save(made, path)
    stored = read(path)
    assert [(layer.path, layer.kind) for layer in stored.layers] == [
        ("0", "BatchNorm2d"), ("2", "BatchNorm2d"), ("4", "SyncBatchNorm"),
    ]  # fmt: skip
    assert (stored.layers[0].track_running_stats, stored.layers[0].num_features) == (False, 4)
    assert stored.layers[1].momentum is None
    assert any("1 InstanceNorm" in note for note in stored.notes)
    torch.save(made.state_dict(), path)
    stored = read(path)
    assert paths(stored) == ["1", "2", "4"]
    assert any("2 layers are saved as BatchNorm and InstanceNorm are" in note for note in stored.notes)


@pytest.mark.parametrize("kind", ["zip", "legacy", "module", "safetensors", "sharded"])
def test_what_only_has_the_names_of_batchnorm_is_said(tmp_path, net, kind):
    state = dict(net.state_dict())
    state["0.bn.running_var"] = state["0.bn.running_var"].int()
    state["1.bn.running_mean"] = torch.zeros(5)
    path = tmp_path / "file"
    if kind == "module":
        whole = nn.Sequential(Block(), Block(), nn.BatchNorm2d(4, affine=False))
        whole[0].bn.running_var = whole[0].bn.running_var.int()
        whole[1].bn.running_mean = torch.zeros(5)
        torch.save(whole, path)
    elif kind in ("zip", "legacy"):
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    else:
        save_file(state, str(tmp_path / "shard"))
        path = tmp_path / "shard"
    if kind == "sharded":
        path = tmp_path / "index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, "shard")}))
    stored = read(str(path))
    assert [layer.path for layer in stored.layers] == ["2"]
    text = "2 layers are not listed: their running_mean and running_var are not two vectors of floats of one length"
    assert text in stored.notes


def test_a_layer_used_twice_is_listed_once(path):
    bn = nn.BatchNorm1d(3)
    torch.save(nn.ModuleDict({"a": bn, "b": bn}), path)
    assert paths(read(path)) == ["a"]


def test_frozen_batchnorm(path):
    from torchvision.ops import FrozenBatchNorm2d

    torch.save(nn.Sequential(FrozenBatchNorm2d(3, eps=0.1)), path)
    (layer,) = read(path).layers
    assert (layer.kind, layer.eps, layer.momentum, layer.affine) == ("FrozenBatchNorm2d", 0.1, None, True)


def test_lazy_and_parameter_subclasses(path):
    bn = nn.BatchNorm1d(3)
    bn.weight.tag = "x"  # a parameter with an attribute is rebuilt in another way
    torch.save([nn.LazyBatchNorm1d(), bn, bn.state_dict(keep_vars=True)], path)
    assert [layer.num_features for layer in read(path).layers] == [3, 3]


def test_safetensors(net, path):
    save_file(net.state_dict(), path, metadata={"format": "pt"})
    stored = read(path)
    assert stored.kind == "safetensors"
    assert sorted(paths(stored)) == OWN
    for layer in stored.layers:
        same_values(layer, net.state_dict(), layer.path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_sharded_model(net, tmp_path, zipped):
    state = net.state_dict()
    keys = list(state)
    places = {key: f"model-{index % 2}.bin" for index, key in enumerate(keys)}  # one layer's tensors in both
    for name in set(places.values()):
        part = {key: state[key] for key in keys if places[key] == name}
        (torch.save if zipped else save_file)(part, str(tmp_path / name))
    index = tmp_path / "index"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places | {"conv.weight": "absent.bin"}}))
    stored = read(str(index))
    assert stored.kind == "sharded checkpoint"
    assert paths(stored) == OWN
    for layer in stored.layers:
        same_values(layer, state, layer.path)


def test_a_damaged_shard_is_named(tmp_path):
    (tmp_path / "part").write_bytes(b"nope")
    (tmp_path / "index").write_text('{"weight_map": {"a.running_mean": "part", "a.running_var": "part"}}')
    with pytest.raises(SourceError, match=r"index': of its shard '.*part'"):
        read(str(tmp_path / "index"))


def test_torchscript(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Sequential(net[0], net[2])).save(path)
    stored = read(path)
    assert stored.kind == "TorchScript archive"
    assert [(layer.path, layer.kind) for layer in stored.layers] == [("0.bn", "BatchNorm2d"), ("1", "BatchNorm2d")]
    same_values(stored.layers[0], net.state_dict(), "0.bn")
    assert stored.layers[0].eps is None


@pytest.mark.parametrize("training", [False, True])
def test_an_exported_program(path, training):
    made = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.5, momentum=0.3), nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
    ).train(training)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(made, (torch.zeros(2, 3, 5, 5),))
        with open(path + ".pt2", "wb") as file:  # noqa: PTH123
            torch.export.save(program, file)
    stored = read(path + ".pt2")
    assert (stored.kind, stored.evidence) == ("torch.export archive", "graph")
    layers = {layer.path: layer for layer in stored.layers}
    assert sorted(layers) == ["1", "2", "3"]
    assert (layers["1"].eps, layers["1"].momentum, layers["1"].training) == (0.5, 0.3, training)
    assert (layers["1"].kind, layers["2"].affine, layers["3"].track_running_stats) == ("BatchNorm2d", False, False)
    for name, layer in layers.items():
        same_values(layer, made.state_dict(), name)


def test_an_exported_program_as_torch_wrote_it_before_2_8(path):
    from torch._export.serde.serialize import serialize

    made = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.5, momentum=0.3), nn.BatchNorm2d(4)).eval()
    made[1].running_var.add_(torch.arange(4.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        artifact = serialize(torch.export.export(made, (torch.zeros(2, 3, 5, 5),)))
    major, minor = torch._export.serde.schema.SCHEMA_VERSION
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("version", f"{major}.{minor}")
        file.writestr("serialized_exported_program.json", artifact.exported_program)
        file.writestr("serialized_state_dict.pt", artifact.state_dict)
        file.writestr("serialized_constants.pt", artifact.constants)
        file.writestr("serialized_example_inputs.pt", artifact.example_inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.export.load(path).state_dict  # torch itself still reads such files
    stored = read(path)
    assert (stored.kind, stored.evidence) == ("torch.export archive", "graph")
    assert sorted(paths(stored)) == ["1", "2"]
    layers = {layer.path: layer for layer in stored.layers}
    assert (layers["1"].eps, layers["1"].momentum, layers["1"].training) == (0.5, 0.3, False)
    assert (layers["1"].kind, layers["2"].eps) == ("BatchNorm2d", 1e-5)
    for name, layer in layers.items():
        same_values(layer, expected, name)


def test_the_extension_does_not_matter(net, tmp_path):
    for name in ("a.safetensors", "a.txt", "a.pt2", "a.index.json"):
        torch.save(net.state_dict(), tmp_path / name)
        assert read(str(tmp_path / name)).kind == "zip checkpoint"


def test_python_2_spelled_ordered_dicts(path):
    pairs = b"".join(b"](" + build.text(key) + value + b"e" for key, value in build.layer().items())
    body = build.call("collections.OrderedDict", b"](" + pairs + b"e")
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(build.checkpoint(build.finished(body)))
    assert paths(read(path)) == [build.LAYER]


def test_torch_is_not_imported(net, path):
    torch.save(net, path)
    code = (
        "import sys; from bninspect.models.stored.reading import read; "
        f"read({path!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_order_is_the_files_own(path):
    state = collections.OrderedDict()
    for name in ("z", "a", "m"):
        state |= {f"{name}.{key}": value for key, value in nn.BatchNorm1d(2).state_dict().items()}
    torch.save(state, path)
    assert paths(read(path)) == ["z", "a", "m"]


def test_python_source_is_told_what_it_lacks(tmp_path):
    (tmp_path / "nets.py").write_text("def build(): ...")
    with pytest.raises(SourceError, match=r"Python source: add what makes the model, as in nets\.py:build"):
        read(str(tmp_path / "nets.py"))


@pytest.mark.parametrize("holder", [list, tuple])
def test_models_in_a_list(path, net, holder):
    torch.save({"models": holder([net.state_dict(), {}, net[0].bn])}, path)
    found = [layer.path for layer in read(path).layers]
    assert [name.rpartition("models.")[2] for name in found] == ["0.0.bn", "0.1.bn", "0.2", "2"]
