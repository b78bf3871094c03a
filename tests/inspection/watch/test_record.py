"""The record on disk and with loggers: whole lines whatever happens, and no failure of theirs ends a training."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch
from loops import batch, net, step

import bninspect
from bninspect.errors import InputError, SourceError, WatchWarning
from bninspect.inspection.watch.reading import Reading

LOOP = """
import os, sys, torch, bninspect
from loops import batch, net, step
model = net()
optimizer = torch.optim.SGD(model.parameters(), 0.05)
with bninspect.watch(model, optimizer, every=1, to=sys.argv[1], append="append" in sys.argv):
    print(os.getpid(), flush=True)
    while True:
        step(model, optimizer, *batch())
"""


def loop(python, path, *arguments):
    """A training in a process of its own, which goes on until it is killed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*python, "-c", LOOP, str(path), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def report(path):
    reading = Reading(path)
    reading.more()
    return reading.report()


def test_every_full_line_of_a_killed_run_is_good_and_it_can_be_gone_on_with(tmp_path, python):
    path, begun = tmp_path / "run.jsonl", []
    for seconds in (0.3, 0.05):
        process = loop(python, path, "append")
        training = int(process.stdout.readline())
        assert report(path).state == "running"
        with pytest.raises(InputError, match="is being written by another run"):
            bninspect.watch(net(), to=path, append=True).__enter__()
        time.sleep(seconds)
        os.kill(training, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        *lines, rest = path.read_bytes().split(b"\n")
        events = [json.loads(line) for line in lines]
        begun.append(report(path).step)
        assert report(path).state == "cut"
        path.write_bytes(path.read_bytes() + rest + b'{"event":"record","st')  # as if it had been in the middle
        assert report(path).step == begun[-1]
    assert [event["step"] for event in events if event["event"] == "header"] == [0, begun[0]]
    steps = [event["step"] for event in events if event["event"] == "record"]
    assert steps == list(range(1, begun[1] + 1))
    assert 0 < begun[0] < begun[1]


def finished(path, **options):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with bninspect.watch(model, optimizer, every=2, to=path, **options) as watch:
        for _ in range(5):
            step(model, optimizer, *batch())
    return watch


def test_a_file_that_is_cut_anywhere_is_read_up_to_there(tmp_path):
    path, cut = tmp_path / "run.jsonl", tmp_path / "cut.jsonl"
    finished(path)
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    for end in (*range(header, len(whole), 211), len(whole)):
        cut.write_bytes(whole[:end])
        lines = whole[:end].count(b"\n")
        assert report(cut).step == [0, 2, 4, 5, 5][lines - 1]
        assert report(cut).state == ("ended" if end == len(whole) else "cut")
    for end in range(0, header, 211):
        cut.write_bytes(whole[:end])
        with pytest.raises(SourceError, match="it is empty" if not end else "ends within its first line"):
            report(cut)


def test_a_forked_process_leaves_the_record_alone(tmp_path):
    path, model = tmp_path / "run.jsonl", net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with bninspect.watch(model, optimizer, every=1, to=path):
        step(model, optimizer, *batch())
        before = path.read_bytes()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            assert path.read_bytes() == before
        else:
            optimizer.step()
    if not child:
        os._exit(0)
    assert (report(path).step, report(path).state) == (1, "ended")


def test_a_warning_points_at_the_loop(recwarn):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with bninspect.watch(model, optimizer):
        model[0][1].running_mean.fill_(torch.nan)
        optimizer.step()
    assert [warning.filename for warning in recwarn if warning.category is WatchWarning] == [__file__]


def test_two_runs_never_share_a_file(tmp_path):
    path = tmp_path / "run.jsonl"
    finished(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists, and two runs never share a file: give another name, or append=True"):
        finished(path)
    assert path.read_bytes() == before
    finished(path, append=True)
    assert report(path).step == 10
    assert path.read_bytes().startswith(before)
    finished(path, append=True, start=100)
    assert report(path).step == 105


@pytest.mark.parametrize("text", ["", "hello\n", '{"event":"header"}\n', '{"event":"record"}\n', "[1]\n", "\x00" * 99])
def test_what_is_no_record_is_not_gone_on_with(text, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    if not text:
        finished(path, append=True)
        assert report(path).step == 5
        return
    with pytest.raises(InputError, match=r"append=True goes on with a run: .*run\.jsonl"):
        finished(path, append=True)
    assert path.read_text() == text
    with pytest.raises(SourceError, match=r"is no record of bninspect\.watch"):
        report(path)


FULL = """
import resource, signal, sys, warnings, torch, bninspect
from loops import batch, net, step
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
model = net()
optimizer = torch.optim.SGD(model.parameters(), 0.05)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with bninspect.watch(model, optimizer, every=1, to=sys.argv[1]) as watch:
        for _ in range(20):
            step(model, optimizer, *batch())
print([str(one.message) for one in caught])
"""


def test_a_full_disk_is_one_warning_and_whole_lines(tmp_path, python):
    path = tmp_path / "run.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*python, "-c", FULL, str(path)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"['{path} cannot be written, and the training goes on: File too large']\n"
    text = path.read_bytes()
    assert text.endswith(b"\n")
    assert len(text) <= resource.getpagesize() * 2
    assert report(path).step > 2


def test_the_folder_of_vectors_is_no_others(tmp_path):
    finished(tmp_path / "run.jsonl", channels=True)
    assert sorted(file.name for file in (tmp_path / "run.channels").iterdir()) == [
        f"step-{number:08}.safetensors" for number in (2, 4, 5)
    ]
    (tmp_path / "run.jsonl").unlink()
    with pytest.raises(InputError, match="two runs never share a folder"):
        finished(tmp_path / "run.jsonl", channels=True)
    assert not (tmp_path / "run.jsonl").exists()


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("run.txt", "a record is a file that ends in .jsonl, and to='run.txt' does not"),
        ("nowhere/run.jsonl", "there is no folder nowhere for run.jsonl: make it first"),
        (3, "to is a path ending in .jsonl, a SummaryWriter, .* and not of type int"),
        ([3], "and not of type int"),
    ],
)
def test_what_cannot_be_recorded_to_is_refused_at_once(to, words):
    with pytest.raises(InputError, match=words):
        bninspect.watch(net(), to=to)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every must be positive, and 0 was given"),
        ({"accumulation": 0}, "accumulation must be positive"),
        ({"start": -1}, "start must be positive, and -1 was given"),
        ({"every": 1.5}, "every must be a whole number, and 1.5 was given"),
        ({"accumulation": True}, "accumulation must be a whole number, and True was given"),
        ({"probe_every": 0}, "probe_every must be positive, and 0 was given"),
        ({"on_alarm": 3}, "on_alarm is a function of an alarm, and a int was given"),
        ({"probe_every": 5}, "give probe=batch as well"),
        ({"channels": True}, "give to a path that ends in .jsonl"),
        ({"optimizer": "SGD"}, "a torch.optim.Optimizer was expected, and a str was given"),
        ({"ranks": True}, "torch.distributed runs with one or none"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        bninspect.watch(net(), **options).__enter__()


@pytest.mark.parametrize("by_optimizer", [True, False])
def test_a_loop_without_a_step_is_told(by_optimizer, recwarn):
    """As where the optimizer is another one than that of the loop."""
    model, other = net(), net()
    optimizer, mine = (torch.optim.SGD(one.parameters(), 0.1) for one in (other, model))
    words = "saw no step: the optimizer that it was given did not" if by_optimizer else "saw no step: it was given no"
    with pytest.warns(WatchWarning, match=words), bninspect.watch(model, optimizer if by_optimizer else None):
        step(model, mine, *batch())
    with pytest.raises(ZeroDivisionError), bninspect.watch(model, optimizer):
        raise ZeroDivisionError
    assert not list(recwarn)  # it has another reason


def test_models_without_statistics_are_refused():
    with pytest.raises(InputError, match="Linear has nothing to watch: it has no BatchNorm layer that keeps"):
        bninspect.watch(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="layer 0 is lazy and has no statistics yet"):
        bninspect.watch(torch.nn.Sequential(torch.nn.LazyBatchNorm1d()))


class Run:
    """What a run of W&B looks like to its users."""

    def __init__(self):
        self.logged = []

    def log(self, data, step=None):
        self.logged.append((step, data))


def test_loggers_are_given_names_as_their_users_know_them(tmp_path):
    run, called = Run(), []
    finished([run, lambda figures, at: called.append((at, figures)), str(tmp_path / "run.jsonl")])
    assert run.logged == called
    assert [at for at, _ in called] == [2, 4, 5]
    figures = called[0][1]
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    record = lines[1]["layers"]
    assert figures["bn/0.1/d_max"] == record["d_max"][0]
    assert figures["bn/1.1/running_var_min"] == record["running_var_min"][1]
    assert figures["bn/alarms"] == 0
    assert all(isinstance(value, float) for value in figures.values())


def test_a_summary_writer_is_written_to(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard.SummaryWriter(tmp_path) as writer:
        finished([writer, str(tmp_path / "run.jsonl")])
    read = events.EventAccumulator(str(tmp_path))
    read.Reload()
    record = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[1])["layers"]
    first = read.Scalars("bn/0.1/d_max")[0]
    assert (first.step, first.value) == (2, pytest.approx(record["d_max"][0]))


def test_a_logger_that_fails_is_one_warning():
    def fails(figures, at):
        raise ConnectionError("gone")

    with pytest.warns(
        WatchWarning, match="a logger cannot be written, and the training goes on: ConnectionError: gone"
    ) as told:
        finished(fails)
    assert len(told) == 1


def test_an_alarm_is_recorded_warned_of_and_called_with(tmp_path):
    model, called = net(), []
    with torch.no_grad():
        model[0][1].running_var[2] = float("inf")

    def stop(alarm):
        called.append(alarm)
        raise StopIteration("enough")

    with (
        pytest.warns(
            WatchWarning, match=r"step 0: BN101 stored values are NaN or infinite: 0\.1 \[channel 2\]\. Reset"
        ),
        pytest.raises(StopIteration, match="enough"),
        bninspect.watch(model, to=tmp_path / "run.jsonl", on_alarm=stop),
    ):
        pass
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["header", "alarm", "end"]
    assert lines[1]["layers"][0]["channels"] == [2]
    assert lines[2]["error"] == "StopIteration: enough"
    (alarm,) = called
    assert (alarm.code, alarm.step, alarm.severity) == ("BN101", 0, "error")


def test_what_is_only_told_is_no_warning():
    model = net()
    model[0].eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        with bninspect.watch(model, optimizer) as watch:
            step(model, optimizer, *batch())
    assert [alarm.severity for alarm in watch.alarms] == ["info"]


def test_a_probe_is_a_check_of_the_model_as_it_was_at_its_step(tmp_path):
    model, images = net(), batch(64)[0] * 3 + 5
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with bninspect.watch(model, optimizer, every=9, to=tmp_path / "run.jsonl", probe=images, probe_every=2):
        for _ in range(5):
            step(model, optimizer, *batch())
            if optimizer.state_dict() and int(model[0][1].num_batches_tracked) == 4:
                expected = bninspect.check(model, images)
    probes = [
        line for line in map(json.loads, (tmp_path / "run.jsonl").read_text().splitlines()) if line["event"] == "probe"
    ]
    assert [probe["step"] for probe in probes] == [2, 4]
    assert [finding["code"] for finding in probes[1]["findings"]] == [finding.code for finding in expected.findings]
    assert "BN401" in [finding.code for finding in expected.findings]


def test_a_probe_that_cannot_be_run_is_one_warning(recwarn):
    with bninspect.watch(net(), probe=torch.zeros(2, 5), every=1) as watch:
        watch.step()
        watch.step()
    (warning,) = recwarn
    assert warning.category is WatchWarning
    assert str(warning.message).startswith("the probe cannot be checked: ")


@pytest.mark.parametrize(
    ("value", "words"),
    [(torch.zeros(3), r"a tensor of \[3\]"), ("low", "a str"), (None, "a NoneType"), (torch.tensor(1j), "a tensor")],
)
def test_what_is_no_number_is_refused_as_a_scalar(value, words):
    with bninspect.watch(net()) as watch:
        with pytest.raises(InputError, match=f"loss of watch.step.. is a number or a tensor of one, and {words}"):
            watch.step(loss=value)
        watch.step(loss=torch.ones(1, 1), rate=1)


def test_a_fault_of_our_own_ends_the_watch_and_not_the_training(tmp_path):
    """A layer that is no layer any more is such a fault: nobody can be ready for all of them."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with bninspect.watch(model, optimizer, every=1, to=tmp_path / "run.jsonl") as watch:
        step(model, optimizer, *batch())
        model[0].eval()
        del model[0][1].track_running_stats
        with pytest.warns(
            WatchWarning, match="the watch ends at step 2, and the training goes on: internal error, Attr"
        ):
            step(model, optimizer, *batch())
        step(model, optimizer, *batch())
    assert watch.alarms == ()
    assert len(optimizer._optimizer_step_post_hooks) == 0
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["header", "record", "end"]
