// Times and faults that tests plant in engines, by a call or, for another process, by the environment variable
// FORNAX_EMULATED_ENGINES: "INDEX:MILLISECONDS,...".
#include <cstdlib>
#include <map>
#include <mutex>

#include "descriptor.h"
#include "runtime.h"

namespace cudnn {

namespace {

std::mutex planted_mutex;

std::map<int64_t, PlantedBehaviour>& planted_engines() {
  static std::map<int64_t, PlantedBehaviour> engines = [] {
    std::map<int64_t, PlantedBehaviour> parsed;
    const char* text = getenv("FORNAX_EMULATED_ENGINES");
    while (text && *text) {
      char* end;
      const int64_t index = strtoll(text, &end, 10);
      if (*end != ':') break;
      parsed[index].milliseconds = strtod(end + 1, &end);
      text = *end == ',' ? end + 1 : nullptr;
    }
    return parsed;
  }();
  return engines;
}

}  // namespace

PlantedBehaviour planted_behaviour(int64_t engine) {
  std::lock_guard<std::mutex> guard(planted_mutex);
  const auto found = planted_engines().find(engine);
  return found == planted_engines().end() ? PlantedBehaviour{} : found->second;
}

}  // namespace cudnn

// Plants a time and a fault (a value of PlantedFault) in an engine, for all devices, from now on.
extern "C" FORNAX_API void fornax_emulator_plant_engine(int64_t engine, double milliseconds, int fault) {
  std::lock_guard<std::mutex> guard(cudnn::planted_mutex);
  cudnn::planted_engines()[engine] = {milliseconds, static_cast<cudnn::PlantedFault>(fault)};
}
