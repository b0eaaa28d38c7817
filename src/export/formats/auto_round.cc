// auto_round, which transformers (with auto-round) reads: asym on every device, zero points of 0 too. vLLM (77e1f385,
// quantization/inc/inc.py, SUPPORTED_FORMATS) and SGLang (5f62d4ec, quantization/auto_round/auto_round.py) take only
// its two variants with a colon.
//
// Source: auto-round 0.16.1, auto_round_extension/torch/qlinear_torch.py (zero points are stored as they are) and
// inference/backend.py (GPTQ_FORMAT_NO_ZP).
#include "export/formats/auto_round_config.h"
#include "export/layouts/gptq.h"
#include "export/registry.h"

namespace roundtable {
namespace {

class AutoRound final : public AutoRoundFormat<GptqFormat> {
 public:
  AutoRound() : AutoRoundFormat(/*zero_offset=*/0) {}
};

}  // namespace

const CheckpointFormat& auto_round_format() {
  static const AutoRound format;
  return format;
}

}  // namespace roundtable
