"""Opens twdag's artifacts with other people's libraries and computes the numbers again.

    python check_artifacts.py --engine numpy|transformers scores MODEL TOKENS SCORES [--sequences N]
    python check_artifacts.py weights SHORT LONG WEIGHTS (--dense LAMBDA | --sparse KAPPA)
    python check_artifacts.py --engine transformers model MODEL

Folders are what `twdag path GRAPH STAGE` prints. `scores` recomputes per-token losses: with numpy in float64 from the
published formulas of Llama and of the rotary scalings, or with transformers in float32. The largest difference must
stay below 1e-4 nats. Needs numpy and safetensors; the engine `transformers` needs torch and transformers too.
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


def inverse_frequencies(config):
    """Inverse frequencies and attention factor of the rotary embedding named in a config, from the papers' formulas."""
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    theta = config["rope_theta"]
    scaling = config.get("rope_scaling") or {"rope_type": "default"}
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


class Llama:
    """A forward pass of Llama in float64, written from the architecture's description."""

    def __init__(self, folder):
        self.config = json.loads((Path(folder) / "config.json").read_text())
        self.weights = {name: value.astype(np.float64) for name, value in load_file(Path(folder) / "model.safetensors").items()}
        self.frequencies, self.factor = inverse_frequencies(self.config)

    def losses(self, ids):
        config, weights = self.config, self.weights
        heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
        dim, length, epsilon = len(self.frequencies) * 2, len(ids), config["rms_norm_eps"]
        angles = np.arange(length)[:, None] * self.frequencies[None]
        cos, sin = np.cos(angles) * self.factor, np.sin(angles) * self.factor

        def norm(x, name):
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights[name + ".weight"]

        def turn(x):  # [head, position, dim], halves paired
            one, two = x[..., : dim // 2], x[..., dim // 2 :]
            return np.concatenate([one * cos - two * sin, two * cos + one * sin], -1)

        x = weights["model.embed_tokens.weight"][ids]
        mask = np.triu(np.full((length, length), -np.inf), 1)
        for layer in range(config["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            y = norm(x, at + "input_layernorm")
            q, k, v = (
                (y @ weights[f"{at}self_attn.{name}_proj.weight"].T).reshape(length, count, dim).transpose(1, 0, 2)
                for name, count in (("q", heads), ("k", groups), ("v", groups))
            )
            q, k = turn(q), turn(k)
            k, v = np.repeat(k, heads // groups, 0), np.repeat(v, heads // groups, 0)
            score = q @ k.transpose(0, 2, 1) / math.sqrt(dim) + mask
            p = np.exp(score - score.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            x = x + (p @ v).transpose(1, 0, 2).reshape(length, heads * dim) @ weights[at + "self_attn.o_proj.weight"].T
            y = norm(x, at + "post_attention_layernorm")
            gate = y @ weights[at + "mlp.gate_proj.weight"].T
            up = y @ weights[at + "mlp.up_proj.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ weights[at + "mlp.down_proj.weight"].T
        head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        logits = norm(x, "model.norm")[:-1] @ head.T
        top = logits.max(-1, keepdims=True)
        return (np.log(np.exp(logits - top).sum(-1)) + top[:, 0]) - logits[np.arange(length - 1), ids[1:]]


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

    def losses(self, ids):
        torch = self.torch
        ids = torch.tensor(np.asarray(ids, dtype=np.int64))[None]
        with torch.no_grad():
            logits = self.model(ids).logits[0, :-1].double()
        return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()


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
    arguments = parser.parse_args()
    engine = {"numpy": Llama, "transformers": Transformers}[arguments.engine]
    good = {
        "scores": lambda: scores(engine, arguments),
        "weights": lambda: weights(arguments),
        "model": lambda: model(engine, arguments),
    }[arguments.what]()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
