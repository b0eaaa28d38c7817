// auto_round:auto_awq: AWQ's tensors under auto-round's config, so that layers may have schemes of their own.
//
// Source: auto-round 0.16.1, export/export_to_autoround/export.py (dynamic_import_quant_linear_for_packing: awq) and
// inference/backend.py (AWQ_FORMAT: 4 bits).
#include "export/formats/auto_round_config.h"
#include "export/layouts/awq.h"
#include "export/registry.h"

namespace roundtable {
namespace {

class AutoRoundAutoAwq final : public AutoRoundFormat<AwqFormat> {
 public:
};

}  // namespace

const CheckpointFormat& auto_round_auto_awq_format() {
  static const AutoRoundAutoAwq format;
  return format;
}

}  // namespace roundtable
