"""The tree of chunk moments: the same bits in any order, nothing lost by packing, and few nodes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from bninspect import moments
from bninspect.inspection.population.ranges import joined, missing, share, without
from bninspect.inspection.population.tree import Tree, leaf, pack, unpack
from bninspect.moments import Moments, cpu

PATHS = ("a", "b")


def chunk_of(number, channels=24):
    x = torch.randn(4, channels, 3, 3, generator=torch.Generator().manual_seed(number)) * (1 + number % 7) + number % 5
    return moments.exact(x)


def bits(pooled):
    return {paths: b"".join(vector.tobytes() for vector in found) for paths, found in pooled.items()}


def tree_of(chunks):
    tree = Tree()
    for number in chunks:
        tree.add(0, number, leaf(4, {PATHS: chunk_of(number)}))
    return tree


def test_any_order_and_any_grouping_give_the_same_bits():
    whole = tree_of(range(53)).total()
    order = list(range(53))
    random.Random(0).shuffle(order)
    assert bits(tree_of(order).total()[1]) == bits(whole[1])
    for world_size in (2, 3, 7, 53, 64):
        merged = Tree()
        ranks = list(range(world_size))
        random.Random(world_size).shuffle(ranks)
        for rank in ranks:
            own = tree_of(k for begin, end in share([(0, 53)], rank, world_size) for k in range(begin, end))
            for (level, index), node in own.nodes.items():
                merged.add(level, index, node)
        assert bits(merged.total()[1]) == bits(whole[1])
        assert merged.total()[0] == 53 * 4


def test_the_total_is_that_of_all_values_at_once():
    images, found = tree_of(range(53)).total()
    x = torch.cat(
        [
            torch.randn(4, 24, 3, 3, generator=torch.Generator().manual_seed(k)).double() * (1 + k % 7) + k % 5
            for k in range(53)
        ]
    )
    assert images == len(x)
    np.testing.assert_allclose(found[PATHS].mean, x.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found[PATHS].M2 / found[PATHS].count, x.var((0, 2, 3), correction=0), rtol=1e-6)
    assert (found[PATHS].count == 53 * 4 * 9).all()


def test_chunks_that_took_another_way_through_the_model_are_kept_apart():
    trees = [Tree(), Tree()]
    for tree, order in zip(trees, ([0, 1, 2, 3], [3, 1, 0, 2]), strict=True):
        for number in order:
            tree.add(0, number, leaf(4, {("a",) if number % 2 else ("a", "b"): chunk_of(number)}))
    first, second = (tree.total()[1] for tree in trees)
    assert list(first) == list(second) == [("a", "b"), ("a",)]
    assert bits(first) == bits(second)


def test_packing_loses_no_bit():
    plain = chunk_of(0)
    odd = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e300, 5e-324, 0.1] * 3)
    for each in (
        plain,
        Moments(*[odd] * 10),
        Moments(*[np.roll(odd, k) for k in range(10)]),
        Moments(*[np.full(24, 7.0)] * 10),
    ):
        back = unpack(pack(each))
        assert [vector.tobytes() for vector in back] == [np.ascontiguousarray(vector).tobytes() for vector in each]


def test_a_million_chunks_leave_few_nodes_of_forty_bytes_a_channel():
    """The tree for one channel is that for 26,560 (resnet50); a range of any process has at most 2 log2(n) nodes."""
    tree = Tree()
    single = leaf(1, {})
    for number in range(3, 3 + 1_000_000):
        tree.add(0, number, single)
    most = 2 * (10**9 // 256).bit_length()
    assert len(tree.nodes) <= 2 * (1_000_000).bit_length()
    assert tree.total()[0] == 1_000_000
    assert joined(tree.spans()) == [(3, 1_000_003)]
    widths = [64, 256, 512, 1024, 2048]
    found = [moments.cpu.measure(torch.randn(4, width, 7, 7).relu_()) for width in widths]
    together = Moments(*(np.concatenate(vectors) for vectors in zip(*found, strict=True)))
    node = leaf(4, {PATHS: moments.merge(together, together)})
    per_channel = sum(vector.nbytes for vector in node.found[PATHS].values()) / sum(widths)
    assert per_channel * 26_560 * most <= 50e6


def test_shares_are_all_chunks_once():
    for total in (0, 1, 5, 63):
        for world_size in (1, 2, 3, 7, 64):
            shares = [share([(0, total)], rank, world_size) for rank in range(world_size)]
            chunks = [k for ranges in shares for begin, end in ranges for k in range(begin, end)]
            assert chunks == list(range(total))
            sizes = [sum(end - begin for begin, end in ranges) for ranges in shares]
            assert max(sizes) - min(sizes) <= 1


def test_what_is_missing_and_what_is_left():
    assert missing(10, [(4, 6), (0, 2), (5, 7)]) == [(2, 4), (7, 10)]
    assert missing(10, []) == [(0, 10)]
    assert missing(10, [(0, 10)]) == []
    assert without([(0, 5), (8, 12)], [(3, 9), (11, 12)]) == [(0, 3), (9, 11)]
    assert share([(2, 4), (7, 10)], 1, 2) == [(7, 10)]
    assert share([(2, 4), (7, 10)], 0, 2) == [(2, 4)]


@pytest.mark.parametrize("offset", [0, 1e3, 1e6])
def test_the_variance_of_the_whole_at_large_means(offset):
    """Against two passes in long double over all values at once; images differ, and the last chunk is short."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(offset + rng.normal(size=(203, 4, 6, 6)) + rng.normal(size=(203, 4, 1, 1))).float()
    tree = Tree()
    chunks = list(x.split(5))
    for number in rng.permutation(len(chunks)):
        tree.add(0, int(number), leaf(len(chunks[number]), {("bn",): cpu.measure(chunks[number])}))
    images, pooled = tree.total()
    found = pooled["bn",]
    rows = x.double().transpose(0, 1).flatten(1).numpy().astype(np.longdouble)
    var = np.square(rows - rows.mean(1, keepdims=True)).mean(1)
    assert images == 203
    np.testing.assert_allclose(found.M2 / found.count, var.astype(float), rtol=1e-6)
    assert (np.abs(found.mean - rows.mean(1)) <= 1e-6 * np.sqrt(var)).all()
