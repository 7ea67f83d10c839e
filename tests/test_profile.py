"""Costs by layer and phase, and the pictures made of results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models import draw, model, node

from odl import api, profile, render, results
from odl.graph import Phase
from odl.program import ARENA, Call
from odl.recipe import Recipe
from odl.types import Array


def compiled_for(folder: Path, batch: int = 1) -> api.Compiled:
    """Conv 3x3 from 2 to 4 channels on 6x6, ReLU, mean, Gemm to 3 classes, Softmax."""
    proto = model(
        node("Conv", "x w b", "c", "conv", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r", "relu"),
        node("GlobalAveragePool", "r", "p", "pool"),
        node("Flatten", "p", "f", "flat"),
        node("Gemm", "f v a", "g", "fc", transB=1),
        node("Softmax", "g", "y", "softmax"),
        x=(1, 2, 6, 6), w=draw(4, 2, 3, 3), b=draw(4), v=draw(3, 4), a=draw(3),
    )  # fmt: skip
    onnx.save(proto, folder / "model.onnx")
    return api.compile_model(folder / "model.onnx", Recipe(batch=batch), "host")


def held(compiled: api.Compiled) -> dict[str, Array]:
    """What the chip sends back when it has changed nothing."""
    residents = compiled.program.residents
    return {each.tensor.name: each.tensor.initial for each in residents if each.buffer.space == ARENA}


def test_a_profile_adds_up_by_layer_and_phase(tmp_path: Path) -> None:
    compiled = compiled_for(tmp_path, batch=2)
    calls = list(compiled.program.calls())
    counts = np.array([[0 if entry == "infer" else 10**number % 997 for number, entry, _ in calls]] * 3, np.uint32)
    both = np.stack([counts, 2 * counts], axis=-1)
    found = profile.profile(compiled.program, compiled.training, both, ("cycles", "fpu"))

    def by_hand(layer: str, phase: Phase) -> int:
        def here(entry: str, call: Call) -> bool:
            return entry != "infer" and (call.layer, call.phase) == (layer, phase)

        return 3 * sum(10**number % 997 for number, entry, call in calls if here(entry, call))

    for layer, phases in found.items():
        for phase, cost in phases.items():
            assert cost.counts.get("cycles", 0) == by_hand(layer, phase), (layer, phase)
            assert cost.counts.get("fpu", 0) == 2 * by_hand(layer, phase), (layer, phase)
    assert found["conv"][Phase.FORWARD].macs == found["conv"][Phase.WEIGHT_GRADIENT].macs == 2592
    assert Phase.INPUT_GRADIENT not in found["conv"]
    everything = profile.total(cost for phases in found.values() for cost in phases.values())
    assert (everything.counts["cycles"], everything.macs) == (counts.sum(), 5220)
    assert list(found) == ["conv", "relu", "pool", "fc", "loss", "batch", "step"]
    assert list(found["conv"]) == [Phase.FORWARD, Phase.WEIGHT_GRADIENT, Phase.UPDATE]
    assert "softmax" not in found


def test_costs_are_means_of_a_step(tmp_path: Path) -> None:
    compiled = compiled_for(tmp_path)
    counts = np.zeros((4, sum(1 for _ in compiled.program.calls()), 3), np.uint32)
    counts[:, 0, 0] = 10, 10, 10, 11
    counts[0, 1] = 4_000_000_000, 6, 9
    counts[1, 1] = 4_000_000_000, 6, 0
    whole = np.array([1_999_999_000, 1_999_999_002], np.uint32)
    loss = (1.0, 1.0, 1.0, float("nan"))
    run = api.Run(compiled, "chip", loss, held(compiled), counts, ("cycles", "fpu", "dma_wait"), whole, 0)
    told = results.ran(run)
    conv, relu, *_ = told["layers"]
    assert conv["cycles"] == 10.25
    time = {"cycles": 2_000_000_000, "macs": 0, "mac_per_cycle": 0.0}
    assert relu["phases"]["forward"] == {**time, "stalls": {"fpu": 3}, "dma_wait": 2.25}
    assert conv["mac_per_cycle"] == pytest.approx(5184 / 10.25)
    assert told["per_step"]["cycles"] == 1_999_999_001, "of the program that was not profiled"
    assert told["per_step"]["mac_per_cycle"] == pytest.approx(5220 / 1_999_999_001)
    assert "1,999,999,001 cycles, 5,220 MACs, 0.00 a cycle" in render.ran(told)


def test_instructions_of_a_step_are_those_of_its_calls(tmp_path: Path) -> None:
    compiled = compiled_for(tmp_path)
    counts = np.full((1, sum(1 for _ in compiled.program.calls()), 1), 7, np.uint32)
    run = api.Run(compiled, "chip", (1.0,), held(compiled), counts, ("instructions",), np.array([9999]), 0)
    told = results.ran(run)
    assert told["per_step"]["instructions"] == sum(layer["instructions"] for layer in told["layers"])
    assert set(told["per_step"]) == {"instructions", "macs"}


def test_the_picture_of_the_arena() -> None:
    blocks = [
        {"space": "arena", "offset": 0, "bytes": 10, "first": 0, "last": 9},
        {"space": "arena", "offset": 20, "bytes": 9, "first": 0, "last": 1},
        {"space": "x", "offset": 0, "bytes": 40, "first": 0, "last": 9},
    ]
    assert render._map(blocks, 1, 40, 10) == "=" * 10 + "." * 10 + "#" * 9 + "." * 11
    assert render._map(blocks, 2, 40, 10) == "=" * 10 + "." * 30
