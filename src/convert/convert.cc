// Sharing out files, and telling our output from somebody else's.
#include "convert/convert.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/version.h"
#include "comm/agree.h"
#include "convert/output.h"
#include "convert/packed_source.h"
#include "export/checkpoint_files.h"
#include "export/registry.h"
#include "io/file.h"
#include "run/fingerprint.h"
#include "run/stop.h"
#include "rundir/journal.h"
#include "rundir/ownership.h"
#include "rundir/paths.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

// The source and what is made of it. The same on every rank.
class Maker {
 public:
  explicit Maker(const CheckpointJob& job) : job_(job), source_(job.open()) {
    refuse_obstacle(source_->directory(), *job.format, source_->model(), source_->layers());
    if (const auto reason = job.format->directory_obstacle(source_->directory())) {
      throw bad_input(source_->directory(), fmt::format("{} cannot hold this: {}", job.format->name(), *reason));
    }
    const SafetensorsFormat* safetensors = as_safetensors(*job.format);
    output_ = safetensors ? make_safetensors_output(*source_, *safetensors, job.max_shard_size)
                          : make_gguf_output(*source_, *job.format, job.max_shard_size);
  }

  const ConversionOutput& output() const { return *output_; }

  // The folder has no other weights than those that are made.
  void check_folder() const {
    std::set<std::string> own;
    for (std::int64_t file = 0; file < output_->files(); ++file) own.insert(output_->file_name(file));
    if (output_->files() > 1 && as_safetensors(*job_.format)) own.insert(kIndexFile);
    refuse_other_weights(job_.output, own);
  }

  struct Made {
    std::string digest;
    bool kept = false;  // an earlier start has written it
  };

  // Writes a file and proves it, unless an earlier start has.
  Made make(std::int64_t file) const {
    const std::string path = job_.output + "/" + output_->file_name(file);
    if (const std::string digest = digest_on_record(file); !digest.empty() && digest == digest_of(path)) {
      return {digest, true};
    }
    const std::string digest = output_->write(job_.output, file);
    if (digest != hash_file(path)) {
      throw machine_error(path, "what was read back is not what was written",
                          "suspect the file system or memory; run the same command again");
    }
    write_file_atomically(record_of(file), [&](OutputFile& out) { out.write(digest.data(), digest.size()); });
    return {digest, false};
  }

 private:
  std::string record_of(std::int64_t file) const { return job_.record + "/" + output_->file_name(file) + ".digest"; }

  std::string digest_on_record(std::int64_t file) const {
    constexpr std::uint64_t kMost = 1 << 10;
    return is_there(record_of(file)) ? read_text_file(record_of(file), kMost) : "";
  }

  // Of a file that cannot be read: none. It is written again, and what is wrong with the folder shows then.
  static std::string digest_of(const std::string& path) {
    std::error_code ignored;
    try {
      return fs::exists(path, ignored) ? hash_file(path) : "";
    } catch (const Error&) {
      return "";
    }
  }

  const CheckpointJob& job_;
  std::shared_ptr<const ConversionSource> source_;
  std::unique_ptr<ConversionOutput> output_;
};

// The output is ours, or nobody's yet. Returns the journal of it.
std::unique_ptr<Journal> claim(const CheckpointJob& job, const ConversionOutput& output) {
  const std::string path = job.record + "/journal";
  const nlohmann::json print = job.fingerprint();
  const std::vector<Record> records = records_of_own(Work::kConversion, job.record, "record of the conversion");
  const auto* made = last_record<record::Conversion>(records);
  const std::string difference = made == nullptr ? "" : fingerprint_difference(made->fingerprint, print);
  if (!difference.empty()) {
    throw bad_input(job.output, "was made by another conversion, which differs in: " + difference,
                    fmt::format("choose another output, or remove it and {}", job.record));
  }
  std::vector<std::string> known;
  for (std::int64_t file = 0; made != nullptr && file < output.files(); ++file) known.push_back(output.file_name(file));
  refuse_foreign_files(job.output, known, path, "output");
  make_directory(job.record);
  auto journal = std::make_unique<Journal>(path);
  if (journal->records().empty()) journal->append(record::Conversion{std::string(program_version()), print});
  make_directory(job.output);
  return journal;
}

}  // namespace

Converted make_checkpoint(HostCommunicator& world, const CheckpointJob& job,
                          const std::function<void()>& on_file) {
  std::optional<Maker> maker;
  std::unique_ptr<Journal> journal;  // rank 0; held open, so that no other job works here
  run_on_root(world, [&] {
    maker.emplace(job);
    journal = claim(job, maker->output());
    maker->check_folder();
  });
  std::map<std::string, std::string> digests;
  std::int64_t kept = 0;
  run_on_all(world, [&] {
    if (!maker) maker.emplace(job);
    for (std::int64_t file = world.rank(); file < maker->output().files(); file += world.size()) {
      leave_here_if_asked();
      const Maker::Made made = maker->make(file);
      digests[maker->output().file_name(file)] = made.digest;
      kept += made.kept ? 1 : 0;
      if (on_file) on_file();
    }
  });
  Converted converted{.files = maker->output().files()};
  for (std::int64_t file = 0; file < converted.files; ++file) converted.bytes += maker->output().bytes_of(file);
  for (const std::string& text : all_gather_text(world, nlohmann::json{{"digests", digests}, {"kept", kept}}.dump())) {
    const nlohmann::json rank = nlohmann::json::parse(text);
    converted.digests.merge(rank.at("digests").get<std::map<std::string, std::string>>());
    converted.kept += rank.at("kept").get<std::int64_t>();
  }
  run_on_root(world, [&] {
    maker->check_folder();
    for (const std::string& name : maker->output().finish(job.output, job.card)) {
      converted.digests[name] = hash_file(job.output + "/" + name);
    }
  });
  return converted;
}

Converted convert_checkpoint(HostCommunicator& world, const Conversion& conversion) {
  const CheckpointJob job{
      .open = [&] { return std::make_shared<const PackedSource>(conversion.source, conversion.model); },
      .format = conversion.format,
      .output = conversion.output,
      .record = conversion.record,
      .max_shard_size = conversion.max_shard_size,
      .card = conversion.card,
      .fingerprint = [&] {
        return nlohmann::json{{"source", model_digest(conversion.source)},
                              {"format", conversion.format->name()},
                              {"max_shard_size", conversion.max_shard_size}};
      }};
  return make_checkpoint(world, job, {});
}

}  // namespace roundtable
