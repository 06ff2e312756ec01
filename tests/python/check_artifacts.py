"""Opens twdag's artifacts with other people's libraries and computes the numbers again.

    python check_artifacts.py --engine numpy|transformers scores MODEL TOKENS SCORES [--sequences N]
    python check_artifacts.py weights SHORT LONG WEIGHTS (--dense LAMBDA | --sparse KAPPA)
    python check_artifacts.py --engine transformers model MODEL
    python check_artifacts.py [--engine transformers] adapter MODEL ADAPTER MERGED

Folders are what `twdag path GRAPH STAGE` prints. `scores` recomputes per-token losses: with numpy in float64 from the
published formulas of Llama, Phi and the rotary scalings, or with transformers in float32. The largest difference must
stay below 1e-4 nats. transformers multiplies frequencies and positions in float32, whatever the model's type, which moves
the angle at position 2,000 by up to 1e-4 and losses by up to 2e-4 nats, also in float64. So that both sides have the same
rotary embedding it gets angles of float64, rounded once, as its own frequencies (which must agree with the formula's) mean
them; what its own angles would give is printed beside. `adapter` computes the merged weights again, which must be the same bits; with the engine
`transformers`, peft opens the adapter beside the model, and both must give the same losses. Needs numpy and safetensors;
the engine `transformers` needs torch, transformers and (for adapters) peft too.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

TOLERANCE = 1e-4


def parts(folder, name):
    files = sorted(Path(folder).glob("part-*.safetensors"))
    assert files, f"{folder}: no part-*.safetensors"
    return np.concatenate([load_file(file)[name] for file in files])


def tensors(folder):
    """All tensors of a model folder, from one file or from shards with their index."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    places = json.loads(index.read_text())["weight_map"]
    found = {}
    for shard in sorted(set(places.values())):
        for name, value in load_file(folder / shard).items():
            assert places.get(name) == shard, f"{folder / shard}: {name} stands elsewhere in the index"
            found[name] = value
    assert found.keys() == places.keys(), f"{index}: {sorted(places.keys() - found.keys())} are in no shard"
    return found


def inverse_frequencies(config):
    """Inverse frequencies and attention factor of the rotary embedding named in a config, from the papers' formulas."""
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    both = config | (config.get("rope_parameters") or {})  # the layout of transformers 5
    dim = int(dim * both.get("partial_rotary_factor", 0.5 if config["model_type"] == "phi" else 1.0))
    theta = both["rope_theta"]
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {"rope_type": "default"}
    base = theta ** (-np.arange(0, dim, 2) / dim)
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "default":
        return base, 1.0
    factor = scaling["factor"]
    if kind == "linear":
        return base / factor, 1.0
    if kind == "yarn":
        context = scaling["original_max_position_embeddings"]

        def pair(rotations):  # the (real) index of the pair that turns so often within the original context
            return dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(pair(scaling.get("beta_fast", 32))), 0)
        high = min(math.ceil(pair(scaling.get("beta_slow", 1))), dim - 1)
        ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
        return base / factor * ramp + base * (1 - ramp), 0.1 * math.log(factor) + 1
    raise SystemExit(f"no numpy formula here for rope type {kind}")


class Numpy:
    """A forward pass of Llama or Phi in float64, written from the architectures' descriptions."""

    def __init__(self, folder):
        self.config = json.loads((Path(folder) / "config.json").read_text())
        self.weights = {name: value.astype(np.float64) for name, value in tensors(folder).items()}
        self.frequencies, self.factor = inverse_frequencies(self.config)

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights.get(name + ".bias", 0.0)

    def norm(self, x, name):
        weight, bias = self.weights[name + ".weight"], self.weights.get(name + ".bias")
        if bias is None:  # RMSNorm
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"]) * weight
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["layer_norm_eps"]) * weight + bias

    def attention(self, y, at):
        config, length = self.config, len(y)
        heads = config["num_attention_heads"]
        groups = config.get("num_key_value_heads") or heads
        dim = config.get("head_dim") or config["hidden_size"] // heads
        half = len(self.frequencies)
        angles = np.arange(length)[:, None] * self.frequencies[None]
        cos, sin = np.cos(angles) * self.factor, np.sin(angles) * self.factor

        def turn(x):  # [head, position, dim], halves of the rotated part paired
            one, two, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
            return np.concatenate([one * cos - two * sin, two * cos + one * sin, rest], -1)

        q, k, v = (
            self.linear(y, f"{at}self_attn.{name}_proj").reshape(length, count, dim).transpose(1, 0, 2)
            for name, count in (("q", heads), ("k", groups), ("v", groups))
        )
        q, k = turn(q), turn(k)
        k, v = np.repeat(k, heads // groups, 0), np.repeat(v, heads // groups, 0)
        score = q @ k.transpose(0, 2, 1) / math.sqrt(dim) + np.triu(np.full((length, length), -np.inf), 1)
        p = np.exp(score - score.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return (p @ v).transpose(1, 0, 2).reshape(length, heads * dim)

    def losses(self, ids):
        weights = self.weights
        x = weights["model.embed_tokens.weight"][ids]
        is_phi = self.config["model_type"] == "phi"
        for layer in range(self.config["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            y = self.norm(x, at + "input_layernorm")
            if is_phi:
                up = self.linear(y, at + "mlp.fc1")
                gelu = 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
                attended = self.linear(self.attention(y, at), at + "self_attn.dense")
                x = x + attended + self.linear(gelu, at + "mlp.fc2")
            else:
                x = x + self.linear(self.attention(y, at), at + "self_attn.o_proj")
                y = self.norm(x, at + "post_attention_layernorm")
                gate, up = self.linear(y, at + "mlp.gate_proj"), self.linear(y, at + "mlp.up_proj")
                x = x + self.linear(gate / (1 + np.exp(-gate)) * up, at + "mlp.down_proj")
        head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        final = "model.final_layernorm" if is_phi else "model.norm"
        logits = self.norm(x, final)[:-1] @ head.T + weights.get("lm_head.bias", 0.0)
        top = logits.max(-1, keepdims=True)
        return (np.log(np.exp(logits - top).sum(-1)) + top[:, 0]) - logits[np.arange(len(ids) - 1), ids[1:]]


class Transformers:
    """The same through Hugging Face transformers, in float32."""

    def __init__(self, folder):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            assert not info[problem], f"{folder}: {problem}: {info[problem]}"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.config = self.model.config.to_dict()
        self.folder = Path(folder)
        self.largest_difference_of_angles = 0.0

    def exact_angles(self, x, position_ids, **_):
        """Cosines and sines of [1, position, 2 * pairs], computed in float64 and rounded once."""
        frequencies, factor = inverse_frequencies(json.loads((self.folder / "config.json").read_text()))
        np.testing.assert_allclose(self.model.model.rotary_emb.inv_freq.numpy(), frequencies, rtol=1e-6)
        angles = (position_ids[0].double()[:, None] * self.torch.tensor(frequencies)).repeat(1, 2)[None]
        return tuple((turned * factor).to(x.dtype) for turned in (angles.cos(), angles.sin()))

    def forward(self, ids):
        with self.torch.no_grad():
            logits = self.model(ids).logits[0, :-1].double()
        return self.torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()

    def losses(self, ids):
        ids = self.torch.tensor(np.asarray(ids, dtype=np.int64))[None]
        own = self.forward(ids)
        self.model.model.rotary_emb.forward = self.exact_angles
        exact = self.forward(ids)
        del self.model.model.rotary_emb.forward  # the method of its class shows again
        self.largest_difference_of_angles = max(self.largest_difference_of_angles, float(np.abs(own - exact).max()))
        return exact


def windowed(model, ids, windows, replace_bos, bos):
    """Losses with short context: method.md, section 1.4. Each window is scored alone; later windows give their last `step`."""
    length, step = windows["length"], windows["step"]
    out = np.empty(len(ids) - 1)
    for start in range(0, len(ids) - length + 1, step):
        window = np.array(ids[start : start + length])
        if replace_bos:
            window[0] = bos
        loss = model.losses(window)
        if start == 0:
            out[: length - 1] = loss
        else:
            out[start + length - 1 - step : start + length - 1] = loss[-step:]
    return out


def scores(engine, arguments):
    model = engine(arguments.model)
    about = json.loads((Path(arguments.scores) / "scores.json").read_text())
    tokens = json.loads((Path(arguments.tokens) / "tokens.json").read_text())
    ids, losses = parts(arguments.tokens, "input_ids"), parts(arguments.scores, "cross_entropy")
    assert ids.shape == (tokens["sequences"], tokens["length"]), ids.shape
    assert losses.shape == (ids.shape[0], ids.shape[1] - 1) and losses.dtype == np.float32, losses.shape
    starts_with_bos = tokens["bos"] is not None and bool((ids[:, 0] == tokens["bos"]).all())
    worst = 0.0
    for row in np.linspace(0, len(ids) - 1, min(arguments.sequences, len(ids))).astype(int):
        windows = about["windows"]
        want = model.losses(ids[row]) if windows is None else windowed(model, ids[row], windows, starts_with_bos, tokens["bos"])
        worst = max(worst, float(np.abs(want - losses[row]).max()))
    print(f"{arguments.scores}: largest difference {worst:.2e} nats to {arguments.engine} (windows: {about['windows']})")
    if engine is Transformers:
        print(f"  transformers with its own float32 angles: {model.largest_difference_of_angles:.2e} nats beside itself")
    return worst < TOLERANCE


def weights(arguments):
    short, long = (parts(folder, "cross_entropy").astype(np.float64) for folder in (arguments.short, arguments.long))
    found = parts(arguments.weights, "weights")
    score = np.abs(long - short)
    n = score.shape[1]
    if arguments.dense is not None:
        want = arguments.dense + (1 - arguments.dense) * score / score.sum(1, keepdims=True) * n
    else:
        keep = math.floor(arguments.sparse * n)
        want = np.zeros_like(score)
        for row, top in enumerate(np.argsort(score, axis=1, kind="stable")[:, -keep:]):
            want[row, top] = n / keep
    worst = float(np.abs(want - found).max())
    print(f"{arguments.weights}: largest difference {worst:.2e}, mean weight {found.mean(dtype=np.float64):.9f}")
    return worst < 1e-5


def model(engine, arguments):
    opened = engine(arguments.model)
    print(f"{arguments.model}: opens, {opened.config['model_type']}, context {opened.config['max_position_embeddings']}")
    return True


def adapter(engine, arguments):
    config = json.loads((Path(arguments.adapter) / "adapter_config.json").read_text())
    scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    base, merged = tensors(arguments.model), tensors(arguments.merged)
    matrices = load_file(Path(arguments.adapter) / "adapter_model.safetensors")
    adapted = {name.removeprefix("base_model.model.").replace(".lora_A", ""): name for name in matrices if "lora_A" in name}
    assert len(matrices) == 2 * len(adapted) and base.keys() == merged.keys()
    for name, weight in base.items():
        want = weight.astype(np.float32)
        if name in adapted:
            a, b = matrices[adapted[name]].astype(np.float64), matrices[adapted[name].replace("lora_A", "lora_B")].astype(np.float64)
            delta = np.zeros(weight.shape)
            for rank in range(len(a)):
                delta += b[:, rank : rank + 1] * a[rank : rank + 1]
            want = (want.astype(np.float64) + scaling * delta).astype(np.float32)
        assert np.array_equal(want, merged[name]), f"{arguments.merged}: {name} is not the sum"
    print(f"{arguments.merged}: {len(adapted)} of {len(base)} tensors merged, the same bits")
    if engine is not Transformers:
        return True
    from peft import PeftModel

    beside, alone = Transformers(arguments.model), Transformers(arguments.merged)
    beside.model = PeftModel.from_pretrained(beside.model, arguments.adapter)
    ids = np.arange(1, 101) * 7 % beside.config["vocab_size"]
    worst = float(np.abs(beside.losses(ids) - alone.losses(ids)).max())
    print(f"{arguments.adapter}: largest difference {worst:.2e} nats between peft beside the model and the merged model")
    return worst < TOLERANCE


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["numpy", "transformers"], default="numpy")
    what = parser.add_subparsers(dest="what", required=True)
    of_scores = what.add_parser("scores")
    for name in ("model", "tokens", "scores"):
        of_scores.add_argument(name)
    of_scores.add_argument("--sequences", type=int, default=2)
    of_weights = what.add_parser("weights")
    for name in ("short", "long", "weights"):
        of_weights.add_argument(name)
    form = of_weights.add_mutually_exclusive_group(required=True)
    form.add_argument("--dense", type=float)
    form.add_argument("--sparse", type=float)
    of_model = what.add_parser("model")
    of_model.add_argument("model")
    of_adapter = what.add_parser("adapter")
    for name in ("model", "adapter", "merged"):
        of_adapter.add_argument(name)
    arguments = parser.parse_args()
    engine = {"numpy": Numpy, "transformers": Transformers}[arguments.engine]
    good = {
        "scores": lambda: scores(engine, arguments),
        "weights": lambda: weights(arguments),
        "model": lambda: model(engine, arguments),
        "adapter": lambda: adapter(engine, arguments),
    }[arguments.what]()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
