"""Sessions: equal codes for any number of workers, one factorization per Hessian, errors that name tensors."""

from __future__ import annotations

from threading import Barrier

import numpy as np
import pytest
import torch
from torch import Tensor

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import MATRICES_PER_TASK, Codec, Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ, InverseCholesky
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import encode_model
from bitgolf.quantize.stats import MatrixStats

SOLVED = part(IntRows, bits=4, solver=part(GPTQ, block=16))
CODECS: list[Spec[Codec]] = [
    SOLVED,
    part(TrellisCodec, bits=3.0, states=8),
    part(TrellisCodec, bits=3.0, states=1),
    part(LQER, codec=SOLVED, top_k=2, metric="hessian"),
    part(LQER, codec=part(TrellisCodec, bits=2.0, states=4), top_k=2),
]


def model() -> tuple[dict[str, Tensor], dict[str, MatrixStats]]:
    """Matrices of three shapes, of one more than `MATRICES_PER_TASK`; q, k and v of a layer share a Hessian."""
    generator = torch.Generator().manual_seed(0)
    weights, stats = dict[str, Tensor](), dict[str, MatrixStats]()
    for layer in range(MATRICES_PER_TASK):
        x = torch.randn(96, 24, generator=generator) @ torch.randn(24, 24, generator=generator)
        shared, tall = x.T @ x / len(x), torch.randn(200, 40, generator=generator)
        for name, shape in {"q": (24, 24), "k": (24, 24), "up": (40, 24), "down": (24, 40)}.items():
            path = f"{layer}.{name}"
            weights[path] = torch.randn(shape, generator=generator)
            hessian = tall.T @ tall / len(tall) if name == "down" else shared
            stats[path] = MatrixStats(hessian, torch.rand(shape[0], generator=generator) + 0.1, 96)
    return weights | {"scale": torch.ones(24)}, stats


ROLES = {path: "scale" if path == "scale" else "matrix" for path in model()[0]}


def rules(codec: Spec[Codec]) -> tuple[Spec[Rule], ...]:
    return part(Rule, where="matrix", use=codec), part(Rule, where="*", use=part(Float, dtype="float16"))


def same(a: EncodedTensor, b: EncodedTensor) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_codes_do_not_depend_on_the_workers(codec: Spec[Codec]) -> None:
    weights, stats = model()
    alone = encode_model(weights, ROLES, rules(codec), stats, EncodingSession(1))
    for workers in (2, 5):
        codes = encode_model(weights, ROLES, rules(codec), stats, EncodingSession(workers))
        assert list(codes) == list(weights) and all(same(codes[path], alone[path]) for path in weights)


def test_a_matrix_has_the_code_that_it_has_alone() -> None:
    weights, stats = model()
    codes = encode_model(weights, ROLES, rules(SOLVED), stats)
    assert all(same(codes[path], SOLVED().encode(weights[path], stats[path])) for path in stats)


@pytest.fixture
def factored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the Hessians that are factored."""
    seen, factor = list[int](), GPTQ.factorize

    def counted(self: GPTQ, hessian: Tensor) -> InverseCholesky:
        seen.append(id(hessian))
        return factor(self, hessian)

    monkeypatch.setattr(GPTQ, "factorize", counted)
    return seen


@pytest.mark.parametrize("codec", [SOLVED, part(TrellisCodec, bits=3.0, states=4)], ids=repr)
def test_a_hessian_is_factored_once_for_all_who_share_it_and_for_all_passes(
    codec: Spec[Codec], factored: list[int]
) -> None:
    weights, stats = model()
    session = EncodingSession(3)
    placed = session.to_device(stats)
    for _ in range(2):
        encode_model(weights, ROLES, rules(codec), placed, session)
    assert (
        sorted(factored) == sorted({id(known.hessian) for known in stats.values()})
        and len(factored) == 2 * MATRICES_PER_TASK
    )
    encode_model(weights, ROLES, rules(codec), placed, EncodingSession(2))
    assert len(factored) == 2 * MATRICES_PER_TASK, "the statistics remember it, whoever encodes"
    encode_model(weights, ROLES, rules(codec), stats)
    assert len(factored) == 4 * MATRICES_PER_TASK, "statistics that nobody placed remember nothing"


def test_other_settings_are_other_factors(factored: list[int]) -> None:
    known = EncodingSession(1).to_device({"w": MatrixStats(torch.eye(3), torch.ones(3), 1)})["w"]
    for solve in (GPTQ(), GPTQ(block=2), GPTQ(damping=0.5), GPTQ(order="given"), GPTQ(damping=0.5)):
        assert torch.equal(known.factorize(solve).upper, solve.factorize(known.hessian).upper)
    assert len(factored) == 5 + 3


def test_another_hessian_in_the_same_statistics_is_factored_anew() -> None:
    known = EncodingSession(1).to_device({"w": MatrixStats(torch.eye(3), torch.ones(3), 1)})["w"]
    assert known.factorize(GPTQ()) is known.factorize(GPTQ())
    other = known._replace(hessian=4 * torch.eye(3))
    assert torch.equal(other.factorize(GPTQ()).upper, known.factorize(GPTQ()).upper / 2)


def test_two_workers_work_at_once_with_one_thread_each() -> None:
    both, threads = Barrier(2, timeout=30), torch.get_num_threads()

    def work(item: int) -> int:
        both.wait()
        assert torch.get_num_threads() == 1
        return item

    try:
        torch.set_num_threads(2)
        assert EncodingSession().workers == 2 and list(EncodingSession(2).map(work, [3, 1])) == [3, 1]
        assert torch.get_num_threads() == 2
        one_by_one = EncodingSession(1).map(lambda item: torch.get_num_threads(), [1, 2])
        assert next(one_by_one) == 1 and torch.get_num_threads() == 2, "between two results the caller has its threads"
        assert list(one_by_one) == [1]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("codec", [part(IntRows), *CODECS], ids=repr)
def test_an_error_names_its_tensor(codec: Spec[Codec], workers: int) -> None:
    weights, stats = model()
    weights["2.up"][1, 1] = torch.nan
    with pytest.raises(BitgolfError, match="not finite") as error:
        encode_model(weights, ROLES, rules(codec), stats, EncodingSession(workers))
    assert error.value.where == "2.up"


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_an_error_in_a_hessian_names_its_matrix(codec: Spec[Codec]) -> None:
    weights, stats = model()
    stats["3.down"].hessian[5, 5] = torch.nan
    with pytest.raises(BitgolfError, match="not finite") as error:
        encode_model(weights, ROLES, rules(codec), stats, EncodingSession(2))
    assert error.value.where == "3.down"


def test_progress_counts_all_weights() -> None:
    weights, stats = model()
    seen: list[tuple[int, int]] = []
    encode_model(
        weights, ROLES, rules(SOLVED), stats, EncodingSession(2), progress=lambda done, of: seen.append((done, of))
    )
    total = sum(w.numel() for w in weights.values())
    assert len(seen) == len(weights) and seen == sorted(seen) and seen[-1] == (total, total)


def test_where_and_with_how_many_threads_is_said() -> None:
    weights, stats = model()
    heard = list[str]()
    encode_model(
        weights, ROLES, rules(part(TrellisCodec, bits=3.0, states=4)), stats, EncodingSession(2), log=heard.append
    )
    assert heard[0] == "encoding on cpu, 2 threads (as set)" and "trellis of 4 states" in heard[1]
    other = EncodingSession(device=torch.device("mps"))
    assert (
        other.device.type == "cpu"
        and "cpu (mps has no float64)" in other.description
        and "torch's default" in other.description
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_gpu_finds_nearly_the_same_codes_and_the_same_every_time(codec: Spec[Codec]) -> None:
    weights, stats = model()
    plain = encode_model(weights, ROLES, rules(codec), stats)
    first, again = (
        encode_model(weights, ROLES, rules(codec), stats, EncodingSession(2, torch.device("cuda"))) for _ in range(2)
    )
    assert all(same(first[path], again[path]) for path in weights)
    differ = sum(int((first[path]["codes"] != plain[path]["codes"]).sum()) for path in stats)
    assert differ < 0.01 * sum(w.numel() for w in weights.values())
