"""Where each neuron site is, per model family: a table of data that hooks and plans read.

>>> from types import SimpleNamespace
>>> shape = {"hidden_size": 32, "intermediate_size": 44, "num_attention_heads": 4, "num_hidden_layers": 3}
>>> config = SimpleNamespace(model_type="llama", num_key_value_heads=2, **shape)
>>> family(config).taps["mlp.hidden"]
Tap(module='mlp.down_proj', side='input', fused=(), per_group=False)
>>> n_layers(config), widths(config)["mlp.up"], widths(config)["attn.k"]
(3, 44, 16)

Pure data and integers: nothing here imports torch or transformers; a ``config`` is any object with the
attributes of a transformers configuration. Module paths and fused layouts were read off transformers 5.24's
modelling code, and tests/test_sites.py recomputes every one of them from a tiny model's weights. To add a
family see docs/models.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relact.errors import InputError, ModelError

SITES = ("mlp.gate", "mlp.act", "mlp.up", "mlp.hidden", "mlp.down", "attn.q", "attn.k", "attn.v", "attn.o")
_MLP = ("mlp.gate", "mlp.up", "mlp.down")
_ATTN = ("attn.q", "attn.k", "attn.v", "attn.o")
ALIASES: Mapping[str, tuple[str, ...]] = {"mlp": _MLP, "attn": _ATTN, "all": _MLP + _ATTN}


@dataclass(frozen=True)
class Tap:
    """One place to read or replace a site: a module inside a decoder layer, and the side of it.

    ``fused`` lists the sites that share the module's output, in their order in memory; () when it is this
    site alone. ``per_group`` tells the two layouts of a fused projection apart: False is [all of q | all of k
    | all of v]; True repeats [q k v] once per key-value head, as GPT-NeoX, BLOOM and Falcon do.
    """

    module: str
    side: str = "output"
    fused: tuple[str, ...] = ()
    per_group: bool = False


@dataclass(frozen=True)
class Part:
    """A site's columns in a module's output: of every group of [groups, -1] those from start to stop."""

    groups: int
    start: int
    stop: int


def _kv_heads(config: Any) -> int:
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def _falcon_kv_heads(config: Any) -> int:
    if config.new_decoder_architecture:
        return config.num_kv_heads
    return 1 if config.multi_query else config.num_attention_heads


def _bigcode_kv_heads(config: Any) -> int:
    return 1 if config.multi_query else config.num_attention_heads


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        names: the exact ``model_type`` of every configuration it is for.
        layers: path of the list of decoder layers in the causal language model.
        taps: where each site is in a decoder layer.
        inner: the configuration's name of the MLP's width; absent or None there means 4 x hidden.
        kv_heads: how many heads the configuration gives keys and values.
    """

    names: tuple[str, ...]
    layers: str
    taps: Mapping[str, Tap] = field(repr=False)
    inner: str = "intermediate_size"
    kv_heads: Callable[[Any], int] = field(default=_kv_heads, repr=False)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites this family has, in canonical order."""
        return tuple(site for site in SITES if site in self.taps)


def _gated(gate: str = "mlp.gate_proj", act: str = "mlp.act_fn", up: str = "mlp.up_proj") -> dict[str, Tap]:
    down = "mlp.down_proj"
    return {
        "mlp.gate": Tap(gate),
        "mlp.act": Tap(act),
        "mlp.up": Tap(up),
        "mlp.hidden": Tap(down, "input"),
        "mlp.down": Tap(down),
    }


def _plain(up: str, act: str, down: str) -> dict[str, Tap]:
    return {"mlp.act": Tap(act), "mlp.up": Tap(up), "mlp.hidden": Tap(down, "input"), "mlp.down": Tap(down)}


def _split(under: str = "self_attn", out: str = "o_proj") -> dict[str, Tap]:
    return {**{f"attn.{x}": Tap(f"{under}.{x}_proj") for x in "qkv"}, "attn.o": Tap(f"{under}.{out}")}


def _fused(qkv: str, out: str, *, per_group: bool = False) -> dict[str, Tap]:
    sites = ("attn.q", "attn.k", "attn.v")
    return {**{site: Tap(qkv, "output", sites, per_group) for site in sites}, "attn.o": Tap(out)}


# Phi-3 and GLM compute gate and up in one projection.
_GATE_UP = {
    **_gated(act="mlp.activation_fn"),
    **{site: Tap("mlp.gate_up_proj", "output", ("mlp.gate", "mlp.up")) for site in ("mlp.gate", "mlp.up")},
}

# Rows are matched by exact model_type. Names share a row only when every path, width rule and layout is the
# same.
FAMILIES: tuple[Family, ...] = (
    Family(
        (
            "llama",
            "mistral",
            "ministral",
            "ministral3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "qwen2",
            "qwen3",
            "olmo",
            "olmo2",
            "olmo3",
            "stablelm",
            "cohere",
            "cohere2",
            "smollm3",
            "granite",
            "seed_oss",
            "helium",
            "exaone4",
            "ernie4_5",
            "hunyuan_v1_dense",
        ),
        "model.layers",
        {**_gated(), **_split()},
    ),
    Family(("gemma3",), "model.language_model.layers", {**_gated(), **_split()}),
    Family(("phi3",), "model.layers", {**_GATE_UP, **_fused("self_attn.qkv_proj", "self_attn.o_proj")}),
    Family(("glm", "glm4"), "model.layers", {**_GATE_UP, **_split()}),
    Family(
        ("nemotron", "arcee", "apertus"),
        "model.layers",
        {**_plain("mlp.up_proj", "mlp.act_fn", "mlp.down_proj"), **_split()},
    ),
    Family(
        ("phi",), "model.layers", {**_plain("mlp.fc1", "mlp.activation_fn", "mlp.fc2"), **_split(out="dense")}
    ),
    Family(("starcoder2",), "model.layers", {**_plain("mlp.c_fc", "mlp.act", "mlp.c_proj"), **_split()}),
    Family(
        ("gpt2",),
        "transformer.h",
        {**_plain("mlp.c_fc", "mlp.act", "mlp.c_proj"), **_fused("attn.c_attn", "attn.c_proj")},
        inner="n_inner",
    ),
    Family(
        ("gpt_bigcode",),
        "transformer.h",
        {
            **_plain("mlp.c_fc", "mlp.act", "mlp.c_proj"),
            **_fused("attn.c_attn", "attn.c_proj", per_group=True),
        },
        inner="n_inner",
        kv_heads=_bigcode_kv_heads,
    ),
    Family(
        ("gpt_neo",),
        "transformer.h",
        {**_plain("mlp.c_fc", "mlp.act", "mlp.c_proj"), **_split("attn.attention", "out_proj")},
    ),
    Family(
        ("gptj",),
        "transformer.h",
        {**_plain("mlp.fc_in", "mlp.act", "mlp.fc_out"), **_split("attn", "out_proj")},
        inner="n_inner",
    ),
    Family(
        ("gpt_neox",),
        "gpt_neox.layers",
        {
            **_plain("mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h"),
            **_fused("attention.query_key_value", "attention.dense", per_group=True),
        },
    ),
    Family(
        ("bloom",),
        "transformer.h",
        {
            **_plain("mlp.dense_h_to_4h", "mlp.gelu_impl", "mlp.dense_4h_to_h"),
            **_fused("self_attention.query_key_value", "self_attention.dense", per_group=True),
        },
        inner="",
    ),
    Family(
        ("falcon",),
        "transformer.h",
        {
            **_plain("mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h"),
            **_fused("self_attention.query_key_value", "self_attention.dense", per_group=True),
        },
        inner="ffn_hidden_size",
        kv_heads=_falcon_kv_heads,
    ),
    Family(
        ("opt",),
        "model.decoder.layers",
        {**_plain("fc1", "activation_fn", "fc2"), **_split(out="out_proj")},
        inner="ffn_dim",
    ),
    Family(
        ("mpt",),
        "transformer.blocks",
        {**_plain("ffn.up_proj", "ffn.act", "ffn.down_proj"), **_fused("attn.Wqkv", "attn.out_proj")},
        inner="",
    ),
)
_EXPERT_KEYS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_experts_per_tok",
)
_BY_NAME: Mapping[str, Family] = {name: row for row in FAMILIES for name in row.names}
KNOWN: tuple[str, ...] = tuple(sorted(_BY_NAME))


def expand(names: str | Sequence[str]) -> tuple[str, ...]:
    """The sites that names and aliases stand for, in canonical order, each once; `InputError` on others.

    >>> expand("attn.q, mlp") == expand(["mlp", "attn.q"])
    True
    """
    asked = _words(names)
    unknown = [word for word in asked if word not in SITES and word not in ALIASES]
    if unknown or not asked:
        problem = f"unknown site {', '.join(unknown)}" if unknown else "no site given"
        raise InputError(problem, where="sites", fix=f"choose from {', '.join((*ALIASES, *SITES))}")
    wanted = {site for word in asked for site in ALIASES.get(word, (word,))}
    return tuple(site for site in SITES if site in wanted)


def _words(names: str | Sequence[str]) -> list[str]:
    """What is asked for: one text with commas, or several."""
    texts = [names] if isinstance(names, str) else names
    words = [word.strip() for text in texts for word in text.split(",")]
    return [word for word in words if word]


def resolve(config: Any, names: str | Sequence[str]) -> tuple[str, ...]:
    """``expand`` for one model: aliases leave out what the family lacks, a site named outright must exist."""
    row = family(config)
    missing = [word for word in _words(names) if word in SITES and word not in row.taps]
    if missing:
        raise ModelError(
            f"has no {', '.join(missing)}",
            where=f"model family {config.model_type}",
            fix=f"choose from {', '.join(row.sites)}",
        )
    return tuple(site for site in expand(names) if site in row.taps)


def family(config: Any) -> Family:
    """The row of ``config.model_type``, matched exactly; `ModelError` for others and mixtures of experts."""
    name, text = getattr(config, "model_type", None) or "without model_type", text_config(config)
    for key in _EXPERT_KEYS:
        if (experts := getattr(text, key, None) or 0) > 1:
            raise ModelError(
                f"mixture-of-experts ({key}={experts}) has no fixed set of MLP neurons",
                where=f"model family {name}",
                fix="choose a dense model",
            )
    row = _BY_NAME.get(name)
    if row is None:
        raise ModelError(
            f"not in the table of families ({', '.join(KNOWN)})",
            where=f"model family {name}",
            fix="add a row to FAMILIES in relact/sites.py, see docs/models.md",
        )
    return row


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the decoder."""
    return getattr(config, "text_config", None) or config


def n_layers(config: Any) -> int:
    """How many decoder layers the configuration asks for."""
    family(config)
    return int(text_config(config).num_hidden_layers)


def widths(config: Any) -> dict[str, int]:
    """Neurons per layer of each site the family has, in canonical order, from the configuration alone."""
    row, text = family(config), text_config(config)
    hidden, heads = int(text.hidden_size), int(text.num_attention_heads)
    head_dim = int(getattr(text, "head_dim", None) or hidden // heads)
    inner = int((getattr(text, row.inner, None) if row.inner else None) or 4 * hidden)
    kv = row.kv_heads(text) * head_dim
    width = {
        "mlp.gate": inner,
        "mlp.act": inner,
        "mlp.up": inner,
        "mlp.hidden": inner,
        "mlp.down": hidden,
        "attn.q": heads * head_dim,
        "attn.k": kv,
        "attn.v": kv,
        "attn.o": hidden,
    }
    return {site: width[site] for site in row.sites}


def part(config: Any, site: str) -> Part | None:
    """The columns of a fused projection that are ``site``; None where the module's output is nothing else."""
    row = family(config)
    tap = row.taps[site]
    if not tap.fused:
        return None
    groups = row.kv_heads(text_config(config)) if tap.per_group else 1
    width = {name: total // groups for name, total in widths(config).items()}
    start = sum(width[name] for name in tap.fused[: tap.fused.index(site)])
    return Part(groups, start, start + width[site])


def count(config: Any, names: str | Sequence[str]) -> int:
    """Neurons in the whole model: layers x the widths of the named sites."""
    width = widths(config)
    return n_layers(config) * sum(width[site] for site in resolve(config, names))
