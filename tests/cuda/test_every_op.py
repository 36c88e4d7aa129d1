"""Every op on a device: sizes, dtypes, alignments, streams, graphs, bits, refusals.

The samples and what they must give are tests/reference/device_samples.py and device_checks.py.
`kind` is the CPU, where these tests are tried out, and CUDA.
"""

from __future__ import annotations

import importlib
import re
import zlib

import pytest

torch = pytest.importorskip("torch", reason="CUDA kernels are tested through torch")
declaration = importlib.import_module("my_llm_ffi.declaration")
ops = importlib.import_module("my_llm_ffi.ops")
samples = importlib.import_module("reference.device_samples")
targets = importlib.import_module("reference.device_target")

FAMILIES, Call = samples.FAMILIES, targets.Call
CASES = [
    pytest.param(name, dtype, id=f"{name}-{str(dtype).partition('.')[2]}")
    for name, family in FAMILIES.items()
    for dtype in family.dtypes
]
every_case = pytest.mark.parametrize(("name", "dtype"), CASES)
every_op = pytest.mark.parametrize("name", FAMILIES)


def drawn(name, dtype, seed, *, again=0):
    """The samples of an op; another draw has the same shapes and other numbers."""
    draw = samples.Draw(seed, again, zlib.crc32(name.encode()), samples.FLOATS.index(dtype) if
                        dtype in samples.FLOATS else 3)  # fmt: skip
    return FAMILIES[name].samples(dtype, draw)


def taken(name, dtype, target, seed):
    """Pairs of two draws of the samples that the device takes."""
    pairs = zip(drawn(name, dtype, seed), drawn(name, dtype, seed, again=1))
    return [pair for pair in pairs if target.takes(pair[0])]


def small(name, dtype=None):
    """A sample that has more than one row, of some columns."""
    found = list(drawn(name, dtype or FAMILIES[name].dtypes[0], seed=1))
    whole = [s for s in found if all(t is None or t.numel() > 1 for t in s.tensors)]
    return min(whole, key=lambda s: s.tensors[0].numel())


def verify(call, target):
    """Waits, and checks memory and results."""
    target.synchronize()
    try:
        call.check_memory()
        FAMILIES[call.op.name].check(call.sample, call.results())
    except AssertionError as error:
        raise AssertionError(f"{call.op.name} {call.sample.label}: {error}") from error


def test_every_op_has_a_family():
    assert sorted(FAMILIES) == declaration.op_names()


@every_op
def test_every_op_has_a_kernel(name, cuda_target):
    reference = importlib.import_module("my_llm_ffi.reference")
    assert cuda_target.device.type in reference.devices(declaration.load(name))


def refused_on_cuda(name):
    """Samples that CUDA refuses."""
    return [s for s in drawn(name, FAMILIES[name].dtypes[0], seed=1) if s.cpu_only]


def test_what_is_refused_on_cuda():
    assert [name for name in FAMILIES if refused_on_cuda(name)] == ["linear", "pack_weight"]


@pytest.mark.parametrize("name", ["linear", "pack_weight"])
def test_what_is_for_cpus_is_refused(name, cuda_target):
    for sample in refused_on_cuda(name):
        call = Call.of(name, sample, cuda_target.device)
        if call.outputs[0].tensor.numel() == 0:
            continue
        with pytest.raises(NotImplementedError, match=rf"{name}.cuda: .*for CPUs"):
            call()
        assert bool((call.outputs[0].bytes == targets.POISON).all())


@pytest.mark.parametrize("offsets", [(0,), (1,), (0, 1, 3, 0)], ids=["aligned", "odd", "mixed"])
@every_case
def test_results_in_poisoned_memory(name, dtype, offsets, target, seed):
    for sample, _ in taken(name, dtype, target, seed):
        call = Call.of(name, sample, target.device, offsets)
        call()
        verify(call, target)


@every_case
def test_the_callers_stream(name, dtype, target, seed):
    """Inputs arrive on a stream that is busy: work on another one would read what was there."""
    for sample, later in taken(name, dtype, target, seed)[::4]:
        call = Call.of(name, sample, target.device)
        call()
        there = [None if t is None else t.to(target.device) for t in later.tensors]
        with target.busy_stream():
            call.refill(later, there)
            call()
        verify(call, target)


@every_case
def test_a_graph_replayed_with_other_inputs(name, dtype, target, seed):
    for sample, later in taken(name, dtype, target, seed)[1::3]:
        call = Call.of(name, sample, target.device)
        replay = target.capture(call)
        call.refill(later)
        replay()
        verify(call, target)


@every_case
def test_the_same_bits_again_and_for_a_row_alone(name, dtype, target, seed):
    family = FAMILIES[name]
    for sample, _ in taken(name, dtype, target, seed)[1::2]:
        whole = Call.of(name, sample, target.device)
        whole()
        first = whole.results()
        again = Call.of(name, sample, target.device)
        again()
        for a, b in zip(first, again.results()):
            assert torch.equal(raw(a), raw(b)), f"{sample.label}: two calls differ"
        few = family.fewest(sample) if target.is_cuda else 1
        for r in places(whole.op, sample, family.rows, few):
            alone = Call.of(name, cut(whole.op, sample, family.rows, r, few), target.device)
            alone()
            for a, b in zip(first, alone.results()):
                same = torch.equal(raw(a[r : r + few]), raw(b[:few]))
                assert same, f"{sample.label}: row {r} of {few}"


def places(op, sample, names, few):
    """Where `few` of the rows of a sample may be cut out: first, in the middle, last."""
    if not names or few == 0:
        return ()
    rows = len(sample.tensors[[t.name for t in op.inputs].index(names[0])])
    return {0, (rows - few) // 2, rows - few} if rows > few else ()


def cut(op, sample, names, row, few):
    """The sample with a few rows of the named tensors."""
    tensors = [
        t[row : row + few].clone() if t is not None and spec.name in names else t
        for t, spec in zip(sample.tensors, op.inputs)
    ]
    return samples.Sample(sample.label, tensors, sample.options, sample.out_dtypes)


def raw(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@every_op
def test_another_device_than_the_current_one(name, target):
    if target.is_cuda and torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    device = torch.device("cuda", 1) if target.is_cuda else target.device
    other, sample = targets.Target(device), small(name)
    if not other.takes(sample):
        pytest.skip("refused on CUDA")
    call = Call.of(name, sample, device)
    call()  # the current device stays 0
    verify(call, other)


@every_op
def test_tensors_of_two_devices_are_refused(name, cuda_target):
    call = Call.of(name, small(name), cuda_target.device)
    inputs = [None if p is None else p.tensor for p in call.inputs]
    outs = [p.tensor for p in call.outputs]
    function, options = call.op.function, [call.sample.options.get(a.name, a.default) for a in
                                           call.op.attributes]  # fmt: skip
    for i, tensor in enumerate([*inputs, *outs]):
        if tensor is None or i == 0:
            continue
        mixed = [*inputs, *outs]
        mixed[i] = tensor.cpu()
        spec = (*call.op.inputs, *call.op.outputs)[i]
        with pytest.raises(ValueError, match=rf"{name}: {spec.name} is on device 1:0, .* on 2:0"):
            function(*mixed, *options)
    cuda_target.synchronize()  # no error is left behind


def spoiled(tensor):
    """Variants of a tensor that few ops take."""
    yield tensor[None]
    yield tensor.new_zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)
    yield tensor.new_zeros(tensor.shape[0] + 1, *tensor.shape[1:])
    yield tensor.double()
    yield tensor.new_zeros(*tensor.shape, 2)[..., 0]


def outcome(call, inputs):
    """What a call with other inputs raises: class and message, devices left out."""
    outs = [p.tensor for p in call.outputs]
    options = [call.sample.options.get(a.name, a.default) for a in call.op.attributes]
    try:
        call.op.function(*inputs, *outs, *options)
    except Exception as error:
        return type(error), re.sub(r"device \d+:\d+", "device", str(error))
    return None


@every_op
def test_refusals_are_those_of_the_cpu(name, target):
    sample = small(name)
    mine = Call.of(name, sample, target.device)
    plain = Call.of(name, sample, torch.device("cpu"))
    refused = 0
    for i, tensor in enumerate(sample.tensors):
        for wrong in [] if tensor is None else spoiled(tensor):
            inputs = [None if p is None else p.tensor for p in plain.inputs]
            inputs[i] = wrong
            expected = outcome(plain, inputs)
            if expected is None or expected[0] is IndexError:
                continue  # it is valid, or only the CPU looks at the values
            there = [None if t is None else t.to(target.device) for t in inputs]
            if not wrong.is_contiguous():
                there[i] = there[i].new_zeros(*tensor.shape, 2)[..., 0]
            assert outcome(mine, there) == expected
            refused += 1
    assert refused >= 3
    target.synchronize()
