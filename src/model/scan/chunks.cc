// The scan on any device, of LibTorch's operators: token by token, with the states at the starts of chunks kept. The
// backward pass runs one chunk at a time again, with autograd.
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>

#include "model/scan/selective_scan.h"

namespace roundtable {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Chunk {
  Tensor y;      // [B, D, length]
  Tensor state;  // [B, D, N], behind the last token
};

Chunk run_chunk(const ScanArguments& x, Tensor state) {
  std::vector<Tensor> outputs;
  for (std::int64_t t = 0; t < x.seqlen(); ++t) {
    const Tensor step = x.delta.select(2, t).unsqueeze(-1);
    const Tensor in = (step * x.u.select(2, t).unsqueeze(-1)) * x.b.select(1, t).unsqueeze(1);
    state = torch::exp(step * x.a) * state + in;
    outputs.push_back((state * x.c.select(1, t).unsqueeze(1)).sum(-1));
  }
  return {torch::stack(outputs, -1), state};
}

std::int64_t chunk_length(std::int64_t seqlen) {
  return static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(seqlen))));
}

// Tokens from `begin`. The tensors are leaves of their own if a gradient is wanted.
ScanArguments chunk_of(const ScanArguments& x, std::int64_t begin, bool leaves) {
  const std::int64_t length = std::min(chunk_length(x.seqlen()), x.seqlen() - begin);
  const auto part = [&](const Tensor& all) { return leaves ? all.detach().requires_grad_() : all; };
  ScanArguments chunk = x;
  chunk.u = part(x.u.narrow(2, begin, length));
  chunk.delta = part(x.delta.narrow(2, begin, length));
  chunk.a = part(x.a);
  chunk.b = part(x.b.narrow(1, begin, length));
  chunk.c = part(x.c.narrow(1, begin, length));
  return chunk;
}

struct ScanInChunks : public torch::autograd::Function<ScanInChunks> {
  static Tensor forward(AutogradContext* context, const Tensor& u, const Tensor& delta, const Tensor& a,
                        const Tensor& b, const Tensor& c) {
    const ScanArguments x({u, delta, a, b, c});
    std::vector<Tensor> outputs, starts;
    Tensor state = torch::zeros({x.samples(), x.channels(), x.states()}, x.u.options());
    for (std::int64_t begin = 0; begin < x.seqlen(); begin += chunk_length(x.seqlen())) {
      starts.push_back(state);
      Chunk done = run_chunk(chunk_of(x, begin, false), state);
      outputs.push_back(done.y);
      state = done.state;
    }
    context->save_for_backward({u, delta, a, b, c, torch::stack(starts)});
    return torch::cat(outputs, 2).to(u.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    variable_list given = context->get_saved_variables();
    const Tensor starts = given.back();
    given.pop_back();
    const ScanArguments x(given);
    const Tensor upstream = grad_outputs[0].to(x.u.scalar_type());
    ScanArguments sums = x;
    for (Tensor* sum : {&sums.u, &sums.delta, &sums.a, &sums.b, &sums.c}) *sum = torch::zeros_like(*sum);
    Tensor behind = torch::zeros_like(starts[0]);
    for (std::int64_t i = starts.size(0); i-- > 0;) {
      const torch::AutoGradMode with_gradients(true);
      const std::int64_t begin = i * chunk_length(x.seqlen());
      const ScanArguments chunk = chunk_of(x, begin, true);
      const Tensor start = starts[i].detach().requires_grad_();
      const Chunk done = run_chunk(chunk, start);
      const std::int64_t length = chunk.seqlen();
      const variable_list leaves{chunk.u, chunk.delta, chunk.a, chunk.b, chunk.c, start};
      const variable_list wanted{upstream.narrow(2, begin, length), behind};
      const auto found = torch::autograd::grad({done.y, done.state}, leaves, wanted);
      const torch::NoGradGuard no_gradients;
      sums.u.narrow(2, begin, length).copy_(found[0]);
      sums.delta.narrow(2, begin, length).copy_(found[1]);
      sums.a.add_(found[2]);
      sums.b.narrow(1, begin, length).copy_(found[3]);
      sums.c.narrow(1, begin, length).copy_(found[4]);
      behind = found[5];
    }
    return scan_gradients(sums, given);
  }
};

}  // namespace

ScanArguments::ScanArguments(const std::vector<Tensor>& given) {
  auto dtype = torch::kFloat32;
  for (const Tensor& tensor : given) dtype = tensor.scalar_type() == torch::kFloat64 ? torch::kFloat64 : dtype;
  const auto as_states = [&](const Tensor& tensor) { return tensor.detach().to(dtype).contiguous(); };
  u = as_states(given[0]);
  delta = as_states(given[1]);
  a = as_states(given[2]);
  b = as_states(given[3].transpose(1, 2));
  c = as_states(given[4].transpose(1, 2));
}

std::vector<Tensor> scan_gradients(const ScanArguments& gradients, const std::vector<Tensor>& given) {
  const auto as = [](const Tensor& gradient, const Tensor& like) { return gradient.to(like.scalar_type()); };
  return {as(gradients.u, given[0]), as(gradients.delta, given[1]), as(gradients.a, given[2]),
          as(gradients.b.transpose(1, 2), given[3]), as(gradients.c.transpose(1, 2), given[4])};
}

Tensor scan_in_chunks(const Tensor& u, const Tensor& delta, const Tensor& a, const Tensor& b, const Tensor& c) {
  return ScanInChunks::apply(u, delta, a, b, c);
}

Tensor selective_scan(const Tensor& u, const Tensor& delta, const Tensor& a, const Tensor& b, const Tensor& c) {
  return u.is_cpu() ? scan_by_channel(u, delta, a, b, c) : scan_in_chunks(u, delta, a, b, c);
}

}  // namespace roundtable
