"""What a tensor is to the model: the one list of what is not quantized by default, and why.

Every linear layer of a block is quantized but for three groups. Routers are found in the graph: their output reaches the
choice of experts before any other product. Linear layers that do not reach their product as they are (a weight that is
split or turned first), or have two products (zaya), cannot be tuned. The rest are the names in KEPT, which a rule of
quantization.weight_config for them alone quantizes. Parts for vision and for the prediction of more tokens are in no
graph; they are copied as they are."""

import re
from collections import namedtuple

from .encode import values_in

PRODUCTS = ("aten::linear", "aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::matmul", "aten::_grouped_mm",
            "aten::scaled_dot_product_attention", "aten::conv1d", "aten::convolution", "aten::embedding",
            "rt::attention", "rt::expert_linear", "rt::combine")
# operator -> number of the argument that is a weight, and whether it lies as [in, out]
WEIGHT_ARGUMENT = {"aten::linear": (1, False), "aten::addmm": (2, True), "aten::bmm": (1, True)}
CHOICES = ("aten::topk", "aten::sort", "aten::argmax", "aten::max")

# `names`: expression for the name of a module in transformers; `reason`; `engine`: who builds it without quantization, and
# where; `narrow`: only if it has fewer outputs than the block's o_proj has inputs, as a gate with one output per head.
Kept = namedtuple("Kept", "names reason engine narrow", defaults=(False,))

KEPT = (
    Kept(r"(^|\.)(\w*router|gate)(\.|$)",
         "a router, or a layer inside one (zaya), that reaches its choice in another way than by a top-k",
         "vLLM, models/kimi_linear.py, KimiMoE: quant_config=None; llama.cpp, llama-quant.cpp: ffn_gate_inp"),
    Kept(r"(^|\.)shared_expert_gate$",
         "it has one output, and 4-bit kernels need a multiple of 64",
         "vLLM, models/qwen3_next.py, Qwen3NextSparseMoeBlock: quant_config=None; auto-round 0.16.1, special_model_handler.py, "
         "get_predefined_ignore_layers()"),
    Kept(r"(^|\.)\w*indexer(\.|$)",
         "a sparse indexer is small, and its output chooses keys by a top-k",
         "SGLang, layers/attention/dsa/dsa_indexer.py: weights_proj, and wk where it is fused with it; auto-round 0.16.1, "
         "special_model_handler.py, for glm_moe_dsa and glm5_next; llama.cpp, llama-quant.cpp: indexer.k_proj, indexer.q_proj"),
    Kept(r"(^|\.)compressor(\.|$)",
         "it compresses keys and chooses them, and the engine multiplies by it in 16 bits",
         "SGLang, layers/attention/dsv4/compressor.py, _compute_wkv_gate()"),
    Kept(r"(^|\.)in_proj_(a|b|ba)$",
         "gates of linear attention with one output per head: too few for 4-bit kernels on several GPUs",
         "vLLM, pull request 36199: its Marlin kernels need 64 outputs on each GPU"),
    Kept(r"(^|\.)(b_proj|f_a_proj|f_b_proj|g_a_proj|g_b_proj)$",
         "gates of delta attention, small, with one output per head or of low rank",
         "SGLang, models/kimi_linear.py: b_proj and fused_fg_b_proj without quantization"),
    Kept(r"(^|\.)(a_proj|g_proj)$",
         "a gate of attention with one output per head",
         "SGLang, models/bailing_moe_v3.py and models/step3p5.py; auto-round 0.16.1, special_model_handler.py, for step3p5: 96 "
         "outputs are no multiple of 64", narrow=True),
    Kept(r"(^|\.)(x_proj|dt_proj)$",
         "step sizes of Mamba, and B and C: they enter an exponential",
         "vLLM, layers/mamba/mamba_mixer.py, MambaMixer: without quant_config"),
    Kept(r"(^|\.)(\w+_hc|hc_\w+|\w*hyper_connection)(\.|$)",
         "weights that mix the streams of hyper-connections, in fp32",
         "SGLang, models/hunyuan_v4.py: hc_fn; auto-round 0.16.1, special_model_handler.py, for qwen4: hyper_connection"),
    Kept(r"(^|\.)(per_layer_input_gate|per_layer_projection|altup|laurel)(\.|$)",
         "gates of the inputs of each layer, and small projections around the block",
         "vLLM, models/gemma3n.py: without quant_config; llama.cpp, llama-quant.cpp: altup and laurel"),
    Kept(r"(^|\.)\w*layernorm\.", "part of a norm with a gate of low rank (axk2)",
         "transformers, models/axk2/modeling_axk2.py, AXK2GatedRMSNorm: a norm, and norms are not quantized"),
)


def is_product(op):
    return op.split(".")[0] in PRODUCTS


def is_no_router(module):
    """Whether another entry than the first keeps it: an indexer chooses keys, not experts."""
    return any(re.search(entry.names, module) for entry in KEPT[1:] if not entry.narrow)


class Roles:
    """Of the parameters of one part: `use`, and `in_out` of those that are weights of products. `linear_layers`: names of
    modules that are linear layers, whatever becomes of their weights."""

    def __init__(self, part, linear_layers=frozenset()):
        self.part, self.linear_layers = part, linear_layers
        self.names = {i["value"]: i["name"] for i in part["inputs"] if i["kind"] == "parameter"}
        self.users = {}
        for node in part["nodes"]:
            for place, argument in enumerate(node["args"]):
                for number in values_in(argument):
                    self.users.setdefault(number, []).append((node, place))
        self.use, self.in_out = {}, {}
        for number, name in self.names.items():
            self.use[name], self.in_out[name] = self.find(number, name)

    def find(self, number, name):
        users = self.users.get(number, [])
        plain = [(node["op"].split(".")[0], place, node) for node, place in users]
        if any(op.startswith("aten::conv") and place == 1 for op, place, _ in plain):
            return "convolution", None
        if any(op == "aten::embedding" for op, _, _ in plain) and len(plain) == 1:
            return "embedding", None
        if len(self.part["parameters"][name]["shape"]) < 2 or not plain:
            return "other", None
        weights = [self.weight_of(op, place, node) for op, place, node in plain]
        direct = all(found is not None for found in weights)
        module = name.removesuffix(".weight")
        kept = self.is_kept(module)
        if self.is_router(plain, direct) and not (kept and is_no_router(module)):
            return "router", weights[0] if direct else False
        if not direct:
            return ("kept", False) if module in self.linear_layers else ("other", None)
        return "kept" if kept or len(plain) > 1 else "linear", weights[0]

    def is_kept(self, module):
        return any(re.search(entry.names, module) and (not entry.narrow or self.is_narrow(module)) for entry in KEPT)

    def is_narrow(self, module):
        above, _, _ = module.rpartition(".")
        shapes = self.part["parameters"]
        out = shapes.get(f"{above}.o_proj.weight" if above else "o_proj.weight")
        return out is not None and shapes[f"{module}.weight"]["shape"][0] < out["shape"][1]

    def is_router(self, plain, direct):
        """Whether what the weight gives, itself or in another precision, chooses experts."""
        if direct:
            return all(op == "aten::linear" and self.chooses(node) for op, _, node in plain)
        casts = [node for op, _, node in plain if op in ("aten::to", "aten::_to_copy", "aten::float")]
        return any(self.chooses(n2) for node in casts for n2, _ in self.users.get(node["out"][0], []) if is_product(n2["op"]))

    @staticmethod
    def weight_of(op, place, node):
        """Whether the weight lies as [in, out]; None if this argument is no weight."""
        if op == "rt::expert_linear":
            return bool(node["args"][4]) if place == 1 else None
        wanted = WEIGHT_ARGUMENT.get(op)
        return wanted[1] if wanted and wanted[0] == place else None

    def chooses(self, node):
        """Whether the node's result reaches a choice of experts before another product."""
        seen, queue = set(), [number for number in node["out"] if number is not None]
        while queue:
            number = queue.pop()
            for user, place in self.users.get(number, []):
                plain = user["op"].split(".")[0]
                if plain in CHOICES or (plain == "rt::dispatch" and place == 1):
                    return True
                if not is_product(plain) and plain != "rt::dispatch":
                    queue += [n for n in user["out"] if n is not None and n not in seen]
                    seen.update(n for n in user["out"] if n is not None)
        return False
