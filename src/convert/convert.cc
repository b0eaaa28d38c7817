// Sharing out files, and telling our output from somebody else's.
#include "convert/convert.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/version.h"
#include "comm/agree.h"
#include "convert/output.h"
#include "export/checkpoint_files.h"
#include "export/registry.h"
#include "run/fingerprint.h"
#include "run/stop.h"
#include "rundir/journal.h"
#include "rundir/ownership.h"
#include "rundir/paths.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

// The source and what is made of it. The same on every rank.
class Job {
 public:
  explicit Job(const Conversion& conversion) : conversion_(conversion), source_(conversion.source, *conversion.format, conversion.model) {
    refuse_obstacle(conversion.source, *conversion.format, source_.model(), source_.layers());
    if (const auto reason = conversion.format->directory_obstacle(conversion.source)) {
      throw bad_input(conversion.source, fmt::format("{} cannot hold this: {}", conversion.format->name(), *reason));
    }
    const SafetensorsFormat* safetensors = as_safetensors(*conversion.format);
    output_ = safetensors ? make_safetensors_output(source_, *safetensors, conversion.max_shard_size)
                          : make_gguf_output(source_, conversion.max_shard_size);
  }

  const ConversionOutput& output() const { return *output_; }

  // The folder has no other weights than those that are made.
  void check_folder() const {
    std::set<std::string> own;
    for (std::int64_t file = 0; file < output_->files(); ++file) own.insert(output_->file_name(file));
    if (output_->files() > 1 && as_safetensors(*conversion_.format)) own.insert("model.safetensors.index.json");
    refuse_other_weights(conversion_.output, own);
  }

  // Writes a file and proves it, unless an earlier start has.
  void make(std::int64_t file) const {
    const std::string path = conversion_.output + "/" + output_->file_name(file);
    if (is_done(path, file)) return;
    output_->write(conversion_.output, file);
    if (!output_->holds(conversion_.output, file)) {
      throw machine_error(path, "what was read back is not what was written",
                          "suspect the file system or memory; run the same command again");
    }
  }

 private:
  // A file of an earlier start that cannot be read is written again; a fault of the source shows then.
  bool is_done(const std::string& path, std::int64_t file) const {
    std::error_code ignored;
    try {
      return fs::exists(path, ignored) && output_->holds(conversion_.output, file);
    } catch (const Error&) {
      return false;
    }
  }

  const Conversion& conversion_;
  ConversionSource source_;
  std::unique_ptr<ConversionOutput> output_;
};

// The output is ours, or nobody's yet. Returns the journal of it.
std::unique_ptr<Journal> claim(const Conversion& conversion, const ConversionOutput& output) {
  const std::string path = conversion.record + "/journal";
  const nlohmann::json print = {{"source", model_digest(conversion.source)},
                                {"format", conversion.format->name()},
                                {"max_shard_size", conversion.max_shard_size}};
  const std::vector<Record> records = records_of_own(Work::kConversion, conversion.record, "record of the conversion");
  const auto* made = last_record<record::Conversion>(records);
  const std::string difference = made == nullptr ? "" : fingerprint_difference(made->fingerprint, print);
  if (!difference.empty()) {
    throw bad_input(conversion.output, "was made by another conversion, which differs in: " + difference,
                    fmt::format("choose another output, or remove it and {}", conversion.record));
  }
  std::vector<std::string> known;
  for (std::int64_t file = 0; made != nullptr && file < output.files(); ++file) known.push_back(output.file_name(file));
  refuse_foreign_files(conversion.output, known, path, "output");
  make_directory(conversion.record);
  auto journal = std::make_unique<Journal>(path);
  if (journal->records().empty()) journal->append(record::Conversion{std::string(program_version()), print});
  make_directory(conversion.output);
  return journal;
}

}  // namespace

Converted convert_checkpoint(HostCommunicator& world, const Conversion& conversion,
                             const std::function<void()>& on_file) {
  std::optional<Job> job;
  std::unique_ptr<Journal> journal;  // rank 0; held open, so that no other job works here
  run_on_root(world, [&] {
    job.emplace(conversion);
    journal = claim(conversion, job->output());
    job->check_folder();
  });
  std::map<std::string, std::string> digests;
  const auto add_digest = [&](const std::string& name) { digests[name] = hash_file(conversion.output + "/" + name); };
  run_on_all(world, [&] {
    if (!job) job.emplace(conversion);
    for (std::int64_t file = world.rank(); file < job->output().files(); file += world.size()) {
      leave_here_if_asked();
      job->make(file);
      add_digest(job->output().file_name(file));
      if (on_file) on_file();
    }
  });
  for (const std::string& text : all_gather_text(world, nlohmann::json(digests).dump())) {
    digests.merge(nlohmann::json::parse(text).get<std::map<std::string, std::string>>());
  }
  run_on_root(world, [&] {
    job->check_folder();
    for (const std::string& name : job->output().finish(conversion.output, conversion.card)) add_digest(name);
  });
  return {job->output().files(), job->output().bytes(), digests};
}

}  // namespace roundtable
