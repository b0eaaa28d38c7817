"""What a tensor is to the model: the one list of what is not quantized by default, and why.

Routers are found in the graph: their output reaches the choice of experts before any other product. The rest of the list
are names."""

import re

from .encode import values_in

PRODUCTS = ("aten::linear", "aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::matmul", "aten::_grouped_mm",
            "aten::scaled_dot_product_attention", "aten::conv1d", "aten::convolution", "aten::embedding",
            "rt::attention", "rt::expert_linear", "rt::combine")
# operator -> number of the argument that is a weight, and whether it lies as [in, out]
WEIGHT_ARGUMENT = {"aten::linear": (1, False), "aten::addmm": (2, True), "aten::bmm": (1, True)}
CHOICES = ("aten::topk", "aten::sort", "aten::argmax", "aten::max")

# (pattern of the module's name, reason)
KEPT = (
    (r"(^|\.)shared_expert_gate$", "one output: vLLM builds it without a quantization config (models/qwen2_moe.py, Qwen2MoeSparseMoeBlock)"),
    (r"(^|\.)indexer(\.|$)", "small projections of a sparse indexer, whose output chooses keys by top-k (deepseek_v32, glm_moe_dsa)"),
    (r"(^|\.)in_proj_(a|b|ba)$", "gates of linear attention with one output per head (qwen3_next, qwen3_5)"),
    (r"(^|\.)(x_proj|dt_proj)$", "step sizes of Mamba; auto-round leaves them too"),
    (r"(^|\.)(b_proj|f_a_proj|f_b_proj|g_a_proj|g_b_proj)$", "gates of Kimi's delta attention (kimi_linear)"),
    (r"(^|\.)compressor(\.|$)", "small projections of compressed attention (deepseek_v4)"),
    (r"(^|\.)(router|gate)$", "routers that reach their choice in another way than a top-k"),
)


def is_product(op):
    return op.split(".")[0] in PRODUCTS


class Roles:
    """Of the parameters of one part: `use`, and `in_out` of those that are weights of products."""

    def __init__(self, part):
        self.part = part
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
        dimensions = len(self.part["parameters"][name]["shape"])
        plain = [(node["op"].split(".")[0], place, node) for node, place in users]
        if any(op.startswith("aten::conv") and place == 1 for op, place, _ in plain):
            return "convolution", None
        if any(op == "aten::embedding" for op, _, _ in plain) and len(plain) == 1:
            return "embedding", None
        if dimensions < 2 or not plain:
            return "other", None
        weights = [self.weight_of(op, place, node) for op, place, node in plain]
        if any(found is None for found in weights):
            casts = [node for op, _, node in plain if op in ("aten::to", "aten::_to_copy", "aten::float")]
            reached = any(self.chooses(n2) for node in casts for n2, place in self.users.get(node["out"][0], []) if is_product(n2["op"]))
            return ("router" if reached else "other"), (False if reached else None)
        if all(op == "aten::linear" and self.chooses(node) for op, _, node in plain):
            return "router", weights[0]
        module = name.rsplit(".", 1)[0] if name.endswith(".weight") else name
        if any(re.search(pattern, module) for pattern, _ in KEPT):
            return "kept", weights[0]
        return "linear", weights[0]

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
