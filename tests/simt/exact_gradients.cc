// Sums up the terms of each group in fp64, with the magnitudes that bound their rounding.
#include "exact_gradients.h"

#include <algorithm>

#include "quant/fake_quant_math.h"

namespace roundtable {
namespace {

struct Terms {
  double sum = 0;
  double magnitudes = 0;

  void add(float term) {
    sum += term;
    magnitudes += std::fabs(term);
  }
};

// dscale * by_scale + dzero * by_zero, where each sum has `count` terms. A sum of n numbers has an error of at most
// (n - 1) u times the sum of their magnitudes, u = 2^-24, in every order; two products and their sum add 2 u. Products
// below fp32's normal numbers have one of 2^-150.
Sum chained(const Terms& dscale, const Terms& dzero, float by_scale, float by_zero, double count) {
  const double magnitudes = dscale.magnitudes * std::fabs(by_scale) + dzero.magnitudes * std::fabs(by_zero);
  const double bound = (count + 2) * std::ldexp(1.001, -24) * magnitudes + 2 * std::ldexp(1.0, -150);
  return {dscale.sum * by_scale + dzero.sum * by_zero, magnitudes > 0 ? bound : 0};
}

template <WeightType kType>
ExactGradient of_group(const Matrix& m, std::size_t group, std::size_t begin, std::size_t end) {
  const GroupGrid grid =
      group_grid(m.scheme, {m.wmin[group], m.wmax[group], m.min_scale[group], m.max_scale[group]});
  Terms dscale, dzero;
  for (std::size_t i = begin; i < end; ++i) {
    const WeightGradient one = weight_gradient<kType>(grid, m.weight[i], m.v[i], m.gradient[i]);
    dscale.add(one.dscale);
    dzero.add(one.dzero);
  }
  const auto count = static_cast<double>(end - begin);
  return {chained(dscale, dzero, grid.dscale_dmin, grid.dzero_dmin, count),
          chained(dscale, dzero, grid.dscale_dmax, grid.dzero_dmax, count)};
}

}  // namespace

std::vector<ExactGradient> exact_gradients(const Matrix& m) {
  const auto columns = static_cast<std::size_t>(m.shape.columns);
  const auto width = static_cast<std::size_t>(m.scheme.group_columns(m.shape.columns));
  const std::size_t in_row = m.groups() / static_cast<std::size_t>(m.shape.rows);
  std::vector<ExactGradient> out;
  with_type(m.scheme, [&](auto type) {
    for (std::size_t group = 0; group < m.groups(); ++group) {
      const std::size_t row = group / in_row * columns, begin = group % in_row * width;
      out.push_back(of_group<decltype(type)::value>(m, group, row + begin, row + std::min(begin + width, columns)));
    }
  });
  return out;
}

}  // namespace roundtable
