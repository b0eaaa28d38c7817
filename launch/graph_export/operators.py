"""Our own operators: the graph names them and the program computes them. src/graph/FORMAT.md says what each does.

transformers lets anyone register functions for attention and for experts; the two here leave one node where PyTorch's
own leave a dozen. For tracing only shapes are needed; `COMPUTE` is what interpret.py runs."""

import contextlib

import torch
from transformers import AttentionInterface
from transformers.integrations.moe import ExpertsInterface

LIBRARY = torch.library.Library("rt", "DEF")
for schema in (
        "attention(Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor? sinks, float scale, bool causal, int window, float softcap)"
        " -> Tensor",
        "dispatch(Tensor x, Tensor index, int experts) -> (Tensor, Tensor, Tensor)",
        "expert_linear(Tensor rows, Tensor weight, Tensor? bias, Tensor ends, bool transposed) -> Tensor",
        "combine(Tensor rows, Tensor weights, Tensor order) -> Tensor",
        "selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C) -> Tensor"):
    LIBRARY.define(schema)


def shapes_of(name):
    return lambda function: torch.library.register_fake(f"rt::{name}", function, lib=LIBRARY)


@shapes_of("attention")
def _(q, k, v, mask, sinks, scale, causal, window, softcap):
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1])


@shapes_of("dispatch")
def _(x, index, experts):
    entries = index.shape[0] * index.shape[1]
    return (x.new_empty(entries, x.shape[1]), index.new_empty(experts, dtype=torch.int32),
            index.new_empty(entries, dtype=torch.int64))


@shapes_of("expert_linear")
def _(rows, weight, bias, ends, transposed):
    return rows.new_empty(rows.shape[0], weight.shape[2 if transposed else 1])


@shapes_of("combine")
def _(rows, weights, order):
    return rows.new_empty(weights.shape[0], rows.shape[1], dtype=torch.promote_types(rows.dtype, weights.dtype))


@shapes_of("selective_scan")
def _(u, delta, A, B, C):
    return u.new_empty(u.shape)


# --- what transformers calls ------------------------------------------------------------------------------------------

UNKNOWN_ARGUMENTS = ("position_bias", "cache")  # of attention functions: values of these change what is computed


def attend(implementation):
    """The attention function, for a model that was built with 'sdpa' or 'eager'."""
    def attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, softcap=None,
                  s_aux=None, sinks=None, **others):
        for name in UNKNOWN_ARGUMENTS:
            if others.get(name) is not None:
                raise NotImplementedError(f"attention with {name}")
        # As sdpa_attention_forward does (transformers 5.23, integrations/sdpa_attention.py): causal only without a mask.
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        causal = bool(causal) and attention_mask is None and query.shape[2] > 1 and implementation != "eager"
        scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
        out = torch.ops.rt.attention(query, key, value, attention_mask, s_aux if s_aux is not None else sinks, scale,
                                     causal, 0, float(softcap or 0.0))
        return out, None
    return attention


def experts(module, hidden_states, top_k_index, top_k_weights):
    """As grouped_mm_experts_forward (transformers 5.23, integrations/moe.py)."""
    rows, ends, order = torch.ops.rt.dispatch(hidden_states, top_k_index, module.num_experts)

    def product(rows, name):
        bias = getattr(module, f"{name}_bias") if module.has_bias else None
        return torch.ops.rt.expert_linear(rows, getattr(module, name), bias, ends, module.is_transposed)

    up = product(rows, "gate_up_proj" if module.has_gate else "up_proj")
    out = product(module._apply_gate(up) if module.has_gate else module.act_fn(up), "down_proj")
    if module.has_post_expert_norm:
        out = module.post_expert_norm(out)
    return torch.ops.rt.combine(out, top_k_weights, order).to(hidden_states.dtype)


@contextlib.contextmanager
def in_use(implementation, own_attention=True):
    """Models call our functions, under whatever name they ask for. Models with sparse indexers ask whether the name of the
    attention implementation is 'eager' or 'sdpa' and leave their mask out under any other, so the name must stay."""
    saved = AttentionInterface.get_interface, ExpertsInterface.get_interface
    function = attend(implementation)
    if own_attention:
        AttentionInterface.get_interface = lambda self, name, default: function
    ExpertsInterface.get_interface = lambda self, name, default: experts
    try:
        yield
    finally:
        AttentionInterface.get_interface, ExpertsInterface.get_interface = saved


def causal_window(mask):
    """What a constant mask says if it says no more than "causal, and at most w back": w, 0 for no limit; else None."""
    if mask.dim() < 2 or mask.shape[-1] != mask.shape[-2]:
        return None
    if mask.dtype == torch.bool:
        seen = mask
    elif mask.is_floating_point():
        seen = mask > -1e4
        if not bool(((mask == 0) | ~seen).all()):
            return None
    else:
        return None
    seen = seen.reshape(-1, *mask.shape[-2:])
    if not bool((seen == seen[:1]).all()):
        return None
    seen = seen[0]
    causal = torch.ones_like(seen).tril()
    if torch.equal(seen, causal):
        return 0
    window = int(seen[-1].sum())
    return window if window > 0 and torch.equal(seen, causal & torch.ones_like(seen).triu(1 - window)) else None


# --- what they compute ------------------------------------------------------------------------------------------------

def compute_attention(q, k, v, mask, sinks, scale, causal, window, softcap):
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    rows, columns = q.shape[2], k.shape[2]
    scores = (q @ k.transpose(-1, -2)) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if causal:
        seen = torch.ones(rows, columns, dtype=torch.bool).tril()
        mask = seen & torch.ones_like(seen).triu(1 - window) if window else seen
    blind = None
    if mask is not None and mask.dtype == torch.bool:
        blind = ~mask.any(-1, keepdim=True) if sinks is None else None
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, rows, 1)], -1)
    if blind is not None:
        scores = scores.masked_fill(blind, 0.0)
    shares = torch.softmax(scores.float(), -1).to(q.dtype)
    if blind is not None:
        shares = shares.masked_fill(blind, 0.0)
    return (shares[..., :columns] @ v).transpose(1, 2).contiguous()


def compute_dispatch(x, index, experts):
    chosen, order = torch.sort(index.reshape(-1), stable=True)
    counts = torch.bincount(chosen, minlength=experts)[:experts]
    return x[order // index.shape[1]], counts.cumsum(0).int(), order


def compute_expert_linear(rows, weight, bias, ends, transposed):
    parts, begin = [], 0
    for expert, end in enumerate(ends.tolist()):
        out = rows[begin:end] @ (weight[expert] if transposed else weight[expert].T)
        parts.append(out + bias[expert] if bias is not None else out)
        begin = end
    if begin < rows.shape[0]:
        parts.append(rows.new_zeros(rows.shape[0] - begin, parts[0].shape[1]))
    return torch.cat(parts)


def compute_combine(rows, weights, order):
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel(), device=order.device)
    return (rows[back] * weights.reshape(-1, 1)).view(*weights.shape, -1).sum(1)


def compute_selective_scan(u, delta, A, B, C):
    state, outputs = 0, []
    for token in range(u.shape[2]):
        step = delta[:, :, token, None]
        state = torch.exp(step * A) * state + step * u[:, :, token, None] * B[:, None, :, token]
        outputs.append((state * C[:, None, :, token]).sum(-1))
    return torch.stack(outputs, -1).to(u.dtype)


COMPUTE = {"rt::attention": compute_attention, "rt::dispatch": compute_dispatch, "rt::expert_linear": compute_expert_linear,
           "rt::combine": compute_combine, "rt::selective_scan": compute_selective_scan}
