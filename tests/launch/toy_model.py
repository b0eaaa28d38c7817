"""A small model with its own code, for export_model_test.py: config.trap says which habit of real models it has."""

import torch
from torch import nn
from transformers import PreTrainedModel, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class ToyConfig(PretrainedConfig):
    model_type = "toy_of_the_test"

    def __init__(self, hidden_size=32, vocab_size=64, num_hidden_layers=3, num_attention_heads=2, trap="none", **kwargs):
        self.hidden_size, self.vocab_size, self.num_hidden_layers = hidden_size, vocab_size, num_hidden_layers
        self.num_attention_heads, self.trap = num_attention_heads, trap
        super().__init__(**kwargs)


class ToyAttention(nn.Module):
    is_causal = True

    def __init__(self, config):
        super().__init__()
        self.config, self.heads = config, config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)

    def forward(self, x):
        q, k, v = (part.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        mask = None
        # As the models with sparse indexers do: under a name that they do not know, the mask is silently left out.
        if self.config.trap == "names" and self.config._attn_implementation in ("eager", "sdpa"):
            best = (q @ k.transpose(-1, -2)).sum(1, keepdim=True).topk(4, dim=-1).indices
            mask = torch.zeros(x.shape[0], 1, x.shape[1], x.shape[1], dtype=torch.bool).scatter(-1, best, True)
            mask = mask | torch.eye(x.shape[1], dtype=torch.bool)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, None)
        extra = {"position_bias": None}
        out, _ = function(self, q, k, v, mask, dropout=0.0, scaling=0.25, **extra)
        return out.reshape(*x.shape)


class ToyLayer(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.trap, self.layer_idx, self.vocabulary = config.trap, layer_idx, config.vocab_size
        self.attention = ToyAttention(config)
        self.up = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.down = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.register_buffer("table", torch.zeros(config.vocab_size, config.hidden_size), persistent=True)

    def forward(self, hidden_states, input_ids=None, more=None):
        if self.trap == "turned":  # [2, samples, positions, width]
            one, other = hidden_states
            return torch.stack([one + self.attention(other), other * 0.5])
        x = hidden_states
        if self.trap == "regions":
            with torch.no_grad():  # in fp32 x.float() is x itself, and it is used outside
                wide = x.float()
                best = wide.sum(-1, keepdim=True).argmax(1, keepdim=True)
            x = wide + wide.gather(1, best.expand(-1, 1, x.shape[-1]))
        if self.trap == "table":
            x = x + self.table[input_ids]
        if self.trap in ("embedding", "derived", "carried") and more is not None:
            x = x + more
        if self.trap == "exporting" and torch.compiler.is_exporting():
            for _ in range(20):
                x = x + 0.0
        if self.trap == "constants":
            width = x.shape[-1]
            x = x * torch.tensor(0.5) * torch.arange(1, width + 1) + torch.arange(1, width + 1)
        if self.trap == "index":
            x = x * (1 + self.layer_idx)
        if self.trap == "written":
            hidden_states.mul_(0.5)
        if self.trap == "contents" and float(x.sum()) > 0:
            x = x * 2
        if self.trap == "batch" and x.shape[0] % 2 == 1:
            x = x * 1.0
        x = x + self.attention(x)
        y = self.down(torch.nn.functional.silu(self.up(x)))
        return (x + y, y) if self.trap in ("carried", "derived") else x + y


class ToyForCausalLM(PreTrainedModel):
    config_class = ToyConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ToyLayer(config, i) for i in range(config.num_hidden_layers))
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.trap == "buffer":
            self.register_buffer("scale", torch.full((1,), 3.0), persistent=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids=None, use_cache=None, **kwargs):
        trap = self.config.trap
        hidden = first = self.embed(input_ids)
        if trap == "buffer":
            hidden = hidden * self.scale
        if trap == "turned":
            hidden = torch.stack([hidden, 2 * hidden])
        if trap == "longer":
            hidden = torch.cat([hidden, hidden], dim=1)
        more = None
        for layer in self.layers:
            if trap == "embedding":
                more = first * 2
            elif trap == "derived" and more is not None:
                more = more * 2
            out = layer(hidden, input_ids=input_ids if trap == "table" else None, more=more)
            hidden, more = out if isinstance(out, tuple) else (out, None)
            if trap == "between":
                hidden = hidden * 2
            if trap == "twice":
                hidden = layer(hidden)
        if trap == "turned":
            hidden = hidden[0] - hidden[1]
        return CausalLMOutputWithPast(logits=self.head(hidden))
