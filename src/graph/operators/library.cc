// The registration. CompositeImplicitAutograd: autograd sees what an operator is made of, and our autograd functions.
#include "graph/operators/library.h"

#include <torch/library.h>

namespace roundtable {

void register_operators() {
  static const auto libraries = [] {
    std::vector<torch::Library> made;
    made.emplace_back(torch::Library::FRAGMENT, "rt", std::nullopt, __FILE__, __LINE__);
    made.back()
        .def(
            "attention(Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor? sinks, float scale, bool causal, int "
            "window, "
            "float softcap) -> Tensor",
            &graph_attention)
        .def("dispatch(Tensor x, Tensor index, int experts) -> (Tensor, Tensor, Tensor)", &dispatch_tokens)
        .def("expert_linear(Tensor rows, Tensor weight, Tensor? bias, Tensor ends, bool transposed) -> Tensor",
             &expert_linear)
        .def("combine(Tensor rows, Tensor weights, Tensor order) -> Tensor", &combine_tokens)
        .def("selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C) -> Tensor", &graph_selective_scan);
    made.emplace_back(torch::Library::FRAGMENT, "fused", std::nullopt, __FILE__, __LINE__);
    made.back()
        .def("rms_norm(Tensor x, Tensor weight, float eps, bool plus_one, ScalarType? dtype) -> Tensor",
             &fused_rms_norm)
        .def("rope(Tensor x, Tensor cos, Tensor sin, int half, int dim) -> Tensor", &fused_rope)
        .def("swiglu(Tensor gate, Tensor up) -> Tensor", &fused_swiglu)
        .def("gelu(Tensor x) -> Tensor", &fused_gelu)
        .def("geglu(Tensor gate, Tensor up) -> Tensor", &fused_geglu)
        .def("swiglu_of_halves(Tensor joined) -> Tensor", &fused_swiglu_of_halves)
        .def("geglu_of_halves(Tensor joined) -> Tensor", &fused_geglu_of_halves)
        .def("to_owners(Tensor rows, Tensor ends) -> (Tensor, Tensor)", &rows_to_owners)
        .def("from_owners(Tensor rows, Tensor ends) -> Tensor", &rows_from_owners);
    return made;
  }();
  (void)libraries;
}

}  // namespace roundtable
