// Where a model's tensors come from, as host tensors in the precision that they are tuned in.
#pragma once

#include <torch/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "io/checkpoint.h"
#include "model/load/parameter.h"
#include "model/load/published/matrix.h"
#include "model/load/published/method.h"
#include "model/load/stored_reader.h"
#include "model/load/tensor_record.h"

namespace roundtable {

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // The whole tensor on the host in spec.shape, transposed if the file has it the other way round: bf16 if the file has
  // bf16, else fp32 (fp16 is widened). Throws Error: kBadInput if it is missing or has another shape or type, kNumeric
  // if it holds a value that is not finite.
  virtual torch::Tensor read(const ParameterSpec& spec) const = 0;
  virtual bool contains(const std::string& name) const = 0;
};

// The name under which a checkpoint holds the tensor that transformers calls `name`: the same, or one of these.
//   - Without the base model's prefix, where the file was saved from the model without its head: "h.0.ln_1.weight" for
//     "transformer.h.0.ln_1.weight" (GPT-2's own checkpoints), "decoder.layers..." for "model.decoder.layers...".
//   - GPT-NeoX's head is "embed_out" in published checkpoints and "lm_head" in transformers 5.
// If the checkpoint has none of them, `name` itself, for the error that names it.
std::string stored_name(const Checkpoint& checkpoint, const std::string& name);

// Whether `name` is a table that follows from config.json and that some published checkpoints hold: causal masks and
// RoPE frequencies.
bool is_derived_table(const std::string& name);

// Whether `name` is a scale of activations, which published FP8 and NVFP4 checkpoints hold next to the scales of their
// weights: nothing that we write needs it.
bool is_activation_scale(const std::string& name);

// Whether weights are read in this type: F32, F16 or BF16.
bool is_weight_type(ElementType type);

// A Hugging Face model directory as it was published: with float weights, or quantized in a way that
// published/storage.h reads. A quantized matrix is dequantized as it is read: bf16, or fp32 where its scales are fp16.
// Opens files as they are needed; thread-safe. Whatever it reads is looked at: a value that is not finite is an Error
// (kNumeric); with a `record`, which must outlive this, so is a tensor that is not what it was when it was first read
// (kBadInput).
class CheckpointSource : public TensorSource {
 public:
  explicit CheckpointSource(const std::string& directory, TensorRecord* record = nullptr)
      : checkpoint_(directory),
        reader_(checkpoint_, record),
        record_(record),
        block_(published_method(directory).value_or(PublishedMethod{}).block) {}

  torch::Tensor read(const ParameterSpec& spec) const override;
  // The bytes of a tensor as the file has them, by its name there.
  std::vector<char> read_bytes(const std::string& stored) const { return reader_.read_bytes({stored}); }
  // Reads a tensor only to look at it; keeps no more than a piece of it.
  void check(const StoredTensor& stored) const { reader_.look_at(stored); }
  // The tensors of the file that a parameter is made of: its own, or weights and scales, of several matrices if its
  // experts are stored in another form. Reads headers alone. Throws Error (kBadInput) if one of them is missing, or has
  // a shape or type that does not fit.
  std::vector<StoredTensor> stored_tensors(const ParameterSpec& spec) const;
  bool contains(const std::string& name) const override { return checkpoint_.contains(stored_name(checkpoint_, name)); }

  const Checkpoint& checkpoint() const { return checkpoint_; }

 private:
  // The tensor that holds the parameter in floats, if there is one.
  std::optional<StoredTensor> find_floats(const ParameterSpec& spec) const;
  // How it is quantized. Throws Error (kBadInput) if it is not stored in any way that is known.
  std::vector<FoundSlice> find_quantized(const ParameterSpec& spec) const;

  Checkpoint checkpoint_;
  StoredReader reader_;
  TensorRecord* record_;
  BlockSize block_;
};

// Reads tensors on rank `root` of `comm` and broadcasts them, so that each is read from the file system once; in the
// order of `wanted`, in host memory. `source` is used on the root alone. Collective over `comm`: an Error on the root
// becomes an AgreedError on all ranks, which names the root (comm/agree.h).
std::vector<torch::Tensor> load_tensors(const TensorSource& source, const std::vector<ParameterSpec>& wanted,
                                        HostCommunicator& comm, int root);

// The same for ranks of `all` that want different tensors: those that want the same make up `comm`, and rank `root` of
// it reads. Collective over `all`: an Error on any of them is thrown on all of them, as an AgreedError that names it.
std::vector<torch::Tensor> load_tensors_apart(const TensorSource& source, const std::vector<ParameterSpec>& wanted,
                                              HostCommunicator& comm, int root, HostCommunicator& all);

}  // namespace roundtable
