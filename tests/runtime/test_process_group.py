"""Tests of process groups: two processes under torchrun match one process with two gradient accumulation steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from bitgolf.errors import UsageError
from bitgolf.runtime.distributed import DistributedContext, all_reduce_gradients, all_reduce_mean, broadcast_scalar
from bitgolf.runtime.process_group import init_distributed, joined, rank_from_environment, shutdown_distributed
from helpers.forked import ForkedProcess
from helpers.forked_programs import run_python

STEPS, SIZE = 5, 2


def problem() -> tuple[list[torch.nn.Parameter], torch.Tensor, torch.Tensor]:
    """Least squares with parameters of several shapes, and inputs and targets for each step and process."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s)) for s in [(3, 6), (3,), ()]]
    return params, torch.randn(STEPS, SIZE, 8, 6), torch.randn(STEPS, SIZE, 8, 3)


def backward(params: list[torch.nn.Parameter], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    weight, bias, scale = params
    loss = ((x @ weight.T + bias) * scale - y).square().mean()
    loss.backward()
    return loss.detach()


def descend(params: list[torch.nn.Parameter]) -> None:
    with torch.no_grad():
        for p in params:
            assert p.grad is not None
            p -= 0.1 * p.grad
            p.grad = None


def worker(out: Path) -> None:
    """The program of each process under torchrun: train on its half of the data, and write the results."""
    distributed = init_distributed()
    params, xs, ys = problem()
    unused = torch.nn.Parameter(torch.zeros(2))
    losses = []
    for step in range(STEPS):
        losses.append(backward(params, xs[step, distributed.rank], ys[step, distributed.rank]))
        all_reduce_gradients([*params, unused], distributed).wait()
        descend(params)
    result = {
        "world": [
            distributed.rank,
            distributed.world_size,
            distributed.local_rank,
            distributed.device.type,
            distributed.backend,
            rank_from_environment(),
        ],
        "params": [p.tolist() for p in params],
        "losses": all_reduce_mean(torch.stack(losses), distributed).tolist(),
        "agreed": [
            broadcast_scalar(distributed.rank == 0, distributed),
            broadcast_scalar(distributed.rank == 1, distributed),
            broadcast_scalar(0.1 + distributed.rank, distributed),
        ],
        "kinds": [type(broadcast_scalar(v, distributed)).__name__ for v in (True, 3, 0.5)],
    }
    shutdown_distributed(distributed)
    (out / f"{distributed.rank}.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[object]]]:
    """The results of two gloo processes."""
    out = tmp_path_factory.mktemp("dist")
    words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={SIZE}", __file__, str(out)]
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = ForkedProcess(run_python, words, environment=hidden).finish(120)
    assert done.status == 0, done.output
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(SIZE)]


def test_each_process_knows_its_place(results: list[dict[str, list[object]]]) -> None:
    assert [r["world"] for r in results] == [[rank, SIZE, rank, "cpu", "gloo", rank] for rank in range(SIZE)]


def test_two_processes_equal_accumulation(results: list[dict[str, list[object]]]) -> None:
    params, xs, ys = problem()
    start = [p.detach().clone() for p in params]
    losses = []
    for step in range(STEPS):
        losses.append(sum(float(backward(params, xs[step, half], ys[step, half])) for half in range(SIZE)) / SIZE)
        for p in params:
            assert p.grad is not None
            p.grad /= SIZE
        descend(params)
    assert all((p - s).abs().min() > 1e-3 for p, s in zip(params, start, strict=True))
    assert results[0]["params"] == results[1]["params"]
    for got, want in zip(results[0]["params"], params, strict=True):
        torch.testing.assert_close(torch.tensor(got), want.detach(), atol=1e-6, rtol=0)
    assert results[0]["losses"] == results[1]["losses"] == pytest.approx(losses, abs=1e-5)


def test_rank_0_decides(results: list[dict[str, list[object]]]) -> None:
    for result in results:
        assert result["agreed"] == [True, False, 0.1]
        assert result["kinds"] == ["bool", "int", "float"]


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    distributed = init_distributed()
    assert (distributed.rank, distributed.world_size, distributed.backend) == (
        0,
        1,
        "",
    ) and not torch.distributed.is_initialized()
    params, xs, ys = problem()
    backward(params, xs[0, 0], ys[0, 0])
    grads = [p.grad.clone() for p in params if p.grad is not None]
    all_reduce_gradients(params, distributed).wait()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, grads, strict=True) if p.grad is not None)
    assert broadcast_scalar(0.3, distributed) == 0.3 and broadcast_scalar(True, distributed) is True
    assert torch.equal(all_reduce_mean(torch.tensor([1.0, 2.0]), distributed), torch.tensor([1.0, 2.0]))
    shutdown_distributed(distributed)


def test_a_block_inside_another_uses_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined("cpu") as outer:
        with joined("cpu") as inner:
            assert inner is outer
        with joined("cpu") as again:
            assert again is outer
    with joined("cpu") as other:
        assert other is not outer


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"RANK": "3"}, "RANK is 3, but WORLD_SIZE is 1"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE must be a number, got 'many'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK must be a number, got '-1'"),
    ],
)
def test_an_environment_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        init_distributed()


def test_the_world_is_a_value() -> None:
    assert DistributedContext() == DistributedContext(
        rank=0, world_size=1, local_rank=0, device=torch.device("cpu"), backend=""
    )


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
