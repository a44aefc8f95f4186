// JSON representation of a plan: the engine's index, its knob, and the bytes of the graph in hexadecimal digits.
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "descriptor.h"

namespace cudnn {

// The graph is stored by its bytes; padding would make the texts of equal plans differ.
static_assert(std::has_unique_object_representations<ConvGraph>::value, "the graph has padding");

std::string plan_json(const ConvGraph& graph, const Engine& engine) {
  std::string text =
      "{\"engine\":" + std::to_string(engine.index) + ",\"knob\":" + std::to_string(engine.knob) + ",\"graph\":\"";
  const unsigned char* bytes = reinterpret_cast<const unsigned char*>(&graph);
  for (size_t i = 0; i < sizeof graph; i++) {
    char digits[3];
    snprintf(digits, sizeof digits, "%02x", bytes[i]);
    text += digits;
  }
  return text + "\"}";
}

bool read_plan_json(const std::string& text, ConvGraph& graph, Engine& engine) {
  int64_t index, knob;
  int header = 0;
  const char* format = "{\"engine\":%" SCNd64 ",\"knob\":%" SCNd64 ",\"graph\":\"%n";
  if (sscanf(text.c_str(), format, &index, &knob, &header) != 2 || !header) return false;
  if (text.size() != header + 2 * sizeof graph + 2 || text.compare(text.size() - 2, 2, "\"}")) return false;
  unsigned char* bytes = reinterpret_cast<unsigned char*>(&graph);
  for (size_t i = 0; i < sizeof graph; i++) {
    unsigned value;
    if (sscanf(text.substr(size_t(header) + 2 * i, 2).c_str(), "%2x", &value) != 1) return false;
    bytes[i] = static_cast<unsigned char>(value);
  }
  for (bool fallback : {false, true})
    for (const Engine& candidate : find_engines(graph, fallback))
      if (candidate.index == index && candidate.knob == knob) {
        engine = candidate;
        return true;
      }
  return false;
}

}  // namespace cudnn
