"""The suite notices what a wrong kernel does: ops with a fault in them, on the CPU."""

from __future__ import annotations

import importlib

import pytest

torch = pytest.importorskip("torch", reason="CUDA kernels are tested through torch")
ops = importlib.import_module("my_llm_ffi.ops")
samples = importlib.import_module("reference.device_samples")
checks = importlib.import_module("reference.device_checks")
targets = importlib.import_module("reference.device_target")

CPU = torch.device("cpu")


def neighbour(tensor, elements):
    """Memory outside of a tensor, as a kernel without a bound sees it."""
    return torch.as_strided(tensor, (1,), (1,), tensor.storage_offset() + elements)


def unwritten(x, weight, out):
    out.view(-1)[-1] = torch.nan


def behind(x, weight, out):
    neighbour(out, out.numel()).fill_(0)


def ahead(x, weight, out):
    neighbour(out, -1).fill_(0)


def changed_input(x, weight, out):
    weight[0] += 1


def wrong_element(x, weight, out):
    out.view(-1)[0] *= 1.001


def infinite(x, weight, out):
    out.view(-1)[0] = torch.inf


@pytest.mark.parametrize(
    "fault", [unwritten, behind, ahead, changed_input, wrong_element, infinite]
)
def test_a_fault_is_noticed(fault, monkeypatch):
    right = ops.rms_norm

    def wrong(x, weight, *, eps, out):
        right(x, weight, eps=eps, out=out)
        fault(x, weight, out)

    family = samples.FAMILIES["rms_norm"]
    sample = list(family.samples(torch.float32, samples.Draw(0)))[3]
    for function, noticed in [(right, False), (wrong, True)]:
        monkeypatch.setattr(ops, "rms_norm", function)
        call = targets.Call.of("rms_norm", sample, CPU, (1,))
        call()
        try:
            call.check_memory()
            family.check(sample, call.results())
        except AssertionError:
            assert noticed
        else:
            assert not noticed


def sample_with(name, word):
    family = samples.FAMILIES[name]
    found = [s for s in family.samples(torch.float32, samples.Draw(0)) if word in s.label]
    return next(s for s in found if s.tensors[0].shape[0] > 2)


@pytest.mark.parametrize("word", ["all", "plain", "top_p", "min_p", "odd"])
def test_a_wrong_token_is_noticed(word):
    sample = sample_with("sample", word)
    ids, logprobs = checks.on_cpu("sample", sample)
    checks.sample(sample, [ids, logprobs])
    noticed = 0
    for r in range(len(ids)):
        other = ids.clone()
        other[r] = (ids[r] + 1) % sample.tensors[0].shape[1]
        right = torch.log_softmax(sample.tensors[0][r].double(), -1)[other[r]]
        with_other = logprobs.clone()
        with_other[r] = right.float()
        try:
            checks.sample(sample, [other, with_other])
        except AssertionError:
            noticed += 1
    assert noticed == len(ids)
    with pytest.raises(AssertionError):
        checks.sample(sample, [ids, logprobs + 0.01])


@pytest.mark.parametrize("name", ["mask_logits", "apply_penalties", "linear", "attention", "rope"])
def test_a_wrong_number_is_noticed(name):
    family = samples.FAMILIES[name]
    for sample in family.samples(torch.bfloat16, samples.Draw(0)):
        results = checks.on_cpu(name, sample)
        at = 2 if name == "mask_logits" else 0
        flat = results[at].reshape(-1)
        size = flat.abs().nan_to_num(0.0, posinf=0.0)
        if not size.numel() or size.max() < 0.1:
            continue
        flat[size.argmax()] *= 2 if name in ("linear", "attention") else 1.05
        results[at] = flat.view_as(results[at])
        with pytest.raises(AssertionError):
            family.check(sample, results)
