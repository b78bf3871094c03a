"""Models in other forms than eager modules of float32: measured as those are, or refused in one sentence."""

from __future__ import annotations

import pytest
import torch
from fingerprint import fingerprint
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import bninspect
from bninspect.errors import ForwardError, InputError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.bn2 = nn.BatchNorm2d(4)
        with torch.no_grad():  # learned, so that no rule takes it for new
            for bn in (self.bn1, self.bn2):
                bn.weight.uniform_(0.5, 1.5)
                bn.running_mean.normal_()

    def forward(self, x):
        return self.bn2(torch.relu(self.bn1(self.conv(x))))


class Direct(Net):
    """Calls forward, so that no hook is heard."""

    def forward(self, x):
        return self.bn2.forward(torch.relu(self.bn1.forward(self.conv(x))))


class Mapped(Net):
    def forward(self, x):
        return torch.vmap(lambda image: Net.forward(self, image[None])[0])(x)


class Functional(Net):
    def forward(self, x):
        x = torch.relu(self.bn1(self.conv(x)))
        bn = self.bn2
        return nn.functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, self.training)


def batch():
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 + 1


def compiled_whole():
    return nn.Sequential(torch.compile(Net(), backend="eager"))


def compiled_layer():
    net = Net()
    net.bn1 = torch.compile(net.bn1, backend="eager")
    return net


def compiled_in_place():
    net = Net()
    net.compile(backend="eager")
    return net


def exported(training=False):
    return torch.export.export(Net().train(training), (batch(),)).module()


FORMS = {
    "direct": (Direct, ["bn1", "bn2"]),
    "functional": (Functional, ["bn1", "bn2"]),
    "vmap": (Mapped, ["bn1", "bn2"]),
    "compiled whole": (compiled_whole, ["0._orig_mod.bn1", "0._orig_mod.bn2"]),
    "compiled layer": (compiled_layer, ["bn1._orig_mod", "bn2"]),
    "compiled in place": (compiled_in_place, ["bn1", "bn2"]),
    "exported": (exported, ["bn1", "bn2"]),
    "traced": (lambda: torch.fx.symbolic_trace(Net()), ["bn1", "bn2"]),
}


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return bninspect.stats(Net().eval(), batch()).layers


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_measured_like_the_plain_one(form, plain):
    make, paths = FORMS[form]
    torch.manual_seed(0)
    model = make()
    before = fingerprint(model)
    report = bninspect.stats(model, batch())
    assert fingerprint(model) == before
    assert [layer.path for layer in report.layers] == paths
    assert not report.functional_calls
    for ours, theirs in zip(report.layers, plain, strict=True):
        assert ours.count == theirs.count
        for name in ("mean", "var", "min", "max", "d", "r"):
            torch.testing.assert_close(
                torch.tensor(getattr(ours.channels, name)), torch.tensor(getattr(theirs.channels, name))
            )


@pytest.mark.parametrize("form", [form for form in FORMS if form != "exported"])
def test_every_form_streams_is_summarised_and_checked(form):
    make, paths = FORMS[form]
    model = make()
    before = fingerprint(model)
    pieces = bninspect.stats(model, batch(), batch_size=2)
    assert [layer.count for layer in pieces.layers] == [8 * 14 * 14] * 2
    assert [layer.path for layer in bninspect.summary(model, (3, 16, 16)).layers] == paths
    found = bninspect.check(model, batch()).findings
    assert "BN305" not in {finding.code for finding in found}
    assert fingerprint(model) == before


@pytest.mark.parametrize("training", [False, True])
def test_an_exported_program_runs_as_it_was_exported(training):
    model = exported(training)
    before = fingerprint(model)
    report = bninspect.stats(model, batch())
    assert [layer.eps for layer in report.layers] == [1e-5, 1e-5]
    assert (abs(report.layers[1].mean_max) < 10) is True
    assert any("mode that it was exported in" in note for note in report.notes)
    assert [row.path for row in bninspect.summary(model, (3, 16, 16), batch_size=8).layers] == ["bn1", "bn2"]
    checked = bninspect.check(model, batch())
    assert "BN305" not in {finding.code for finding in checked.findings}
    assert fingerprint(model) == before


def test_an_exported_program_says_which_shapes_it_takes():
    with pytest.raises(ForwardError, match=r"size\(\)\[0\] == 8"):
        bninspect.summary(exported(), (3, 16, 16))


def test_batch_statistics_within_vmap_are_refused_by_torch_and_told():
    with pytest.raises(ForwardError, match=r"layer bn1.*batched tensor"):
        bninspect.stats(Mapped(), batch(), mode="train")


def test_layers_within_torchscript_are_named():
    model = nn.Sequential(torch.jit.script(Net()), nn.BatchNorm2d(4))
    reports = [
        bninspect.summary(model, (3, 16, 16)),
        bninspect.stats(model, batch()),
        bninspect.check(model, batch()),
    ]
    assert all(any("2 BatchNorm layers lie within TorchScript" in note for note in one.notes) for one in reports)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_made_up_input_is_of_the_models_type(dtype):
    model = Net().to(dtype)
    report = bninspect.summary(model, (3, 16, 16))
    assert report.input_dtypes == (str(dtype).removeprefix("torch."),)
    assert [layer.path for layer in report.layers] == ["bn1", "bn2"]
    assert not bninspect.check(model, input_size=(3, 16, 16)).notes
    assert len(bninspect.stats(model, batch().to(dtype)).layers) == 2


@pytest.mark.parametrize("call", [bninspect.stats, bninspect.check], ids=["stats", "check"])
def test_a_model_without_values_is_refused(call):
    model = Net().to("meta")
    with pytest.raises(InputError, match=r"Net is on the meta device and has no values.*load its weights"):
        call(model, batch())
    assert len(bninspect.summary(model, (3, 16, 16)).layers) == 2


@pytest.fixture
def one_process():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
@pytest.mark.filterwarnings("ignore")
def test_sharded_parameters_are_refused_and_a_process_group_is_no_obstacle(one_process):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    model = Net().eval()
    model.group = torch.distributed.group.WORLD
    assert len(bninspect.stats(model, batch()).layers) == 2
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    for call in (bninspect.stats, bninspect.check):
        with pytest.raises(InputError, match=r"is sharded over processes \(conv.weight\).*gather its values"):
            call(model, batch())
    with pytest.raises(InputError, match="is sharded over processes"):
        bninspect.summary(model, (3, 16, 16))


class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, image, mask):
        return self.bn(image) * mask


class Boxes(nn.Module):
    """Takes images as torchvision's detection models do."""

    def __init__(self):
        super().__init__()
        self.transform, self.bn = GeneralizedRCNNTransform(32, 64, [0.0] * 3, [1.0] * 3), nn.BatchNorm2d(3)

    def forward(self, images):
        return self.bn(self.transform(images)[0].tensors)


@pytest.mark.parametrize(
    ("model", "shape", "hint"),
    [
        (Boxes(), (3, 40, 40), r"a list of images: --forward, or forward=, runs a step as the loader gave it"),
        (Pairs(), (2, 3, 8, 8), "--forward, or forward=, runs a step as the loader gave it"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            (2, 8, 8, 3),
            r"channels seem to be last: permute\(0, 3, 1, 2\)",
        ),
    ],
)
def test_a_refusal_says_what_would_help(model, shape, hint):
    with pytest.raises(ForwardError, match=hint):
        bninspect.stats(model, torch.randn(shape))


def test_a_refusal_of_another_kind_has_no_hint():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(ForwardError) as raised:
        bninspect.stats(model, torch.randn(2, 5, 8, 8))
    assert "permute" not in str(raised.value)
    assert "forward=" not in str(raised.value)
