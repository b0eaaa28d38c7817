// auto_round:auto_gptq, which transformers (with auto-round), vLLM and SGLang read.
//
// Source: auto-round 0.16.1, auto_round_extension/torch/qlinear_torch_zp.py: zero points are stored minus one, and the
// reader adds the one again.
#include "export/formats/auto_round_config.h"
#include "export/layouts/gptq.h"
#include "export/registry.h"

namespace roundtable {
namespace {

class AutoRoundAutoGptq final : public AutoRoundFormat<GptqFormat> {
 public:
  AutoRoundAutoGptq() : AutoRoundFormat(/*zero_offset=*/1) {}
};

}  // namespace

const CheckpointFormat& auto_round_auto_gptq_format() {
  static const AutoRoundAutoGptq format;
  return format;
}

}  // namespace roundtable
