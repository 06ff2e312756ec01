"""The attention kernels for CUDA alone: against float64, beside PyTorch's attention, in both sizes of steps.

    python benches/attention_kernels.py

Needs a GPU, PyTorch and CuPy. For each width of heads it prints how far outputs and gradients are from float64 (as a share of
their norm) beside what PyTorch's attention in bf16 is, the greatest error of the logarithms of sums, and whether a second run
gives the same bits; then speed at long sequences, counting two products forward and five back, half of each for causality.
"""

import math
import pathlib

import cupy
import torch
from torch.nn import functional

SOURCE = pathlib.Path(__file__).resolve().parent.parent / "stages/src/model/device/cuda/attention.cu"
#        width of heads, heads, heads of keys, sequences, tokens
CASES = [(128, 4, 2, 2, 300), (64, 8, 2, 1, 1000), (80, 4, 4, 1, 257), (16, 2, 1, 2, 5), (48, 3, 1, 1, 700),
         (128, 2, 1, 1, 64), (112, 2, 1, 1, 129)]
SPEED = [(128, 32, 8, 8192), (128, 32, 8, 32768), (64, 32, 8, 32768), (80, 32, 32, 2048)]


class Kernels:
    """What `cuda/attention.rs` does, with tensors of PyTorch."""

    def __init__(self, width, heads, shared, has_little):
        self.width, self.heads, self.shared = width, heads, shared
        options = ("--std=c++17", f"-DHEAD_DIM={width}") + (("-DLITTLE_MEMORY",) if has_little else ())
        module = cupy.RawModule(code=SOURCE.read_text(), options=options)
        less = 2 if has_little else 1
        rows = {"forward": 128 + 256 // less, "backward_queries": 256 + 128 // less, "backward_keys": 128 + 256 // less}
        self.memory = {name: count * (width + 8) * 2 + 1024 for name, count in rows.items()}
        self.kernels = {name: module.get_function(f"attention_{name}") for name in rows}
        for name, kernel in self.kernels.items():
            kernel.max_dynamic_shared_size_bytes = self.memory[name]

    def start(self, name, rows, heads, tensors):
        batch, length = tensors[0].shape[:2]
        grid = (math.ceil(length / rows), heads, batch)
        numbers = [cupy.int32(number) for number in (length, self.heads, self.shared)]
        arguments = [tensor.data_ptr() for tensor in tensors] + numbers + [cupy.float32(1 / math.sqrt(self.width))]
        self.kernels[name](grid, (128,), tuple(arguments), shared_mem=self.memory[name])

    def forward(self, both, values):
        batch, length = both.shape[:2]
        # What is not written stays NaN and is seen.
        outputs = torch.full((batch, length, self.heads, self.width), math.nan, device="cuda", dtype=torch.bfloat16)
        log_sums = torch.full((batch, self.heads, length), math.nan, device="cuda")
        self.start("forward", 128, self.heads, [both, values, outputs, log_sums])
        return outputs, log_sums

    def backward(self, both, values, gradient, log_sums, deltas):
        batch, length = both.shape[:2]
        room = lambda heads: torch.full((batch, length, heads, self.width), math.nan, device="cuda")
        queries, keys, of_values = room(self.heads), room(self.shared), room(self.shared)
        inputs = [both, values, gradient, log_sums, deltas]
        self.start("backward_queries", 128, self.heads, [*inputs, queries])
        self.start("backward_keys", 64, self.shared, [*inputs, keys, of_values])
        return queries, keys, of_values


def inputs(width, heads, shared, batch, length):
    random = lambda count: torch.randn(batch, length, count, width, device="cuda").bfloat16()
    return random(heads + shared), random(shared), random(heads)


def parts(both, values, heads, dtype):
    tensors = (both[:, :, :heads], both[:, :, heads:], values)
    return [tensor.to(dtype).transpose(1, 2).detach().requires_grad_() for tensor in tensors]


def products(outputs, gradient):
    return (outputs.float() * gradient.float()).sum(-1).transpose(1, 2).contiguous()


def away(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def check(case, has_little):
    width, heads, shared, batch, length = case
    torch.manual_seed(1)
    both, values, gradient = inputs(*case)
    query, key, value = parts(both, values, heads, torch.float64)
    scores = query @ key.repeat_interleave(heads // shared, 1).transpose(-1, -2) / math.sqrt(width)
    hidden = torch.ones(length, length, device="cuda", dtype=torch.bool).triu(1)
    scores = scores.masked_fill(hidden, -math.inf)
    outputs = scores.softmax(-1) @ value.repeat_interleave(heads // shared, 1)
    outputs.backward(gradient.double().transpose(1, 2))
    exact = [tensor.transpose(1, 2) for tensor in (outputs, query.grad, key.grad, value.grad)]

    theirs = parts(both, values, heads, torch.bfloat16)
    attended = functional.scaled_dot_product_attention(*theirs, is_causal=True, enable_gqa=True)
    attended.backward(gradient.transpose(1, 2))
    theirs = [tensor.transpose(1, 2) for tensor in (attended, *(tensor.grad for tensor in theirs))]

    kernels = Kernels(width, heads, shared, has_little)
    found, log_sums = kernels.forward(both, values)
    deltas = products(found, gradient)
    ours = [found, *kernels.backward(both, values, gradient, log_sums, deltas)]
    again = [kernels.forward(both, values)[0], *kernels.backward(both, values, gradient, log_sums, deltas)]
    distances = " ".join(
        f"{name} {away(one, truth):.1e} ({away(other, truth):.1e})"
        for name, one, other, truth in zip(("outputs", "queries", "keys", "values"), ours, theirs, exact)
    )
    sums = (log_sums - scores.logsumexp(-1)).abs().max().item()
    same = all(torch.equal(one, other) for one, other in zip(ours, again))
    print(f"{case}: {distances}, logarithms {sums:.1e}, the same bits: {same}", flush=True)


def milliseconds(work, repetitions=5):
    work()
    times = []
    for _ in range(repetitions):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[repetitions // 2]


def speed(width, heads, shared, length, has_little):
    kernels = Kernels(width, heads, shared, has_little)
    both, values, gradient = inputs(width, heads, shared, 1, length)
    found, log_sums = kernels.forward(both, values)
    deltas = products(found, gradient)
    theirs = [tensor.detach().contiguous().requires_grad_() for tensor in parts(both, values, heads, torch.bfloat16)]
    attend = lambda: functional.scaled_dot_product_attention(*theirs, is_causal=True, enable_gqa=True)
    outputs, gradient_of_theirs = attend(), gradient.transpose(1, 2).contiguous()
    with torch.no_grad():
        forward = milliseconds(lambda: kernels.forward(both, values)), milliseconds(attend)
    backward = (
        milliseconds(lambda: kernels.backward(both, values, gradient, log_sums, deltas)),
        milliseconds(lambda: torch.autograd.grad(outputs, theirs, gradient_of_theirs, retain_graph=True)),
    )
    operations = 2 * length * length * width * heads
    for name, (ours, others), count in (("forward", forward, 1.0), ("backward", backward, 2.5)):
        rate = lambda time: count * operations / time / 1e9
        print(
            f"{width} wide, {heads} heads, {shared} of keys, {length} tokens: {name} {ours:.2f} ms"
            f" ({rate(ours):.0f} TFLOP/s), PyTorch {others:.2f} ms ({rate(others):.0f})",
            flush=True,
        )


def main():
    with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
        for has_little in (False, True):
            print("steps for blocks with little shared memory" if has_little else "steps for blocks with much shared memory")
            for case in CASES:
                check(case, has_little)
            for case in SPEED:
                speed(*case, has_little)


main()
