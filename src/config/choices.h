// Keys of the config that take one of a fixed set of words: an enum for each such key, with its words.
//
// This table is the only place where a word is written. The YAML reader, `--help`, the dump of the config and the error
// messages take the words from here, and all other code compares enumerators. A switch over one of these enums has no
// `default`, so that a new enumerator does not compile (-Werror=switch) until every place that must know it does.
//
// The header knows nothing else of the config: quant/, data/ and tune/ use these enums as their own. It is C++17,
// because CUDA sources include it.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <type_traits>

namespace roundtable {

template <class E>
struct Choice {
  std::string_view word;
  E value;
};

// The words of an enum, in the order in which --help names them: an array of Choice<E>. Null for any other type.
template <class E>
inline constexpr std::nullptr_t kChoices = nullptr;

template <class E>
inline constexpr bool kIsChoice = std::is_array_v<std::remove_reference_t<decltype((kChoices<E>))>>;

// ---- quantization ----------------------------------------------------------------------------------------------

enum class Symmetry {
  kSym,   // the grid of integers lies evenly around zero
  kAsym,  // it has a zero point
};
template <>
inline constexpr Choice<Symmetry> kChoices<Symmetry>[] = {{"sym", Symmetry::kSym}, {"asym", Symmetry::kAsym}};

// What a weight is, times the scale of its group. Floats of 4 bits are E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6, either sign.
enum class WeightType {
  kInt,
  kMxFp4,  // scales are powers of two (OCP Microscaling Formats 1.0)
  kNvFp4,  // scales are E4M3 floats over one power of two
};
template <>
inline constexpr Choice<WeightType> kChoices<WeightType>[] = {
    {"int", WeightType::kInt}, {"mx_fp", WeightType::kMxFp4}, {"nv_fp", WeightType::kNvFp4}};

// data_type in a rule of weight_config.
enum class RuleType {
  kInt,
  kFloat,  // the layer stays in 16 bits
};
template <>
inline constexpr Choice<RuleType> kChoices<RuleType>[] = {{"int", RuleType::kInt}, {"float", RuleType::kFloat}};

// auto-round has this key, with more values. Every format of src/export/ stores scales of integers in half precision.
enum class ScaleDtype { kFp16 };
template <>
inline constexpr Choice<ScaleDtype> kChoices<ScaleDtype>[] = {{"fp16", ScaleDtype::kFp16}};

// ---- tuning ----------------------------------------------------------------------------------------------------

// Sets of values that auto-round's commands start from.
enum class Recipe { kDefault, kBest, kLight, kRtn };
template <>
inline constexpr Choice<Recipe> kChoices<Recipe>[] = {
    {"default", Recipe::kDefault}, {"best", Recipe::kBest}, {"light", Recipe::kLight}, {"rtn", Recipe::kRtn}};

enum class LrScheduler {
  kLinear,    // 1 - i / iters: the reference's default
  kConstant,  // 1
  kCosine,    // (1 + cos(pi i / iters)) / 2
};
template <>
inline constexpr Choice<LrScheduler> kChoices<LrScheduler>[] = {
    {"linear", LrScheduler::kLinear}, {"constant", LrScheduler::kConstant}, {"cosine", LrScheduler::kCosine}};

enum class OptimizerKind {
  kSignRound,  // p -= lr * sign(g): AutoRound
  kAdamW,      // AutoOPTRound, AutoAdamRound
};
template <>
inline constexpr Choice<OptimizerKind> kChoices<OptimizerKind>[] = {{"signround", OptimizerKind::kSignRound},
                                                                    {"adamw", OptimizerKind::kAdamW}};

// Where scales start.
enum class InitScale {
  kSearch,  // at the least error of rounding to nearest, weighed by each layer's inputs (search_scales())
  kOne,     // at 1: AutoRound
};
template <>
inline constexpr Choice<InitScale> kChoices<InitScale>[] = {{"search", InitScale::kSearch}, {"one", InitScale::kOne}};

// Whether the largest errors of each sample count in the loss.
enum class OutlierSuppressedLoss {
  kBelow4Bits,
  kAlways,
  kNever,
};
template <>
inline constexpr Choice<OutlierSuppressedLoss> kChoices<OutlierSuppressedLoss>[] = {
    {"below_4_bits", OutlierSuppressedLoss::kBelow4Bits},
    {"always", OutlierSuppressedLoss::kAlways},
    {"never", OutlierSuppressedLoss::kNever}};

enum class SamplerKind {
  kStrata,  // one sample of each stratum
  kRand,    // samples of the whole set
};
template <>
inline constexpr Choice<SamplerKind> kChoices<SamplerKind>[] = {{"strata", SamplerKind::kStrata},
                                                                {"rand", SamplerKind::kRand}};

// ---- parallel --------------------------------------------------------------------------------------------------

enum class Backend {
  kAuto,  // NCCL where there is a CUDA device and a build with NCCL, else MPI
  kMpi,
  kNccl,
};
template <>
inline constexpr Choice<Backend> kChoices<Backend>[] = {
    {"auto", Backend::kAuto}, {"mpi", Backend::kMpi}, {"nccl", Backend::kNccl}};

// The experts of a block in a group of ranks.
enum class Experts {
  kAuto,        // divided where that is possible, and saves memory or traffic
  kDivided,     // each rank holds and tunes its own part of them
  kReplicated,  // each rank holds all of them
};
template <>
inline constexpr Choice<Experts> kChoices<Experts>[] = {
    {"auto", Experts::kAuto}, {"divided", Experts::kDivided}, {"replicated", Experts::kReplicated}};

enum class GradientDtype {
  kFp32,
  kBf16,
  kSign,  // one vote per rank
};
template <>
inline constexpr Choice<GradientDtype> kChoices<GradientDtype>[] = {
    {"fp32", GradientDtype::kFp32}, {"bf16", GradientDtype::kBf16}, {"sign", GradientDtype::kSign}};

// ---- words and values ------------------------------------------------------------------------------------------

template <class E>
constexpr std::string_view word_of(E value) {
  static_assert(kIsChoice<E>);
  for (const Choice<E>& choice : kChoices<E>) {
    if (choice.value == value) return choice.word;
  }
  return {};  // an enumerator that has no word yet: no config can hold it
}

// Nothing for a word that is not one of E's.
template <class E>
constexpr std::optional<E> value_of(std::string_view word) {
  static_assert(kIsChoice<E>);
  for (const Choice<E>& choice : kChoices<E>) {
    if (choice.word == word) return choice.value;
  }
  return std::nullopt;
}

}  // namespace roundtable
