"""The PyTorch side of `engine.py`: the same shapes and tasks, eager, with scaled_dot_product_attention.

    python engine_torch.py TASK MODEL LENGTH BATCH [bf16|bf16-amx] [cuda]

With `bf16`, scoring and decoding have the whole model in it, and training has autocast over parameters in f32.
`recompute` trains with a checkpoint at each layer. Logits are never held for more than 512 rows in scoring, as a careful user would write it. Decoding has a cache of keys
and values that is allocated once and written in place.
"""

import json
import os
import sys
import time

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK = 512
DECODED = 64  # tokens that one repetition of `decode` appends
BUDGET, LEAST = 10.0, 3
#        hidden, layers, heads, key-value heads, intermediate, vocabulary
SHAPES = {"15m": (288, 6, 6, 6, 768, 32_000), "135m": (576, 30, 9, 3, 1536, 49_152),
          "1b": (2048, 16, 32, 8, 8192, 128_256), "8b": (4096, 32, 32, 8, 14_336, 128_256)}


class Layer(nn.Module):
    def __init__(self, hidden, heads, kv_heads, intermediate):
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, hidden // heads
        linear = lambda inner, outer: nn.Linear(inner, outer, bias=False)
        self.query, self.out = linear(hidden, hidden), linear(hidden, hidden)
        self.key, self.value = (linear(hidden, kv_heads * self.width) for _ in range(2))
        self.gate, self.up = (linear(hidden, intermediate) for _ in range(2))
        self.down = linear(intermediate, hidden)
        self.attention_norm, self.feed_norm = (nn.RMSNorm(hidden, eps=1e-5) for _ in range(2))

    def forward(self, x, cos, sin, cache=None, start=0):
        batch, length, _ = x.shape
        normed = self.attention_norm(x)
        split = lambda y, heads: y.view(batch, length, heads, self.width).transpose(1, 2)
        query = rotate(split(self.query(normed), self.heads), cos, sin)
        key = rotate(split(self.key(normed), self.kv_heads), cos, sin)
        value = split(self.value(normed), self.kv_heads)
        if cache is not None:
            for kept, new in zip(cache, (key, value)):
                kept[:, :, start : start + length] = new
            key, value = (kept[:, :, : start + length] for kept in cache)
        grouped = self.heads != self.kv_heads
        causal = length > 1
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=grouped)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        normed = self.feed_norm(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))


def rotate(x, cos, sin):
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)


class Model(nn.Module):
    def __init__(self, name, length):
        super().__init__()
        hidden, layers, heads, kv_heads, intermediate, vocabulary = SHAPES[name]
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads, kv_heads, intermediate) for _ in range(layers))
        self.norm = nn.RMSNorm(hidden, eps=1e-5)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        width = hidden // heads
        angles = torch.outer(torch.arange(length), 10_000 ** (-torch.arange(0, width, 2) / width))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids, caches=None, start=0, recompute=False):
        x = self.embedding(ids)
        angles = (table[start : start + ids.shape[1]].to(x.dtype) for table in (self.cos, self.sin))
        cos, sin = angles
        for layer, cache in zip(self.layers, caches or [None] * len(self.layers)):
            if recompute:
                x = checkpoint(layer, x, cos, sin, use_reentrant=False)
            else:
                x = layer(x, cos, sin, cache, start)
        return self.norm(x)


def score(model, ids):
    with torch.inference_mode():
        hidden, targets = model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        for start in range(0, len(targets), CHUNK):
            logits = hidden[start : start + CHUNK] @ model.embedding.weight.T
            functional.cross_entropy(logits.float(), targets[start : start + CHUNK], reduction="none")


def train(model, optimizer, ids, rounded, recompute):
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=rounded):
        logits = model(ids, recompute=recompute)[:, :-1] @ model.embedding.weight.T
    functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten()).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


class Decoding:
    def __init__(self, model, ids):
        self.model, self.length = model, ids.shape[1]
        layer = model.layers[0]
        shape = (2, len(ids), layer.kv_heads, self.length + DECODED, layer.width)
        kind = {"dtype": model.embedding.weight.dtype, "device": ids.device}
        with torch.inference_mode():
            self.caches = [torch.zeros(shape, **kind) for _ in model.layers]
            self.first = self.best(ids, 0)

    def best(self, ids, start):
        last = self.model(ids, self.caches, start)[:, -1:]
        return (last @ self.model.embedding.weight.T).argmax(-1)

    def __call__(self):
        with torch.inference_mode():
            ids = self.first
            for step in range(DECODED):
                ids = self.best(ids, self.length + step)


def machine_seconds():
    ticks = [int(field) for field in open("/proc/stat").readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def measure(work, device):
    def work_and_wait():
        work()
        if device == "cuda":
            torch.cuda.synchronize()

    work_and_wait()
    seconds, started, busy, own = [], time.perf_counter(), machine_seconds(), time.process_time()
    while len(seconds) < LEAST or time.perf_counter() - started < BUDGET:
        before = time.perf_counter()
        work_and_wait()
        seconds.append(time.perf_counter() - before)
    wall = time.perf_counter() - started
    others = max(0.0, machine_seconds() - busy - (time.process_time() - own)) / wall
    return sorted(seconds)[len(seconds) // 2], len(seconds), others


def main():
    task, name, length, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    rounded, device = bool({"bf16", "bf16-amx"} & set(sys.argv[5:])), "cuda" if "cuda" in sys.argv[5:] else "cpu"
    with torch.device(device):
        model = Model(name, length + DECODED)
        ids = torch.randint(0, SHAPES[name][5], (batch, length))
    if rounded and task in ("score", "decode"):
        model.bfloat16()
    if task == "score":
        work = lambda: score(model, ids)
    elif task == "decode":
        work = Decoding(model, ids)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
        work = lambda: train(model, optimizer, ids, rounded, task == "recompute")
    seconds, repetitions, others = measure(work, device)
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024
    print(json.dumps({
        "tokens_per_second": batch * (DECODED if task == "decode" else length) / seconds, "repetitions": repetitions, "peak_mib": peak, "others": others,
        "torch": torch.__version__,
    }))


main()
