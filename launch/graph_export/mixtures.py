"""Modules of transformers 5.23 whose code no graph can hold, in our operators or in whole tensors: mixtures of experts that do
not ask for a function of their experts (operators.experts), and a sparse indexer (qwen4_exp). As written, they loop over
what was chosen, which cannot be traced (dbrx, jetmoe, longcat_flash, step3p7, qwen4_exp), or run every expert on every token
(llama4). The check of the small sibling compares them with the code that they replace."""

import contextlib
import math
import sys

import torch
from torch import nn
from torch.nn import functional

from . import operators  # noqa: F401: it registers them


def llama4_moe(self, hidden_states):
    """Llama4TextMoe.forward: experts that were not chosen get zeros and give zeros, so they can be left out."""
    x = hidden_states.reshape(-1, self.hidden_dim)
    logits = functional.linear(x, self.router.weight, self.router.bias)
    values, index = torch.topk(logits, self.top_k, dim=1)
    scores = torch.sigmoid(values.float()).to(values.dtype)
    rows, ends, order = torch.ops.rt.dispatch(x, index, self.num_experts)
    rows = rows * scores.reshape(-1)[order].unsqueeze(-1)
    gate, up = torch.ops.rt.expert_linear(rows, self.experts.gate_up_proj, None, ends, True).chunk(2, dim=-1)
    out = torch.ops.rt.expert_linear(up * self.experts.act_fn(gate), self.experts.down_proj, None, ends, True)
    return self.shared_expert(x) + torch.ops.rt.combine(out, torch.ones_like(scores), order), logits


def longcat_experts(self, hidden_states, top_k_index, top_k_weights):
    """LongcatFlashExperts.forward: indices behind the last expert mean the token itself."""
    rows, ends, order = torch.ops.rt.dispatch(hidden_states, top_k_index, self.num_routed_experts)
    gate, up = torch.ops.rt.expert_linear(rows, self.gate_up_proj, None, ends, False).chunk(2, dim=-1)
    out = torch.ops.rt.expert_linear(self.act_fn(gate) * up, self.down_proj, None, ends, False)
    itself = (top_k_index.reshape(-1)[order] >= self.num_routed_experts).unsqueeze(-1)
    out = torch.where(itself, rows, out)
    return torch.ops.rt.combine(out, top_k_weights, order).to(hidden_states.dtype)


def dbrx_experts(self, hidden_states, top_k_index, top_k_weights):
    """DbrxExperts.forward."""
    count = top_k_index.shape[-1]
    x, weights = hidden_states.reshape(-1, self.hidden_size), top_k_weights.reshape(-1, count)
    rows, ends, order = torch.ops.rt.dispatch(x, top_k_index.reshape(-1, count), self.num_experts)

    def product(rows, weight, transposed):
        weight = weight.view(self.num_experts, self.ffn_hidden_size, self.hidden_size)
        return torch.ops.rt.expert_linear(rows, weight, None, ends, transposed)
    out = self.mlp.activation_fn(product(rows, self.mlp.w1, False)) * product(rows, self.mlp.v1, False)
    return torch.ops.rt.combine(product(out, self.mlp.w2, True), weights, order).view(hidden_states.shape)


def step3p7_experts(self, hidden_states, top_k_index, top_k_weights):
    """Step3p7Experts.forward."""
    rows, ends, order = torch.ops.rt.dispatch(hidden_states, top_k_index, self.num_experts)
    out = self._apply_gate(torch.ops.rt.expert_linear(rows, self.gate_up_proj, None, ends, False))
    out = torch.ops.rt.expert_linear(out, self.down_proj, None, ends, False)
    return torch.ops.rt.combine(out, top_k_weights, order).to(hidden_states.dtype)


def jetmoe_gating(self, hidden_states):
    """JetMoeTopKGating.forward; in the place of the number of rows of each expert it gives where they end."""
    logits = self.layer(hidden_states).float()
    values, index = logits.topk(self.top_k, dim=1)
    gates = torch.softmax(values, dim=1).type_as(hidden_states)
    _, ends, order = torch.ops.rt.dispatch(hidden_states, index, self.num_experts)
    return order, order.div(self.top_k, rounding_mode="trunc"), gates.flatten()[order], ends, logits


def jetmoe_experts(self, inputs, ends):
    """JetMoeParallelExperts.forward."""
    return torch.ops.rt.expert_linear(inputs, self.weight, None, ends, False)


def qwen4_indexer(self, hidden_states, position_embeddings, attention_mask, past_key_values):
    """Qwen4ExpTextQSAIndexer.forward, which goes over the queries one by one, for a causal mask: each query sees the blocks
    of keys with the highest scores of all that are complete, and the tokens behind the last complete one."""
    batch, length, _ = hidden_states.shape
    cos, sin = position_embeddings
    dim, ratio = self.index_head_dim, self.compress_ratio
    rotate = sys.modules[type(self).__module__].apply_rotary_pos_emb
    q, k = self.index_qk_proj(hidden_states).split([self.index_n_heads * dim, self.index_kv_heads * dim], dim=-1)
    q = rotate(self.q_layernorm(q.reshape(batch, length, -1, dim)), cos=cos, sin=sin, unsqueeze_dim=2)
    blocks = length // ratio
    whole = blocks * ratio
    keys = self.k_layernorm(k[:, :whole].reshape(batch, blocks, ratio, dim).float().mean(dim=2).to(k.dtype))
    keys = rotate(keys.unsqueeze(2), cos=cos[:, :whole:ratio], sin=sin[:, :whole:ratio], unsqueeze_dim=2).squeeze(2)
    scores = torch.relu(q.float() @ keys.float().transpose(-1, -2).unsqueeze(1)).sum(dim=2) / math.sqrt(dim)
    place = torch.arange(length, device=hidden_states.device)
    behind = (place + 1) // ratio * ratio  # of each query: the first token behind the complete blocks
    complete = (torch.arange(blocks, device=place.device) + 1) * ratio <= behind.unsqueeze(-1)
    best = scores.masked_fill(~complete, -1.0).topk(min(self.block_topk, blocks), dim=-1).indices
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True) & complete
    chosen = functional.pad(chosen.repeat_interleave(ratio, dim=-1), (0, length - whole))
    return (chosen | (place >= behind.unsqueeze(-1)) & (place <= place.unsqueeze(-1))).unsqueeze(1)


FORWARDS = {"Llama4TextMoe": llama4_moe, "LongcatFlashExperts": longcat_experts, "DbrxExperts": dbrx_experts,
            "Step3p7Experts": step3p7_experts, "Qwen4ExpTextQSAIndexer": qwen4_indexer,
            "JetMoeTopKGating": jetmoe_gating, "JetMoeParallelExperts": jetmoe_experts}


def prepare(model):
    """Takes away the weights that longcat_flash makes for experts that have none; no checkpoint holds them."""
    for module in model.modules():
        if type(module).__name__ == "LongcatFlashExperts" and module.num_routed_experts > 0:
            module.gate_up_proj = nn.Parameter(module.gate_up_proj.detach()[:module.num_routed_experts])


@contextlib.contextmanager
def in_use(model):
    classes = {type(module) for module in model.modules() if type(module).__module__.startswith("transformers.")}
    saved = {found: found.forward for found in classes if found.__name__ in FORWARDS}
    for found in saved:
        found.forward = FORWARDS[found.__name__]
    try:
        yield
    finally:
        for found, forward in saved.items():
            found.forward = forward
