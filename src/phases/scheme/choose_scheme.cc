// Option after option.
#include "phases/scheme/choose_scheme.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/hash.h"
#include "comm/agree.h"
#include "data/token_set.h"
#include "export/quantized_checkpoint.h"
#include "phases/scheme/score_file.h"
#include "plan/shape.h"
#include "run/fingerprint.h"
#include "rundir/paths.h"

namespace roundtable {
namespace {

using OptionScores = std::vector<std::optional<LayerScores>>;  // in the order of the options; none of bf16

// The model as it is rounded for one option: layers that cannot have it stay in 16 bits.
ScoreSettings settings_of(const Config& config, const Plan& plan, std::size_t option) {
  const AutoScheme& wanted = config.quantization.auto_scheme;
  ScoreSettings settings{.schemes = plan.schemes,
                         .samples = std::min(wanted.nsamples, config.calibration.n_samples),
                         .batch_size = wanted.batch_size};
  const auto scheme = scheme_of_option(config.quantization, wanted.options[option], plan.formats);
  for (const TiedLayers& tie : plan.mixed->ties) {
    const bool possible =
        std::ranges::any_of(tie.candidates, [&](const Candidate& candidate) { return candidate.option == option; });
    for (const LayerPlace& at : tie.layers) {
      settings.schemes[static_cast<std::size_t>(at.block)][at.place] = possible ? scheme : std::nullopt;
    }
  }
  return settings;
}

ChosenScheme choose(const Config& config, const Plan& plan, const OptionScores& scores) {
  const auto loss = [&](const TiedLayers& tie, std::size_t option) {
    double sum = 0;  // a layer in 16 bits loses nothing
    if (!scores[option]) return sum;
    for (const LayerPlace& at : tie.layers) {
      sum += scores[option]->of_block[static_cast<std::size_t>(at.block)][at.place];
    }
    return sum;
  };
  const MixedBits& mixed = *plan.mixed;
  const std::vector<std::size_t> chosen = choose_options(mixed, config.quantization.auto_scheme.avg_bits, loss);
  ChosenScheme result{in_words(mixed, config.quantization, plan.model, chosen)};
  for (std::size_t i = 0; i < mixed.ties.size(); ++i) {
    const std::size_t option = mixed.ties[i].candidates[chosen[i]].option;
    if (scores[option]) {
      result.score += loss(mixed.ties[i], option) / static_cast<double>(scores[option]->batches);
    }
  }
  return result;
}

// The files of the scores, and what is in them. On one rank.
class ScoresOnDisk {
 public:
  ScoresOnDisk(const Config& config, const Plan& plan, const std::string& folder) {
    const std::string model = model_digest(config.model.path), tokens = hash_file(config.calibration.tokens);
    const auto& options = config.quantization.auto_scheme.options;
    for (std::size_t option = 0; option < options.size(); ++option) {
      print_.push_back(scores_print(config, plan, model, tokens, settings_of(config, plan, option)));
      path_.push_back(scores_path(folder, print_.back()));
      found_.push_back(options[option].keeps_float() ? std::nullopt : load_scores(path_.back(), print_.back(), plan.model));
      if (!found_.back() && !options[option].keeps_float()) missing_.push_back(option);
    }
  }

  const OptionScores& found() const { return found_; }
  const std::vector<std::size_t>& missing() const { return missing_; }

  void add(std::size_t option, const std::string& word, LayerScores scores) {
    save_scores(path_[option], word, print_[option], scores);
    found_[option] = std::move(scores);
  }

 private:
  std::vector<nlohmann::json> print_;  // by option
  std::vector<std::string> path_;
  OptionScores found_;
  std::vector<std::size_t> missing_;
};

}  // namespace

ChosenScheme choose_scheme(const RankContext& ranks, const Config& config, const Plan& plan, const std::string& folder,
                           Progress& progress) {
  const auto& calibration = config.calibration;
  std::optional<ScoresOnDisk> disk;  // rank 0
  const auto missing = run_on_root(ranks.world, [&] {
    make_directory(folder);
    disk.emplace(config, plan, folder);
    return disk->missing();
  });
  if (!missing.empty()) {
    const TokenRows tokens =
        load_tokens(calibration.tokens, calibration.n_samples, calibration.seqlen, plan.model.vocab_size());
    const auto source = open_tensor_source(config.model.path);
    for (const std::size_t option : missing) {
      const std::string word = config.quantization.auto_scheme.options[option].word();
      ScoreSettings settings = settings_of(config, plan, option);
      settings.low_gpu_mem_usage = config.tuning.low_gpu_mem_usage;
      settings.folder = folder;
      settings.on_block = [&] { progress.advance(1); };
      progress.begin_phase("scheme " + word, 2 * plan.model.n_blocks());
      LayerScores scores = score_layers(ranks, plan.model, *source, tokens, settings);
      progress.note(fmt::format("{}: loss {:.4f} with every layer rounded to nearest", word, scores.loss));
      run_on_root(ranks.world, [&] { disk->add(option, word, std::move(scores)); });
      progress.end_phase();
    }
  }
  ChosenScheme chosen;
  const nlohmann::json result = run_on_root(ranks.world, [&] {
    chosen = choose(config, plan, disk->found());
    return nlohmann::json{{"choice", chosen.choice}, {"score", chosen.score}};
  });
  return {result["choice"].get<SchemeChoice>(), result["score"].get<double>()};
}

std::optional<ChosenScheme> choose_by_scores_on_disk(const Config& config, const Plan& plan, const std::string& folder) {
  const ScoresOnDisk disk(config, plan, folder);
  if (!disk.missing().empty()) return std::nullopt;
  return choose(config, plan, disk.found());
}

}  // namespace roundtable
