"""The stack runs the language layers of Qwen's vision models, for many rows at once.

It refuses to know requests, pictures and text: embeddings and token ids in, logits out. Why not
transformers' own forward: on small models most of a token's time goes into the framework around
the arithmetic, and its batches have to be padded. Here the tokens of all rows stand one after
another, (N, C), and every row owns a slot of the cache, so nothing is padded, nothing moves when
a row joins, and each row's arithmetic is that of the row alone.

Axes: N tokens of all rows, B rows, L layers, C width, H heads (Hq of queries, Hk of keys), D head
width, S places of a slot, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch.nn import functional

from speceyes.engines.keyvalues import CacheShape, KeyValues

_ONWARD_STEP: Final = 512  # queries at a time, so that their mask stays small

Attend: TypeAlias = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Rotation: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # cos, signed sin: (N, 1, D) each


@dataclass(frozen=True, slots=True)
class Span:
    """Say where what one row reads lies among the tokens of a prefill.

    `past`: so many tokens of the row stand in its slot before them, or, of an earlier row's that
    begins alike, in `lender`: another slot, one that this prefill fills included.
    """

    slot: int
    start: int
    stop: int
    past: int = 0
    lender: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Deep:
    """Features to add after the first layers, at the places of the pictures (DeepStack).

    Shapes: `places` (M,); `features[i]` (M, C) for layer i.
    """

    places: torch.Tensor
    features: tuple[torch.Tensor, ...]


class _Norm:
    """Scale each vector to a root mean square of one, then by weights.

    x * w / sqrt(mean(x^2) + eps) = x * (w sqrt(C)) / hypot(|x|, sqrt(C eps)): in float32 this
    form takes a third of the time of torch's own on a CPU, which is a tenth of a small step.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        width = weight.shape[-1]
        self._weight = weight
        self._eps = eps
        self._wide = weight * math.sqrt(width)
        self._floor = torch.tensor(math.sqrt(width * eps), dtype=weight.dtype, device=weight.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is torch.float32:
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return x * self._wide / torch.hypot(length, self._floor)
        return functional.rms_norm(x, x.shape[-1:], None, self._eps) * self._weight


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    norm: _Norm  # (C,)
    qkv: torch.Tensor  # ((Hq + 2 Hk) D, C)
    qkv_bias: torch.Tensor | None
    qk_norm: _Norm | None  # (Hq + Hk, D), Qwen3 only
    out: torch.Tensor  # (C, Hq D)
    out_bias: torch.Tensor | None
    mlp_norm: _Norm  # (C,)
    gate_up: torch.Tensor  # (2 F, C)
    down: torch.Tensor  # (C, F)


class TextStack:
    """Run a model's language layers over packed tokens.

    The projections that are applied together are stored together; the model's own parameters
    become views of them, so it still works and nothing takes memory twice.
    """

    def __init__(self, model: Any) -> None:
        text = model.model.language_model
        config = text.config
        self._head_dim = int(text.layers[0].self_attn.head_dim)
        self._query_heads = int(config.num_attention_heads)
        self._key_heads = int(config.num_key_value_heads)
        self._group = self._query_heads // self._key_heads
        self._eps = float(config.rms_norm_eps)
        self._embedding = text.embed_tokens.weight.detach()  # (V, C)
        self._head = model.lm_head.weight.detach()  # (V, C)
        self._norm = _Norm(text.norm.weight.detach(), self._eps)
        self._rotary = text.rotary_emb
        self._layers = [self._take_over(layer) for layer in text.layers]
        self._cache_shape = CacheShape(len(self._layers), self._key_heads, self._head_dim)
        self._cos, self._sin = self._rotate(torch.arange(1024).expand(3, -1))

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored and computed in."""
        return self._embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding.device

    def new_cache(self, *, limit_bytes: int) -> KeyValues:
        """Make an empty cache of the right shape."""
        limit_tokens = limit_bytes // self.cache_bytes_per_token
        return KeyValues(
            self._cache_shape, dtype=self.dtype, device=self.device, limit_tokens=limit_tokens
        )

    @property
    def cache_bytes_per_token(self) -> int:
        """What a token of a row takes in the cache."""
        return self._cache_shape.bytes_per_token(self.dtype.itemsize)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Look tokens up: (N,) in, (N, C) out."""
        return functional.embedding(token_ids, self._embedding)

    def prefill(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        *,
        spans: Sequence[Span],
        cache: KeyValues,
        deep: Deep | None = None,
    ) -> torch.Tensor:
        """Read prompts, each into its slot, from where the slot ends.

        Shapes: embeddings (N, C); positions (3, N); returns float32 (B, V), the logits after each
        prompt's last token.
        """
        sights = [self._onward_sights(s.stop - s.start, s.past) for s in spans]

        def attend(layer: int, *qkv: torch.Tensor) -> torch.Tensor:
            rows = []
            for span, sight in zip(spans, sights, strict=True):
                if span.lender is not None:
                    cache.lend(layer, span.lender, target=span.slot, count=span.past)
                own = tuple(t[span.start : span.stop] for t in qkv)
                if span.past:
                    places = span.past + span.stop - span.start
                    keys, values = cache.view(layer, span.slot, places)
                    rows.append(self._attend_onward(own[0], keys, values, sights=sight))
                else:
                    rows.append(self._attend_causally(*own))
            return torch.cat(rows) if len(rows) > 1 else rows[0]

        index = torch.cat([cache.places(s.slot, s.past, s.past + s.stop - s.start) for s in spans])
        hidden = self._run(
            embeddings, self._rotate(positions), index=index, cache=cache, attend=attend, deep=deep
        )
        last = torch.tensor([s.stop - 1 for s in spans], device=self.device)
        return self._logits(hidden[last])

    def decode(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        *,
        lengths: Sequence[int],
        cache: KeyValues,
    ) -> torch.Tensor:
        """Read one more token in each of the slots 0..B-1, which hold `lengths` tokens each.

        `positions` are rotary ones, alike on all axes for text. Returns float32 (B, V).
        """
        self._stretch_rotation(max(positions) + 1)
        step = torch.tensor([token_ids, positions, lengths], device=self.device)  # (3, B)
        rotation = (self._cos[step[1]], self._sin[step[1]])
        views = cache.views(len(token_ids), max(lengths) + 1)
        bias = None
        if min(lengths) != max(lengths):
            beyond = torch.arange(max(lengths) + 1, device=self.device) > step[2][:, None]  # (B, S)
            bias = torch.zeros(beyond.shape, dtype=self.dtype, device=self.device)
            bias = bias.masked_fill_(beyond, -torch.inf)[:, None, None]

        def attend(layer: int, q: torch.Tensor, _k: torch.Tensor, _v: torch.Tensor) -> torch.Tensor:
            # The queries of a group share their keys: they stand where a longer prompt's would.
            grouped = q.view(q.shape[0], self._key_heads, self._group, self._head_dim)
            keys, values = views[2 * layer], views[2 * layer + 1]
            attended = functional.scaled_dot_product_attention(grouped, keys, values, bias)
            return attended.reshape(q.shape[0], -1)

        index = cache.next_places(step[2])
        hidden = self._run(
            self.embed(step[0]), rotation, index=index, cache=cache, attend=attend, deep=None
        )
        return self._logits(hidden)

    def _run(
        self,
        x: torch.Tensor,
        rotation: Rotation,
        *,
        index: torch.Tensor,
        cache: KeyValues,
        attend: Attend,
        deep: Deep | None,
    ) -> torch.Tensor:
        features = deep.features if deep is not None else ()
        for number, layer in enumerate(self._layers):
            q, k, v = self._project(layer, x, rotation)
            cache.write(number, index, keys=k, values=v)
            x = x + functional.linear(attend(number, q, k, v), layer.out, layer.out_bias)
            x = x + self._think(layer, x)
            if deep is not None and number < len(features):
                x.index_add_(0, deep.places, features[number])
        return x

    def _project(
        self, layer: _Layer, x: torch.Tensor, rotation: Rotation
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        joined = functional.linear(layer.norm(x), layer.qkv, layer.qkv_bias)
        heads = joined.view(x.shape[0], -1, self._head_dim)
        turned = heads[:, : self._query_heads + self._key_heads]
        if layer.qk_norm is not None:
            turned = layer.qk_norm(turned)
        cos, sin = rotation
        half = self._head_dim // 2
        turned = torch.addcmul(turned * cos, turned.roll(half, -1), sin)
        keys = turned[:, self._query_heads :]
        return turned[:, : self._query_heads], keys, heads[:, -self._key_heads :]

    def _attend_causally(self, *qkv: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.transpose(0, 1)[None] for t in qkv)  # (1, H, T, D)
        attended = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=self._group > 1
        )
        return attended[0].transpose(0, 1).flatten(1)  # (T, Hq D)

    def _onward_sights(self, count: int, past: int) -> tuple[torch.Tensor, ...]:
        """Say what tokens after a longer past do not see, some at a time: biases (T, S) each."""
        if past <= count:
            return ()
        sights = []
        for first in range(past, past + count, _ONWARD_STEP):
            seen = min(first + _ONWARD_STEP, past + count)
            hidden = torch.ones(seen - first, seen, dtype=torch.bool, device=self.device)
            bias = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
            bias.masked_fill_(hidden.triu(first + 1), -torch.inf)
            sights.append(bias)
        return tuple(sights)

    def _attend_onward(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        sights: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """Let queries (T, Hq, D) see the past and themselves: keys, values (Hk, past + T, D)."""
        if not sights:  # the past is short: blank queries in its place spare a mask as large as all
            past = keys.shape[1] - len(q)
            padded = functional.pad(q, (0, 0, 0, 0, past, 0))
            return self._attend_causally(padded, keys.transpose(0, 1), values.transpose(0, 1))[
                past:
            ]
        attended = []
        for part, bias in zip(q.split(_ONWARD_STEP), sights, strict=True):
            # The queries of a group share their keys, which are shown to each of them.
            grouped = part.unflatten(1, (self._key_heads, self._group)).permute(1, 2, 0, 3)
            seen, often = bias.shape[1], (-1, self._group, -1, -1)
            out = functional.scaled_dot_product_attention(  # (Hk, G, T, D)
                grouped,
                keys[:, None, :seen].expand(often),
                values[:, None, :seen].expand(often),
                bias,
            )
            attended.append(out.permute(2, 0, 1, 3).flatten(1))
        return torch.cat(attended) if len(attended) > 1 else attended[0]

    def _think(self, layer: _Layer, x: torch.Tensor) -> torch.Tensor:
        gate, up = functional.linear(layer.mlp_norm(x), layer.gate_up).chunk(2, dim=-1)
        return functional.linear(functional.silu(gate) * up, layer.down)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(self._norm(hidden), self._head).float()

    def _rotate(self, positions: torch.Tensor) -> Rotation:
        # rotate_half(x) * sin = roll(x) * signed sin, where the first half of sin is negated.
        cos, sin = self._rotary(self._embedding[:1], positions[:, None].to(self.device))
        signed = sin[0].clone()
        signed[:, : self._head_dim // 2].neg_()
        return cos[0][:, None], signed[:, None]

    def _stretch_rotation(self, count: int) -> None:
        if count > len(self._cos):
            longer = torch.arange(max(count, 2 * len(self._cos)))
            self._cos, self._sin = self._rotate(longer.expand(3, -1))

    def _take_over(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        has_bias = attention.q_proj.bias is not None
        has_norm = hasattr(attention, "q_norm")
        return _Layer(
            norm=_Norm(layer.input_layernorm.weight.detach(), self._eps),
            qkv=_store([p.weight for p in projections]),
            qkv_bias=_store([p.bias for p in projections]) if has_bias else None,
            qk_norm=self._norm_by_head(attention) if has_norm else None,
            out=_store([attention.o_proj.weight]),
            out_bias=None if attention.o_proj.bias is None else _store([attention.o_proj.bias]),
            mlp_norm=_Norm(layer.post_attention_layernorm.weight.detach(), self._eps),
            gate_up=_store([mlp.gate_proj.weight, mlp.up_proj.weight]),
            down=_store([mlp.down_proj.weight]),
        )

    def _norm_by_head(self, attention: Any) -> _Norm:
        query = attention.q_norm.weight.detach().expand(self._query_heads, -1)
        key = attention.k_norm.weight.detach().expand(self._key_heads, -1)
        return _Norm(torch.cat([query, key]), self._eps)


def _store(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """Store parameters as one, (outputs, inputs), and make them views of it."""
    joined = torch.cat([p.detach() for p in parameters])
    if joined.dim() == 2 and joined.device.type == "cpu":
        # With the outputs side by side in memory, few tokens take a CPU two thirds of the time.
        joined = joined.t().contiguous().t()
    parts = joined.split([len(p) for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part
    return joined
