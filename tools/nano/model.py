"""transformers' DeepSeek-V4 made fast enough to train, its MTP block, and quantization in the loop.

The modules and their weights are those of transformers; what is replaced is how they compute:
  attention   the window in chunks of 128, the compressed keys densely; transformers masks one matrix
              of all keys
  experts     all of them in two matrix products, weights zero where not chosen
  compressor  also at wrong positions, see Run.shift
evaluate.py runs the exported checkpoint in transformers unchanged.
"""
import types

import torch
import torch.nn.functional as F
import transformers.models.deepseek_v4.modeling_deepseek_v4 as hf
from torch import nn

import quant
from config import CONFIG, LAYER_KINDS, main_model, transformers_config

WINDOW = 128


class Run:
    """What one forward pass shares with the replaced methods."""
    topk = None          # of compressed-4 keys; None: all visible
    rounds = False       # activations and caches as in the official numerics
    entering = None      # streams that entered the last layer
    index_losses = None  # a list: compressed-4 layers append their indexer's
    real_rows = None     # rows whose compressed keys are rotated right; None: all
    # [batch] or None: 1 where main (shift) or index keys (index_shift) are rotated at the last token
    shift = None
    index_shift = None


_compiled = {}  # function -> what computes it; see compile_parts


def compile_parts():
    """Fuses what is called with one shape throughout."""
    torch._dynamo.config.cache_size_limit = 64
    for function in (connect, mix_streams, normed_rotation):
        _compiled[function] = torch.compile(function, dynamic=False)


def call(function, *args):
    return _compiled.get(function, function)(*args)


def without_autocast(x):
    return torch.autocast(x.device.type, enabled=False)


def connect(x, fn, base, scale, eps, norm_eps, n_iters):
    """Hyper-connection of streams x [t, 4, d] -> post [t, 4], comb [t, 4, 4], collapsed [t, d]"""
    flat = x.flatten(1).float()
    m = (flat @ fn.T) * torch.rsqrt(flat.square().mean(-1, keepdim=True) + norm_eps)
    pre = torch.sigmoid(m[:, :4] * scale[0] + base[:4]) + eps
    post = 2 * torch.sigmoid(m[:, 4:8] * scale[1] + base[4:8])
    comb = (m[:, 8:] * scale[2] + base[8:]).view(-1, 4, 4).softmax(-1) + eps
    comb = comb / (comb.sum(1, keepdim=True) + eps)
    for _ in range(n_iters - 1):
        comb = comb / (comb.sum(2, keepdim=True) + eps)
        comb = comb / (comb.sum(1, keepdim=True) + eps)
    return post, comb, (pre.unsqueeze(-1) * x.float()).sum(1).to(x.dtype)


def rotate(x, cos, sin):
    """x [b, s, ..., n], cos and sin [b, s, 32]: turns the last 64"""
    for _ in range(x.ndim - 3):
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    pairs = x[..., -64:].float().unflatten(-1, (32, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
    return torch.cat([x[..., :-64], turned.to(x.dtype)], -1)


def pool(k, gate):
    return (k * gate.softmax(2)).sum(2)


def mix_streams(post, comb, out, streams):
    """post [t, 4], comb [t, 4, 4], out [t, d], streams [t, 4, d]"""
    mixed = (comb.unsqueeze(-1) * streams.unsqueeze(2).float()).sum(1)
    return (post.unsqueeze(-1) * out.unsqueeze(1).float() + mixed).to(streams.dtype)


def normed_rotation(q, cos, sin, eps):
    """q [1, t, h, 512]: each head's norm, then its rotation, rounded once"""
    q32 = q.float()
    q32 = q32 * torch.rsqrt(q32.square().mean(-1, keepdim=True) + eps)
    return rotate(q32, cos, sin).to(q.dtype)


def merge_scores(window, compressed, sinks, band, allowed):
    """Probabilities of window keys [b, n, 128, h, 256] and compressed keys [b, n, 128, h, c]"""
    scores = torch.cat([
        window.masked_fill(~band, -torch.inf),
        compressed.masked_fill(~allowed, -torch.inf),
        sinks.to(window.dtype)[:, None].expand(*window.shape[:-1], 1)], -1)
    return scores.softmax(-1, dtype=torch.float32).to(window.dtype)


def compress(module, x, ratio, dim, shift):
    """Compressed keys [b, n, dim] of a compressor or indexer, rotated (specification 3.6)."""
    n = x.shape[1] // ratio
    with without_autocast(x):
        x32 = x[:, :n * ratio].float()
        k = module.kv_proj(x32).unflatten(1, (n, ratio))
        gate = module.gate_proj(x32).unflatten(1, (n, ratio)) + module.position_bias
    if ratio == 4:
        before = F.pad(k[:, :-1, :, :dim], (0, 0, 0, 0, 1, 0))
        before_gate = F.pad(gate[:, :-1, :, :dim], (0, 0, 0, 0, 1, 0), value=-1e30)
        k = torch.cat([before, k[..., dim:]], 2)
        gate = torch.cat([before_gate, gate[..., dim:]], 2)
    pooled = module.kv_norm(pool(k, gate).to(x.dtype))
    positions = (torch.arange(n, device=x.device) * ratio)[None].expand(x.shape[0], n)
    if shift is not None:
        positions = positions + shift[:, None] * (ratio - 1)
    cos, sin = module.rotary_emb(pooled.float(), position_ids=positions, layer_type="compress")
    return rotate(pooled, cos, sin)


def index_scores(indexer, x, low, cos, sin):
    """[b, s, n]; its inputs carry no gradient"""
    x, low = x.detach(), low.detach()
    keys = compress(indexer, x, 4, indexer.head_dim, Run.index_shift)
    q = indexer.q_b_proj(low).unflatten(-1, (indexer.num_heads, indexer.head_dim))
    q = rotate(q, cos, sin)
    if Run.rounds:
        turn = quant.hadamard(indexer.head_dim, x.device).to(x.dtype)
        q, keys = quant.RoundFp4.apply(q @ turn), quant.RoundFp4.apply(keys @ turn)
    scores = torch.einsum("bshd,bnd->bshn", q, keys).float().relu()
    scorer = indexer.scorer
    weights = scorer.weights_proj(x).float() * (scorer.softmax_scale * scorer.weights_scaling)
    return (scores * weights.unsqueeze(-1)).sum(2)


def index_loss(scores, visible, mass):
    """Cross entropy of the indexer against the attention's own mass on the compressed keys."""
    total = mass.sum(-1, keepdim=True)
    log_p = scores.masked_fill(~visible, -1e30).log_softmax(-1)
    each = -(mass / (total + 1e-9) * log_p.masked_fill(~visible, 0)).sum(-1) * total[..., 0]
    return each.mean() if Run.real_rows is None else each[Run.real_rows].mean()


def attention(self, hidden_states, position_embeddings, position_ids, **_):
    x, (b, s, _d) = hidden_states, hidden_states.shape
    cos, sin = position_embeddings[self.rope_layer_type]
    low = self.q_a_norm(self.q_a_proj(x))
    q = self.q_b_proj(low).view(1, b * s, self.num_heads, self.head_dim)
    q = call(normed_rotation, q, cos.reshape(1, b * s, -1), sin.reshape(1, b * s, -1),
             self.q_b_norm.eps).view(b, s, self.num_heads, self.head_dim)
    kv = rotate(self.kv_norm(self.kv_proj(x)), cos, sin)
    ratio = {kind: r for r, kind in LAYER_KINDS.items()}[self.layer_type]
    scores, n = None, s // ratio if ratio else 0
    extra = kv[:, :0]
    visible = torch.arange(n, device=x.device) < \
        ((torch.arange(s, device=x.device) + 1) // max(ratio, 1))[:, None]
    allowed = visible[None]
    if n:
        extra = compress(self.compressor, x, ratio, self.head_dim, Run.shift)
    if ratio == 4 and n:
        scores = index_scores(self.compressor.indexer, x, low, cos, sin)
        if Run.topk is not None and Run.topk < n:
            best = scores.detach().masked_fill(~visible, -torch.inf).topk(Run.topk, -1).indices
            allowed = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True) & visible
    if Run.rounds:
        kv, extra = quant.round_keys(kv), quant.round_keys(extra)
    out, p = attend(q, kv, extra, allowed, self.sinks, self.scaling)
    if scores is not None and Run.index_losses is not None:
        mass = p[..., 2 * WINDOW:-1].detach().float().mean(3).flatten(1, 2)[:, :s]
        Run.index_losses.append(index_loss(scores, visible, mass))
    out = rotate(out, cos, -sin).flatten(2).unflatten(-1, (self.config.o_groups, -1))
    return self.o_b_proj(self.o_a_proj(out).flatten(2)), None


def attend(q, kv, extra, allowed, sinks, scaling):
    """q [b, s, h, 512], window keys kv [b, s, 512], extra [b, c, 512], allowed [b or 1, s, c]"""
    b, s, h, dim = q.shape
    n = -(-s // WINDOW)
    rest = n * WINDOW - s
    q = F.pad(q, (0, 0, 0, 0, 0, rest)) * scaling
    keys = F.pad(kv, (0, 0, WINDOW, rest)).unflatten(1, (n + 1, WINDOW))
    keys = torch.cat([keys[:, :-1], keys[:, 1:]], 2)
    i = torch.arange(WINDOW, device=q.device)[:, None]
    j = torch.arange(2 * WINDOW, device=q.device)
    band = ((j > i) & (j <= i + WINDOW))[None].repeat(n, 1, 1)
    band[0] &= j >= WINDOW
    rows = q.reshape(b, n, WINDOW * h, dim)
    window = (rows @ keys.transpose(-1, -2)).view(b, n, WINDOW, h, 2 * WINDOW)
    compressed = (q.reshape(b, n * WINDOW * h, dim) @ extra.transpose(-1, -2))
    compressed = compressed.view(b, n, WINDOW, h, extra.shape[1])
    allowed = F.pad(allowed, (0, 0, 0, rest)).unflatten(1, (n, WINDOW))[:, :, :, None]
    p = merge_scores(window, compressed, sinks, band[None, :, :, None], allowed)
    out = p[..., :2 * WINDOW].reshape(b, n, WINDOW * h, -1) @ keys
    out = out.view(b, n * WINDOW, h, dim)
    if extra.shape[1]:
        out = out + (p[..., 2 * WINDOW:-1].reshape(b, n * WINDOW * h, -1) @ extra).view_as(out)
    return out[:, :s], p


def experts(self, hidden_states, top_k_index, top_k_weights):
    weights = torch.zeros(len(hidden_states), self.num_experts, device=hidden_states.device)
    weights = weights.scatter(1, top_k_index, top_k_weights.float())
    self.load = (weights > 0).sum(0)
    x = quant.RoundFp8.apply(hidden_states, 128) if Run.rounds else hidden_states
    inner = F.linear(x, self.gate_up_proj.flatten(0, 1)).unflatten(-1, (self.num_experts, -1))
    inner = (self._apply_gate(inner.float()) * weights[..., None]).to(x.dtype)
    if Run.rounds:
        inner = quant.RoundFp8.apply(inner, 128)
    return F.linear(inner.flatten(1), self.down_proj.transpose(0, 1).flatten(1))


def layer(self, hidden_states, input_ids=None, **rest):
    for connection, norm, sublayer in (
            (self.attn_hc, self.input_layernorm, lambda x: self.self_attn(x, **rest)[0]),
            (self.ffn_hc, self.post_attention_layernorm, lambda x: self.mlp(x, input_ids=input_ids))):
        shape, flat = hidden_states.shape, hidden_states.flatten(0, 1)
        with without_autocast(flat):
            post, comb, x = call(connect, flat, connection.fn, connection.base, connection.scale,
                                 connection.hc_eps, connection.input_norm.eps,
                                 connection.hc_sinkhorn_iters)
        out = sublayer(norm(x.view(*shape[:2], -1))).flatten(0, 1)
        hidden_states = call(mix_streams, post, comb, out, flat).view(shape)
    return hidden_states


def route(self, hidden_states, input_ids=None):
    """Either router, in float32."""
    kind = type(self)
    with without_autocast(hidden_states):
        rest = () if input_ids is None else (input_ids,)
        return kind.forward(self, hidden_states.float(), *rest)


QUANTIZED_LINEARS = ("q_a_proj", "q_b_proj", "self_attn.kv_proj", "o_b_proj",
                     "shared_experts.gate_proj", "shared_experts.up_proj",
                     "shared_experts.down_proj", "e_proj", "h_proj")


def round_input(_module, inputs):
    return (quant.RoundFp8.apply(inputs[0], 128),) if Run.rounds else None


def replace_methods(model):
    for name, module in model.named_modules():
        for kind, function in ((hf.DeepseekV4Attention, attention), (hf.DeepseekV4Experts, experts),
                               (hf.DeepseekV4DecoderLayer, layer),
                               (hf.DeepseekV4TopKRouter, route), (hf.DeepseekV4HashRouter, route)):
            if isinstance(module, kind):
                module.forward = types.MethodType(function, module)
        if isinstance(module, nn.Linear) and name.endswith(QUANTIZED_LINEARS):
            module.register_forward_pre_hook(round_input)


class Mtp(nn.Module):
    """The next-n block (specification 6): predicts x[i + 2] from the streams of i and x[i + 1]."""

    def __init__(self, config):
        super().__init__()
        made, dim = transformers_config(config, [0], 0), config["hidden_size"]
        self.block = hf.DeepseekV4DecoderLayer(made, 0)
        self.e_proj, self.h_proj = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.enorm, self.hnorm, self.norm = (hf.DeepseekV4RMSNorm(dim, config["rms_norm_eps"])
                                             for _ in range(3))
        self.hc_head = hf.DeepseekV4HyperHead(made)

    def forward(self, streams, embedded, positions):
        """streams [b, s, 4, d], embedded [b, s, d] of the following tokens -> [b, s, d]"""
        entering = self.e_proj(self.enorm(embedded)).unsqueeze(2) + self.h_proj(self.hnorm(streams))
        streams = self.block(entering, **positions)
        return self.norm(self.hc_head(streams))


class Nano(nn.Module):
    def __init__(self, config=None):
        super().__init__()
        self.config = config or CONFIG
        self.main, self.mtp = main_model(self.config), Mtp(self.config)
        replace_methods(self)
        self.start()

    def start(self):
        """First weights; small scales of the hyper-connections matter."""
        n_experts, k = self.config["n_routed_experts"], self.config["num_experts_per_tok"]
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name.endswith(("sinks", "position_bias", ".base", "hc_base")):
                    p.zero_()
                elif name.endswith((".scale", "hc_scale")):
                    p.fill_(.1)
                elif name.endswith(("_hc.fn", "hc_fn")):
                    p.normal_(0, .01)
                elif p.ndim == 1:
                    p.fill_(1)
                elif "embed" in name:
                    p.normal_(0, 1)
                else:
                    p.normal_(0, p.shape[-1] ** -.5)
            for name, table in self.named_buffers():
                if name.endswith("tid2eid"):
                    table.copy_(torch.rand(len(table), n_experts).argsort(1)[:, :k])

    def forward(self, ids, dtype=torch.bfloat16):
        """ids [b, s + 1] -> hidden [b, s, d] for x[i + 1], hidden [b, s, d] of the MTP for x[i + 2]"""
        model, s = self.main.model, ids.shape[1] - 1
        embedded = model.embed_tokens(ids)
        position_ids = torch.arange(s, device=ids.device)[None].expand(len(ids), s)
        positions = {"position_ids": position_ids, "position_embeddings": {
            kind: model.rotary_emb(embedded.float(), position_ids=position_ids, layer_type=kind)
            for kind in ("main", "compress")}}
        embedded = embedded.to(dtype)
        streams = embedded[:, :-1].unsqueeze(2).expand(-1, -1, 4, -1).contiguous()
        for block in model.layers:
            Run.entering = streams
            streams = block(streams, input_ids=ids[:, :-1], **positions)
        return (model.norm(model.hc_head(streams)),
                self.mtp(streams, embedded[:, 1:], positions))

    def logits(self, hidden):
        return self.main.lm_head(hidden).float()


# What ships.

FP8, FP4, BF16, F32 = "fp8", "fp4", "bf16", "f32"


def format_of(name):
    """How the parameter is stored (specification 7.1)."""
    if "experts.gate_up_proj" in name or "experts.down_proj" in name and "shared" not in name:
        return FP4
    if any(part in name for part in ("_hc.", "hc_head", "sinks", "position_bias")):
        return F32
    in_compressor = "compressor" in name and not name.endswith("indexer.q_b_proj.weight")
    if name.endswith("_proj.weight") and not in_compressor:
        return FP8
    return BF16


def stored_value(p, kind):
    if kind == FP8:
        return quant.fp8_blocks(p)[2]
    if kind == FP4:
        return quant.fp4_rows(p)[2]
    return p.to(torch.bfloat16).float() if kind == BF16 else p.clone()


class StoredWeights:
    """Straight-through: the pass uses the values that ship, the optimizer moves the exact ones."""

    def __init__(self, model):
        self.parameters = [(p, format_of(name)) for name, p in model.named_parameters()
                           if format_of(name) != F32]
        self.exact = None

    @torch.no_grad()
    def enter(self):
        own = [p for p, _ in self.parameters]
        self.exact = [p.detach().clone() for p in own]
        torch._foreach_copy_(own, [stored_value(p, kind) for p, kind in self.parameters])

    @torch.no_grad()
    def leave(self):
        torch._foreach_copy_([p for p, _ in self.parameters], self.exact)
