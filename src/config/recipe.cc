// The peer's recipes.
#include "config/recipe.h"

#include "base/error.h"
#include "config/config.h"

namespace roundtable {
namespace {

struct Recipe {
  const char* name;
  std::int64_t batch_size;
  std::int64_t iters;
  std::int64_t seqlen;
  std::int64_t n_samples;
  double lr;  // 0: 1 / iters
};

// `rtn` is the peer's with disable_opt_rtn: plain rounding to nearest.
constexpr Recipe kValues[] = {
    {"default", 8, 200, 2048, 128, 0},
    {"best", 8, 1000, 2048, 512, 0},
    {"light", 8, 50, 2048, 128, 5e-3},
    {"rtn", 8, 0, 2048, 1, 0},
};

}  // namespace

void apply_recipe(const std::string& name, Config& config) {
  for (const Recipe& recipe : kValues) {
    if (recipe.name != name) continue;
    config.tuning.recipe = name;
    config.tuning.batch_size = recipe.batch_size;
    config.tuning.iters = recipe.iters;
    config.tuning.lr = recipe.lr;
    config.calibration.seqlen = recipe.seqlen;
    config.calibration.n_samples = recipe.n_samples;
    return;
  }
  RT_UNREACHABLE("the recipe was checked when it was read");
}

}  // namespace roundtable
