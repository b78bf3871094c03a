"""``summary``: the study note's figures, and every kind of BatchNorm."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_builder, list_models
from torchvision.ops import FrozenBatchNorm2d

import bninspect
from bninspect import _plugins, models
from bninspect.errors import BNInspectError, ForwardError, InputError
from bninspect.observe import meta
from bninspect.render import ordereddict


def builder(name):
    source, value = models.find(name, _plugins.plugins("models", "SCHEME"))
    return source.load(value, models.ModelOptions()).build


def test_the_dict_of_the_note():
    report = bninspect.summary(builder("resnet18"), (3, 418, 418), all_layers=True)
    text = ordereddict.render(report, color=False, width=None)
    assert text.startswith("OrderedDict([('Conv2d-1',\n              OrderedDict([('input_shape', [-1, 3, 418, 418]),")
    found = eval(text, {"OrderedDict": OrderedDict})
    assert len(found) == 68
    assert found["Conv2d-1"] == OrderedDict(
        [
            ("input_shape", [-1, 3, 418, 418]),
            ("output_shape", [-1, 64, 209, 209]),
            ("trainable", True),
            ("nb_params", 9408),
        ]
    )
    assert list(found["BatchNorm2d-2"].items())[:4] == [
        ("input_shape", [-1, 64, 209, 209]),
        ("output_shape", [-1, 64, 209, 209]),
        ("trainable", True),
        ("nb_params", 128),
    ]
    assert found["BatchNorm2d-2"]["gamma_size"] == found["BatchNorm2d-2"]["beta_size"] == [64]
    assert "trainable" not in found["ReLU-3"]
    assert found["ReLU-3"]["nb_params"] == 0


def torchsummary_like(model, *inputs):
    """What the torchsummary package records, by a real forward with its own rule for names."""
    rows = OrderedDict()

    def hook(module, args, output):
        name = type(module).__name__
        shape = [-1, *args[0].shape[1:]] if isinstance(args[0], torch.Tensor) else None
        rows[f"{name}-{len(rows) + 1}"] = (
            shape,
            _out(output),
            sum(p.numel() for p in module.parameters(recurse=False)),
        )

    for module in model.modules():
        if not isinstance(module, (nn.Sequential, nn.ModuleList)) and module is not model:
            module.register_forward_hook(hook)
    with torch.no_grad():
        model.eval()(*inputs)
    return rows


def _out(output):
    if isinstance(output, torch.Tensor):
        return [-1, *output.shape[1:]]
    return None


@pytest.mark.parametrize(
    "name",
    ["resnet18", "vgg11_bn", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_x_400mf", "googlenet"],
)
def test_names_and_shapes_are_those_of_a_real_forward(name):
    report = bninspect.summary(builder(name), (3, 64, 64), all_layers=True)
    assert report.execution == "meta"
    real = torchsummary_like(builder(name)(), torch.randn(2, 3, 64, 64))
    assert [layer.name for layer in report.layers] == list(real)
    for layer, (input_shape, output_shape, parameters) in zip(report.layers, real.values(), strict=True):
        if input_shape is not None:
            assert list(layer.input_shape) == input_shape
        if output_shape is not None:
            assert list(layer.output_shape) == output_shape
        assert layer.num_parameters == parameters


def test_there_are_121_of_them_and_they_are_known_without_torchvision():
    from bninspect.models import torchvision

    assert torchvision.names() == sorted(list_models())


def test_a_detection_model_falls_back_to_a_real_forward_and_says_so():
    report = bninspect.summary(builder("fasterrcnn_mobilenet_v3_large_320_fpn"), (3, 64, 64))
    assert report.execution == "real"
    assert len(report.layers) == 46
    assert any("real forward" in note for note in report.notes)


def test_no_weights_are_asked_for_a_backbone():
    """The default of a detection builder downloads a backbone and freezes its layers."""
    with meta.on_meta():
        model = builder("fasterrcnn_resnet50_fpn")()
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 53
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    assert get_model_builder("fasterrcnn_resnet50_fpn").__module__.startswith("torchvision")


class DuckFrozen(nn.Module):
    """detectron2's kind: four buffers, no BatchNorm class."""

    def __init__(self, num_features):
        super().__init__()
        self.eps = 1e-5
        self.num_features = num_features
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.ones(num_features))
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.zeros(num_features))

    def forward(self, x):
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps
        )


class WithActivation(nn.BatchNorm2d):
    """timm's kind: a subclass that also activates."""

    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("layer", "size", "kind"),
    [
        (nn.BatchNorm1d(4), (4,), "BatchNorm1d"),
        (nn.BatchNorm1d(4), (4, 9), "BatchNorm1d"),
        (nn.BatchNorm2d(4), (4, 5, 5), "BatchNorm2d"),
        (nn.BatchNorm3d(4), (4, 2, 3, 3), "BatchNorm3d"),
        (nn.SyncBatchNorm(4), (4, 5, 5), "SyncBatchNorm"),
        (nn.LazyBatchNorm2d(), (4, 5, 5), "BatchNorm2d"),
        (FrozenBatchNorm2d(4), (4, 5, 5), "FrozenBatchNorm2d"),
        (DuckFrozen(4), (4, 5, 5), "DuckFrozen"),
        (WithActivation(4), (4, 5, 5), "WithActivation"),
        (nn.BatchNorm2d(4, affine=False), (4, 5, 5), "BatchNorm2d"),
        (nn.BatchNorm2d(4, track_running_stats=False), (4, 5, 5), "BatchNorm2d"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_every_batchnorm_counts(layer, size, kind):
    for model in (layer, nn.Sequential(nn.Identity(), layer)):
        (row,) = bninspect.summary(model, size).layers
        assert (row.kind, row.num_features, row.is_batchnorm) == (kind, 4, True)
        assert row.input_shape == row.output_shape == (-1, *size)


@pytest.mark.parametrize(
    "layer", [nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.GroupNorm(2, 4), nn.LayerNorm([4, 5, 5])]
)
def test_other_norms_never_count(layer):
    report = bninspect.summary(nn.Sequential(layer, nn.ReLU()), (4, 5, 5))
    assert report.layers == ()
    assert report.functional_calls == ()
    assert report.notes == ("Sequential has no BatchNorm layer",)


def test_functional_batch_norm_is_reported():
    class Functional(nn.Module):
        def forward(self, x):
            return nn.functional.batch_norm(x, None, None, training=True)

    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.bn.forward(torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False))

    model = nn.Sequential(OrderedDict(a=Functional(), b=nn.BatchNorm2d(3), c=Direct()))
    report = bninspect.summary(model, (3, 4, 4))
    assert [(call.path, call.kind, call.calls) for call in report.functional_calls] == [
        ("a", "Functional", 1),
        ("c", "Direct", 1),
    ]
    assert [layer.path for layer in report.layers] == ["b", "c.bn"]  # the latter by its forward, without its hooks
    assert report.never_called == ()


def test_shared_and_tied_layers_are_counted_once():
    norm = nn.BatchNorm2d(3)
    tied = nn.BatchNorm2d(3)
    tied.weight = norm.weight
    report = bninspect.summary(nn.Sequential(norm, nn.ReLU(), norm, tied), (3, 4, 4))
    assert [(layer.name, layer.call_index) for layer in report.layers] == [
        ("BatchNorm2d-1", 1),
        ("BatchNorm2d-3", 2),
        ("BatchNorm2d-4", 1),
    ]
    assert report.totals.num_parameters == report.totals.num_batchnorm_parameters == 9
    assert report.totals.num_batchnorm == 2
    assert [(ref.path, ref.calls) for ref in report.called_repeatedly] == [("0", 2)]


def test_trainable_yes_no_partial_and_nothing():
    layers = [nn.BatchNorm2d(3) for _ in range(3)] + [nn.BatchNorm2d(3, affine=False)]
    layers[1].requires_grad_(False)
    layers[2].weight.requires_grad = False
    report = bninspect.summary(nn.Sequential(*layers), (3, 4, 4))
    assert [layer.trainable for layer in report.layers] == ["yes", "no", "partial", None]
    assert [layer.num_trainable_parameters for layer in report.layers] == [6, 0, 3, 0]
    assert report.totals.num_trainable_parameters == 9


def test_modes_are_those_that_were_found():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).train()
    model[1].eval()
    for mode in ("eval", "train"):
        report = bninspect.summary(model, (3, 4, 4), mode=mode)
        assert [layer.training for layer in report.layers] == [True, False]
        assert (report.totals.num_batchnorm_train, report.totals.num_batchnorm_eval) == (1, 1)


def test_auxiliary_heads_run_in_train_mode_alone():
    assert len(bninspect.summary(builder("googlenet"), (3, 224, 224)).never_called) == 2
    assert bninspect.summary(builder("googlenet"), (3, 224, 224), mode="train").never_called == ()


def test_integers_several_inputs_dicts_and_lists():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.bn = nn.BatchNorm1d(4)
            self.wrap = Wrap()

        def forward(self, tokens, scale):
            return self.wrap({"x": self.bn(self.embed(tokens).transpose(1, 2)) * scale})

    class Wrap(nn.Module):
        def forward(self, parts):
            return {"out": [parts["x"], parts["x"].sum()]}

    report = bninspect.summary(Text(), [(7,), (1, 1)], dtypes=("int64", "float32"), all_layers=True)
    by_path = {layer.path: layer for layer in report.layers}
    assert by_path["bn"].input_shape == (-1, 4, 7)
    assert by_path["wrap"].output_shape == (((-1, 4, 7), ()),)


def test_a_model_that_looks_at_values_runs_for_real():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.bn(x) if x.sum().item() >= 0 else x

    report = bninspect.summary(Looks(), (3, 4, 4))
    assert report.execution == "real"
    assert len(report.layers) == 1


def test_wrappers_are_looked_into():
    inner = nn.Sequential(nn.BatchNorm2d(3))
    for model in (nn.DataParallel(inner), torch.compile(inner)):
        assert [layer.path for layer in bninspect.summary(model, (3, 4, 4)).layers] == ["0"]


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            (5, 8, 8),
            r"layer 0, Conv2d\(3, 4.*given \[2, 5, 8, 8\]",
        ),
        (nn.Sequential(nn.BatchNorm2d(4)), (4, 8), r"layer 0, BatchNorm2d\(4.*given \[2, 4, 8\].*4D"),
        (nn.Sequential(nn.BatchNorm2d(4)), (0, 8, 8), "positive integers"),
        (nn.Sequential(nn.BatchNorm2d(4)), (), "positive integers"),
        ("resnet18", (3, 8, 8), "torch.nn.Module or a function"),
    ],
)
def test_what_does_not_fit_is_refused(model, size, message):
    with pytest.raises(BNInspectError, match=message):
        bninspect.summary(model, size)


def test_one_value_per_channel_in_train_mode():
    with pytest.raises(ForwardError, match=r"layer 0, BatchNorm1d\(4.*more than 1 value per channel"):
        bninspect.summary(nn.Sequential(nn.BatchNorm1d(4)), (4,), mode="train", batch_size=1)


def test_wrong_dtypes_are_refused():
    model = nn.BatchNorm2d(3)
    with pytest.raises(InputError, match="'float33' is no torch dtype"):
        bninspect.summary(model, (3, 4, 4), dtypes=("float33",))
    with pytest.raises(InputError, match="2 dtypes were given for 1 inputs"):
        bninspect.summary(model, (3, 4, 4), dtypes=("float32", "float32"))


def test_scripted_modules_are_refused():
    with pytest.warns(FutureWarning):
        scripted = torch.jit.script(nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(InputError, match="TorchScript"):
        bninspect.summary(scripted, (3, 4, 4))


def test_get_model_is_what_the_command_builds():
    assert type(builder("resnet18")()) is type(get_model("resnet18", weights=None))
