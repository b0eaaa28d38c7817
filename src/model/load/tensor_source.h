// Where a model's tensors come from, as host tensors in the precision that they are tuned in.
#pragma once

#include <torch/types.h>

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "io/checkpoint.h"
#include "model/load/parameter.h"
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

// Whether weights are read in this type: F32, F16 or BF16.
bool is_weight_type(ElementType type);

// A Hugging Face model directory with float weights. Opens files as they are needed; thread-safe. Whatever it reads is
// looked at: a value that is not finite is an Error (kNumeric); with a `record`, which must outlive this, so is a
// tensor that is not what it was when it was first read (kBadInput).
class CheckpointSource : public TensorSource {
 public:
  explicit CheckpointSource(const std::string& directory, TensorRecord* record = nullptr)
      : checkpoint_(directory), record_(record) {}

  torch::Tensor read(const ParameterSpec& spec) const override;
  // The bytes of a tensor as the file has them, by its name there.
  std::vector<char> read_bytes(const std::string& stored) const;
  // Reads a tensor, by its name in the file, only to look at it; keeps no more than a piece of it.
  void check(const std::string& stored) const;
  bool contains(const std::string& name) const override { return checkpoint_.contains(stored_name(checkpoint_, name)); }

  const Checkpoint& checkpoint() const { return checkpoint_; }

 private:
  void judge(const std::string& stored, const TensorCheck& check) const;

  Checkpoint checkpoint_;
  TensorRecord* record_;
};

// Reads tensors on rank `root` of `comm` and broadcasts them, so that each is read from the file system once; in the
// order of `wanted`, in host memory. `source` is used on the root alone. Collective over `comm`: an Error on the root
// becomes an AgreedError on all ranks, which names the root (comm/agree.h).
std::vector<torch::Tensor> load_tensors(const TensorSource& source, const std::vector<ParameterSpec>& wanted,
                                        HostCommunicator& comm, int root);

}  // namespace roundtable
