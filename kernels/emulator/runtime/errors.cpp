// Errors: the state of each device, as on CUDA, and the text that CUDA does not give.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "internal.h"

namespace fornax {
namespace {

// A lock of its own: the threads that run a kernel's blocks report errors while another holds the big lock.
std::mutex mutex;
Result states[kMaxDevices];
std::string sticky_message, explanation;

}  // namespace

void raise(int device, Result code, const std::string& message) {
  std::lock_guard<std::mutex> guard(mutex);
  if (states[device] != kSuccess) return;
  states[device] = code;
  if (sticky_message.empty()) sticky_message = message;
}

Result sticky(int device) {
  std::lock_guard<std::mutex> guard(mutex);
  return states[device];
}

void explain(const std::string& message) {
  std::lock_guard<std::mutex> guard(mutex);
  explanation = message;
}

Result refuse(Result code, const std::string& message) {
  explain(message);
  return code;
}

}  // namespace fornax

extern "C" {

// The text of the last error, without clearing it; returns its length. An error that a device is in comes before a refused call.
FORNAX_API size_t fornax_emulator_last_error(char* text, size_t size) {
  std::lock_guard<std::mutex> guard(fornax::mutex);
  const std::string& message = fornax::sticky_message.empty() ? fornax::explanation : fornax::sticky_message;
  if (size > 0) snprintf(text, size, "%s", message.c_str());
  return message.size();
}

// Clears the error: devices that were in its state work again.
FORNAX_API void fornax_emulator_clear_error() {
  std::lock_guard<std::mutex> guard(fornax::mutex);
  std::fill(std::begin(fornax::states), std::end(fornax::states), fornax::kSuccess);
  fornax::sticky_message.clear();
  fornax::explanation.clear();
}

}  // extern "C"
