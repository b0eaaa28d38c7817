// Biases of quantized layers.
#include "convert/source.h"

#include "export/expert_layers.h"

namespace roundtable {

void ConversionSource::note_quantized_layers() {
  for (const LayerScheme& layer : written_layers(layers_)) {
    if (layer.scheme) quantized_.insert(layer.linear.name);
  }
}

bool ConversionSource::is_quantized_bias(const std::string& name) const {
  constexpr std::string_view kBias = ".bias";
  return name.ends_with(kBias) && quantized_.contains(name.substr(0, name.size() - kBias.size()));
}

}  // namespace roundtable
