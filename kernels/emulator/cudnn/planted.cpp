// Compile times, and times and faults that tests plant in engines, by a call or, for another process, by the environment variable
// FORNAX_EMULATED_ENGINES: "INDEX:MILLISECONDS[:FAULT],...".
#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "descriptor.h"
#include "runtime.h"

namespace cudnn {

namespace {

std::mutex planted_mutex;
double compile_seconds = 0;

std::map<int64_t, PlantedBehaviour>& planted_engines() {
  static std::map<int64_t, PlantedBehaviour> engines = [] {
    std::map<int64_t, PlantedBehaviour> parsed;
    const char* text = getenv("FORNAX_EMULATED_ENGINES");
    while (text && *text) {
      char* end;
      const int64_t index = strtoll(text, &end, 10);
      if (*end != ':') break;
      PlantedBehaviour& planted = parsed[index];
      planted.milliseconds = strtod(end + 1, &end);
      if (*end == ':') planted.fault = static_cast<PlantedFault>(strtoll(end + 1, &end, 10));
      text = *end == ',' ? end + 1 : nullptr;
    }
    return parsed;
  }();
  return engines;
}

}  // namespace

PlantedBehaviour planted_behaviour(const Engine& engine) {
  std::lock_guard<std::mutex> guard(planted_mutex);
  for (int64_t key : {engine.index + 100 * engine.knob, engine.index}) {
    const auto found = planted_engines().find(key);
    if (found != planted_engines().end()) return found->second;
  }
  return {};
}

Status compile(const Engine& engine) {
#if defined(__APPLE__)
  const char* builtins = "libnvrtc-builtins.dylib";
#else
  const char* builtins = "libnvrtc-builtins.so";
#endif
  if (!dlopen(builtins, RTLD_LAZY | RTLD_NOLOAD))
    return fail(plan_failed, "Encountered runtime kernel compilation failure at: compilationResult != NVRTC_SUCCESS: engine " +
                                 std::to_string(engine.index) + ", as " + builtins + " is not loaded");
  std::lock_guard<std::mutex> guard(planted_mutex);
  compile_seconds += 1.9;
  return success;
}

}  // namespace cudnn

// Emulated seconds that NVRTC has taken for plans so far; each takes 1.9, the mean of the real library.
extern "C" FORNAX_API double fornax_emulator_compile_seconds() {
  std::lock_guard<std::mutex> guard(cudnn::planted_mutex);
  return cudnn::compile_seconds;
}

// Plants a time, 0 for the one without a plant, and a fault (a value of PlantedFault) in an engine, for all devices, from now on. The
// number engine + 100 knob is one configuration of the engine, if its knob is not 0.
extern "C" FORNAX_API void fornax_emulator_plant_engine(int64_t engine, double milliseconds, int fault) {
  std::lock_guard<std::mutex> guard(cudnn::planted_mutex);
  const double time = milliseconds == 0 ? cudnn::PlantedBehaviour{}.milliseconds : milliseconds;
  cudnn::planted_engines()[engine] = {time, static_cast<cudnn::PlantedFault>(fault)};
}
