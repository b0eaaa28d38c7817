// The files of weights that are made from a source: which there are, what is in each, and writing one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "convert/source.h"

namespace roundtable {

// The same on every rank; each file is written by one.
class ConversionOutput {
 public:
  virtual ~ConversionOutput() = default;
  virtual std::int64_t files() const = 0;
  virtual std::string file_name(std::int64_t file) const = 0;
  virtual std::int64_t bytes_of(std::int64_t file) const = 0;  // of its weights
  // Returns the digest of what was handed to the file system. Every quantized layer was read back from what it was
  // packed into, and compared. Errors of input are thrown, and an Error (kStartAgain) when this process is asked to
  // leave.
  virtual std::string write(const std::string& directory, std::int64_t file) const = 0;
  // Writes what makes the directory a model; with `card`, also the source's model card. Returns the names of these
  // files.
  virtual std::vector<std::string> finish(const std::string& directory, bool card) const = 0;
};

// Files of at most `max_bytes`, but where a single layer is larger. `source` is kept.
std::unique_ptr<ConversionOutput> make_safetensors_output(const ConversionSource& source,
                                                          const SafetensorsFormat& format, std::int64_t max_bytes);
std::unique_ptr<ConversionOutput> make_gguf_output(const ConversionSource& source, const CheckpointFormat& format,
                                                   std::int64_t max_bytes);

}  // namespace roundtable
