// Ties, candidates and bits.
#include "plan/auto_scheme/mixed_bits.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "plan/auto_scheme/choose.h"
#include "plan/auto_scheme/fused_places.h"

namespace roundtable {
namespace {

constexpr const char* kPlace = "quantization.auto_scheme";

const LinearSpec& linear_at(const Model& model, const LayerPlace& at) { return model.linears(at.block)[at.place]; }

// An option is chosen for layers of the whole model, so all formats must hold it, and weights of one data_type.
void check_options(const QuantizationSection& section, const Formats& formats) {
  for (const SchemeOption& option : section.auto_scheme.options) {
    if (option.keeps_float()) continue;
    const std::string word = option.word();
    if (option.data_type != section.data_type) {
      throw bad_input(kPlace, fmt::format("option {} has weights of data_type {}, and quantization.data_type is {}", word,
                                          word_of(option.data_type), word_of(section.data_type)),
                      "a checkpoint holds one data_type: leave the option out, or set quantization.data_type");
    }
    for (const CheckpointFormat* format : formats) {
      if (const auto reason = format->scheme_obstacle(*scheme_of_option(section, option, formats))) {
        throw bad_input(kPlace, fmt::format("option {}: {} cannot hold it: {}", word, format->name(), *reason),
                        "leave the option out, or the format");
      }
    }
  }
}

double weights_of(const Model& model, const TiedLayers& tie) {
  double weights = 0;
  for (const LayerPlace& at : tie.layers) {
    const LinearSpec& linear = linear_at(model, at);
    weights += static_cast<double>(linear.out) * static_cast<double>(linear.in);
  }
  return weights;
}

// Where layers that are tied cannot all have one option, each is chosen by itself.
std::vector<std::vector<std::size_t>> tied_places(const LayerSchemes& schemes, std::int64_t block) {
  const std::vector<LinearSpec>& linears = schemes.model.linears(block);
  const auto& open = schemes.open[static_cast<std::size_t>(block)];
  std::vector<std::vector<std::size_t>> ties;
  std::set<std::size_t> seen;
  for (std::vector<std::size_t>& places : fused_places(linears)) {
    std::erase_if(places, [&](std::size_t place) { return open[place].empty(); });
    if (places.empty()) continue;
    std::vector<std::size_t> shared = open[places.front()];
    for (const std::size_t place : places) {
      std::erase_if(shared, [&](std::size_t option) { return std::ranges::find(open[place], option) == open[place].end(); });
    }
    if (shared.empty()) continue;
    seen.insert(places.begin(), places.end());
    ties.push_back(std::move(places));
  }
  for (std::size_t place = 0; place < linears.size(); ++place) {
    if (!open[place].empty() && !seen.contains(place)) ties.push_back({place});
  }
  std::sort(ties.begin(), ties.end());
  return ties;
}

std::string name_of(const Model& model, const TiedLayers& tie) {
  return model.block_prefix(tie.layers.front().block) + linear_at(model, tie.layers.front()).name;
}

// A mean that differs from an end of the range by less than this is that end (auto_scheme/gen_auto_scheme.py,
// _check_configs).
constexpr double kNear = 1e-3;

// The end of what the options give, with the fewest bits or with the most.
template <class Better>
double mean_at_end(const MixedBits& mixed, const Better& better) {
  std::int64_t bits = 0;
  for (const TiedLayers& tie : mixed.ties) {
    std::int64_t best = tie.candidates.front().bits;
    for (const Candidate& candidate : tie.candidates) best = better(best, candidate.bits) ? best : candidate.bits;
    bits += best;
  }
  return mixed.mean(bits);
}

void check_mean(const QuantizationSection& section, const MixedBits& mixed) {
  const double least = mean_at_end(mixed, std::less<>()), most = mean_at_end(mixed, std::greater<>());
  const double wanted = section.auto_scheme.avg_bits;
  if (wanted >= least - kNear && wanted <= most + kNear) return;
  throw bad_input(kPlace,
                  fmt::format("avg_bits {} is out of reach: these options give {:.3f} to {:.3f} bits in the mean over all "
                              "linear layers of the blocks{}",
                              wanted, least, most,
                              section.auto_scheme.ignore_scale_zp_bits ? "" : ", scales and zero points counted"),
                  wanted < least ? "raise avg_bits, or add an option of fewer bits or larger groups"
                                 : "lower avg_bits, or add an option of more bits");
}

}  // namespace

std::int64_t MixedBits::budget(double avg_bits) const {
  return static_cast<std::int64_t>(std::floor(avg_bits * static_cast<double>(weights))) - fixed_bits;
}

double MixedBits::mean(std::int64_t chosen_bits) const {
  return static_cast<double>(chosen_bits + fixed_bits) / static_cast<double>(std::max<std::int64_t>(weights, 1));
}

std::int64_t storage_bits(const LinearSpec& linear, const std::optional<QuantScheme>& scheme, bool ignore_scale_zp_bits) {
  const std::int64_t weights = linear.out * linear.in;
  if (!scheme) return 16 * weights;
  const std::int64_t bits = scheme->bits * weights;
  if (ignore_scale_zp_bits) return bits;
  const std::int64_t of_group = scheme->type == WeightType::kInt ? 16 + scheme->bits : 8;
  return bits + linear.out * scheme->groups(linear.in) * of_group;
}

MixedBits mixed_bits_of(const QuantizationSection& section, const LayerSchemes& schemes, const Formats& formats) {
  check_options(section, formats);
  const AutoScheme& wanted = section.auto_scheme;
  const bool ignore = wanted.ignore_scale_zp_bits;
  const Model& model = schemes.model;
  MixedBits mixed;
  const auto count = [&](const LinearSpec& linear) { mixed.weights += linear.out * linear.in; };
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    const auto& open = schemes.open[static_cast<std::size_t>(block)];
    const std::vector<LinearSpec>& linears = model.linears(block);
    for (std::size_t place = 0; place < linears.size(); ++place) {
      const auto& scheme = schemes.blocks[static_cast<std::size_t>(block)][place];
      if (schemes.kept.contains({block, place})) continue;
      count(linears[place]);
      if (open[place].empty()) mixed.fixed_bits += storage_bits(linears[place], scheme, ignore);
    }
    for (const std::vector<std::size_t>& places : tied_places(schemes, block)) {
      TiedLayers tie;
      for (const std::size_t place : places) tie.layers.push_back({block, place});
      for (const std::size_t option : open[places.front()]) {
        Candidate candidate{option};
        const auto scheme = scheme_of_option(section, wanted.options[option], formats);
        bool all = true;
        for (const std::size_t place : places) {
          all = all && std::ranges::find(open[place], option) != open[place].end();
          candidate.bits += storage_bits(linears[place], scheme, ignore);
        }
        if (all) tie.candidates.push_back(candidate);
      }
      mixed.ties.push_back(std::move(tie));
    }
  }
  if (schemes.head) {
    count(*model.head());
    mixed.fixed_bits += storage_bits(*model.head(), schemes.head, ignore);
  }
  check_mean(section, mixed);
  return mixed;
}

std::vector<std::size_t> choose_options(const MixedBits& mixed, double avg_bits,
                                        const std::function<double(const TiedLayers&, std::size_t)>& loss) {
  std::vector<std::vector<SchemeCost>> items;
  std::int64_t fewest = 0;
  for (const TiedLayers& tie : mixed.ties) {
    std::vector<SchemeCost>& costs = items.emplace_back();
    for (const Candidate& candidate : tie.candidates) costs.push_back({candidate.bits, loss(tie, candidate.option)});
    fewest += std::ranges::min(costs, {}, &SchemeCost::bits).bits;
  }
  return choose_within(items, std::max(mixed.budget(avg_bits), fewest));  // see kNear
}

std::vector<std::size_t> guess_options(const MixedBits& mixed, const QuantizationSection& section, const Model& model) {
  const AutoScheme& wanted = section.auto_scheme;
  return choose_options(mixed, wanted.avg_bits, [&](const TiedLayers& tie, std::size_t option) {
    return weights_of(model, tie) * std::exp2(-static_cast<double>(wanted.options[option].bits));
  });
}

SchemeChoice in_words(const MixedBits& mixed, const QuantizationSection& section, const Model& model,
                      const std::vector<std::size_t>& chosen) {
  SchemeChoice choice;
  for (std::size_t i = 0; i < mixed.ties.size(); ++i) {
    const TiedLayers& tie = mixed.ties[i];
    choice[name_of(model, tie)] = section.auto_scheme.options[tie.candidates[chosen[i]].option].word();
  }
  return choice;
}

std::vector<std::size_t> from_words(const MixedBits& mixed, const QuantizationSection& section, const Model& model,
                                    const SchemeChoice& choice) {
  std::vector<std::size_t> chosen;
  for (const TiedLayers& tie : mixed.ties) {
    const std::string name = name_of(model, tie);
    const auto found = choice.find(name);
    const auto candidate = std::ranges::find_if(tie.candidates, [&](const Candidate& one) {
      return found != choice.end() && section.auto_scheme.options[one.option].word() == found->second;
    });
    if (candidate == tie.candidates.end()) {
      throw bad_input(kPlace, fmt::format("the choice on record has no option for {}", shown(name)),
                      "choose another output.path");
    }
    chosen.push_back(static_cast<std::size_t>(candidate - tie.candidates.begin()));
  }
  return chosen;
}

void apply_choice(const MixedBits& mixed, const QuantizationSection& section, const Formats& formats,
                  const std::vector<std::size_t>& chosen, LayerSchemes& schemes) {
  for (std::size_t i = 0; i < mixed.ties.size(); ++i) {
    const TiedLayers& tie = mixed.ties[i];
    const SchemeOption& option = section.auto_scheme.options[tie.candidates[chosen[i]].option];
    for (const LayerPlace& at : tie.layers) {
      schemes.blocks[static_cast<std::size_t>(at.block)][at.place] = scheme_of_option(section, option, formats);
    }
  }
}

std::optional<std::size_t> most_frequent(const MixedBits& mixed, const QuantizationSection& section, const Model& model,
                                         const std::vector<std::size_t>& chosen) {
  std::vector<double> weights(section.auto_scheme.options.size());
  for (std::size_t i = 0; i < mixed.ties.size(); ++i) {
    const std::size_t option = mixed.ties[i].candidates[chosen[i]].option;
    if (!section.auto_scheme.options[option].keeps_float()) weights[option] += weights_of(model, mixed.ties[i]);
  }
  const auto most = std::ranges::max_element(weights);
  return *most > 0 ? std::optional(static_cast<std::size_t>(most - weights.begin())) : std::nullopt;
}

MixedSchemes figures_of(const MixedBits& mixed, const QuantizationSection& section,
                        const std::vector<std::size_t>& chosen) {
  MixedSchemes figures;
  for (const SchemeOption& option : section.auto_scheme.options) figures.layers[option.word()] = 0;
  std::int64_t bits = 0;
  for (std::size_t i = 0; i < mixed.ties.size(); ++i) {
    const Candidate& candidate = mixed.ties[i].candidates[chosen[i]];
    bits += candidate.bits;
    figures.layers[section.auto_scheme.options[candidate.option].word()] += std::ssize(mixed.ties[i].layers);
  }
  figures.mean_bits = mixed.mean(bits);
  return figures;
}

}  // namespace roundtable
