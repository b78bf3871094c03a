"""BN405 to BN408: batches that are too small, or that are not drawn at random."""

from __future__ import annotations

import pytest
import torch
from healthy import build, calibrate, smooth, train_a_little
from looks import IMAGES, found, look, network, reason
from torch import nn

import bninspect
from bninspect.inspection.check import between_batches as _groups


def test_bn405_hits_the_pooled_branch_of_deeplab():
    model = build("deeplabv3_resnet50")
    (finding,) = found(model, "BN405", None, batch_size=1, input_size=(3, 64, 64))
    assert (finding.severity, finding.path) == ("error", "classifier.0.convs.4.2")
    assert finding.evidence == {"values_per_channel": 1, "batch_size": 1, "needed": 8}
    with pytest.raises(ValueError, match="more than 1 value"):
        model.train()(torch.randn(1, 3, 64, 64))
    (finding,) = found(model, "BN405", None, batch_size=2, input_size=(3, 64, 64))
    assert finding.severity == "warning"


def test_bn405_misses_a_single_image_of_many_positions_and_needs_a_batch_size():
    model = build("resnet18")
    assert not found(model, "BN405", None, batch_size=1)
    assert "batch size" in reason(look(model, "BN405", None))


def rows(sizes, features=20):
    """A loader of batches of these sizes."""
    return [torch.randn(size, features) for size in sizes]


def table():
    return nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def test_bn405_hits_a_last_batch_of_one_image():
    images = torch.utils.data.TensorDataset(torch.randn(33, 20))
    batches = [x for (x,) in torch.utils.data.DataLoader(images, batch_size=16)]
    for model in (table(), train_a_little(table())):  # an untrained model is about to be trained
        (finding,) = found(model, "BN405", iter(batches))
        assert (finding.severity, finding.path) == ("error", "1")
        assert finding.message.startswith("the last batch (of 3) has 1 image")
        assert "drop_last=True" in finding.fix
        assert finding.evidence == {"values_per_channel": 1, "batch_size": 1}
        with pytest.raises(ValueError, match="more than 1 value"):
            model.train()(batches[-1])


def test_bn405_hits_a_small_batch_among_others_and_the_usual_one():
    (finding,) = found(table(), "BN405", rows([16, 1, 16]))
    assert finding.message.startswith("batch 2 of 3 has 1 image")
    (finding,) = found(table(), "BN405", rows([16, 16, 3]))
    assert (finding.severity, finding.message) == (
        "info", "the last batch (of 3) has 3 images, and so few values per channel",
    )  # fmt: skip
    (finding,) = found(table(), "BN405", rows([4, 4, 4, 2]))
    assert (finding.severity, finding.evidence["batch_size"], finding.evidence["needed"]) == ("warning", 4, 8)


def test_bn405_misses_batches_that_are_large_enough():
    assert not found(table(), "BN405", rows([16, 16, 9]))
    report = look(table(), "BN405", rows([33])[0])  # one tensor is no batch of training
    assert "batch size" in reason(report)
    assert not found(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "BN405", [torch.randn(1, *IMAGES)] * 2)


def test_bn406_hits_the_usual_batch_of_a_loader():
    model = calibrate(train_a_little(table()), torch.randn(500, 20))
    (finding,) = found(model, "BN406", rows([2] * 40))
    assert finding.evidence["batch_size"] == 2
    assert not found(model, "BN406", rows([64] * 3))


def test_bn406_misses_what_few_batches_cannot_show():
    """In batches of 15 the noise is 0.1, and what four of them show is half of that, or twice."""
    model = calibrate(train_a_little(table()), torch.randn(2000, 20))
    assert sum(bool(found(model, "BN406", rows([15] * 4))) for _ in range(40)) <= 1


def test_bn406_hits_batches_of_two_and_not_of_thirty_two():
    model = train_a_little(build("resnet18"))
    calibrate(model, smooth(64, 3, 64, 64, seed=1))
    x = smooth(64, 3, 64, 64, seed=2)
    (finding,) = found(model, "BN406", x, batch_size=2)
    assert finding.severity == "warning"
    assert sum(place.path.startswith("layer4") for place in finding.layers) > len(finding.layers) / 2
    assert finding.evidence["noise"] > 0.1
    assert not found(model, "BN406", x, batch_size=32)


def test_bn406_only_tells_of_a_loader_of_single_images():
    """It may be one for evaluation; what is said on the command line is of training."""
    x = smooth(40, *IMAGES)
    (told,) = found(network(), "BN406", list(x.split(1)))
    (warned,) = found(network(), "BN406", x, batch_size=1)
    assert (told.severity, warned.severity) == ("info", "warning")


def test_bn406_misses_what_it_was_not_told():
    assert "batch size" in reason(look(network(), "BN406", smooth(64, *IMAGES)))


def test_noise_is_that_of_its_definition():
    torch.manual_seed(0)
    means, variances = torch.randn(6, 5).double().numpy(), torch.rand(6, 5).double().numpy()
    slow = []
    for channel in range(5):
        v = sum(variances[:, channel]) / 6 + 1e-5
        spread = [sum((row - sum(rows) / 6) ** 2 for row in rows) / 5
                  for rows in (means[:, channel], variances[:, channel])]  # fmt: skip
        slow.append(spread[0] / v + spread[1] / (4 * v * v))
    assert _groups.noise(list(means), list(variances), 1e-5) == pytest.approx(sorted(slow)[2], rel=1e-12)


def classes():
    """Eight batches of one class each: a class has its own brightness."""
    return [smooth(8, *IMAGES, seed=seed) + 1.5 * (-1) ** seed for seed in range(8)]


def test_bn407_hits_batches_of_one_class():
    (finding,) = found(network(), "BN407", classes())
    assert finding.severity == "warning"
    assert finding.evidence["batches"] == 8
    assert finding.evidence["share_of_channels"] >= 0.5


def test_bn407_misses_shuffled_batches_and_tensors_that_were_split():
    images = torch.cat(classes())[torch.randperm(64)]
    assert not found(network(), "BN407", list(images.split(8)))
    report = look(network(), "BN407", torch.cat(classes()), batch_size=8)
    assert not report.findings
    assert "two or more batches" in reason(report)


def test_critical_values_are_those_of_tables():
    for between, within, value in ((1, 30, 13.29), (3, 60, 6.17), (7, 120, 3.77), (10, 40, 3.87)):
        assert _groups.critical_f(between, within) == pytest.approx(value, rel=0.03)


def trained_on(batches):
    model = train_a_little(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    for _ in range(30):
        for batch in batches:
            model.train()(batch)
    return model


def test_bn408_hits_training_on_one_domain_at_a_time():
    batches = [3 * batch.mean() + batch for batch in classes()]
    (finding,) = found(trained_on(batches), "BN408", batches)
    assert finding.severity == "warning"
    assert finding.evidence["r_max"] ** 2 > 1.5


def test_bn408_misses_shuffled_batches():
    batches = list(torch.cat(classes())[torch.randperm(64)].split(8))
    assert not found(trained_on(batches), "BN408", batches)


def test_bn408_misses_what_few_images_cannot_show():
    """The variance of few images is above 1.5 times that of all now and then, where they are very different."""
    model = train_a_little(nn.Sequential(nn.BatchNorm1d(8)))
    draw = torch.distributions.StudentT(2.5).sample
    calibrate(model, draw((20_000, 1)) * torch.ones(8) + 0.1 * torch.randn(20_000, 8))
    samples = [draw((40, 1)) * torch.ones(8) + 0.1 * torch.randn(40, 8) for _ in range(60)]
    assert sum(bool(found(model, "BN408", list(x.split(4)))) for x in samples) <= 1


def test_variance_within_batches_is_that_of_its_definition():
    model, batches = network(depth=1), classes()
    within = _groups.Within()
    bninspect.stats(model, batches, on_piece=lambda _, report: within.add(report()))
    with torch.no_grad():
        inputs = [model[0](batch).double().transpose(0, 1).flatten(1) for batch in batches]
    slow = sum(x.var(1, correction=0) * x.shape[1] for x in inputs) / sum(x.shape[1] - 1 for x in inputs)
    torch.testing.assert_close(torch.from_numpy(within.variances()["1"]), slow, rtol=1e-5, atol=0)


def test_bn405_passes_over_a_layer_that_got_nothing():
    """As the head of a detection model that found no box."""

    class Boxes(nn.Module):
        def __init__(self):
            super().__init__()
            self.whole, self.boxes = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            self.boxes(x[:0])
            return self.whole(x[:, :, :1, :1])

    report = bninspect.check(Boxes(), input_size=(3, 8, 8), batch_size=2, select=["BN405"])
    assert [place.path for finding in report.findings for place in finding.layers] == ["whole"]
