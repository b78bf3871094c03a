"""One of two processes that train a model with DistributedDataParallel: RANK FOLDER. Each phase prints a line."""

from __future__ import annotations

import hashlib
import io
import sys
import warnings

import torch
from loops import batch, net, step
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import bninspect

rank, folder = int(sys.argv[1]), sys.argv[2]
warnings.simplefilter("ignore")
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)


def train(steps, brightness=1.0, *, shared=True, to=None, watched=True):
    """Train; the second process has images of this brightness. Alarms, and a hash of all that a training is."""
    torch.manual_seed(3)
    model = DistributedDataParallel(net(0.3), broadcast_buffers=shared)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    torch.manual_seed(rank)
    watch = bninspect.watch(model, optimizer, every=10, to=to, ranks=True) if watched else None
    if watch:
        watch.__enter__()
    for _ in range(steps):
        images, labels = batch()
        step(model, optimizer, images * (brightness if rank else 1), labels)
    if watch:
        watch.__exit__(None, None, None)
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), torch.get_rng_state()], buffer)
    found = (
        [(alarm.code, alarm.step, [place.path for place in alarm.layers]) for alarm in watch.alarms] if watch else []
    )
    return found, hashlib.sha256(buffer.getvalue()).hexdigest()


alone, watched = train(200, watched=False), train(200, to=f"{folder}/run.jsonl")
print("same", watched[1] == alone[1], watched[0])
print("apart", train(200, shared=False)[0])
print("bright", train(30, 2.5)[0])
print("apart and bright", train(30, 2.5, shared=False)[0])
distributed.destroy_process_group()
