// Errors: the sticky error of each device, as on CUDA, and message texts, which CUDA does not have.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "internal.h"

namespace fornax {
namespace {

// Separate from `lock()`: the host threads that run a kernel's blocks report errors while another thread holds that lock.
std::mutex mutex;
Result states[kMaxDevices + 1];  // the last one is kHost's
std::string sticky_error_message, last_error_message;

}  // namespace

void set_sticky_error(int device, Result code, const std::string& message) {
  std::lock_guard<std::mutex> guard(mutex);
  if (states[device] != kSuccess) return;
  states[device] = code;
  if (sticky_error_message.empty()) sticky_error_message = message;
}

Result sticky_error(int device) {
  std::lock_guard<std::mutex> guard(mutex);
  return states[device];
}

void set_last_error(const std::string& message) {
  std::lock_guard<std::mutex> guard(mutex);
  last_error_message = message;
}

Result reject(Result code, const std::string& message) {
  set_last_error(message);
  return code;
}

}  // namespace fornax

extern "C" {

// Copies the message of the last error without clearing it and returns its length. A sticky error precedes a rejected call.
FORNAX_API size_t fornax_emulator_last_error(char* text, size_t size) {
  std::lock_guard<std::mutex> guard(fornax::mutex);
  const std::string& message = fornax::sticky_error_message.empty() ? fornax::last_error_message : fornax::sticky_error_message;
  if (size > 0) snprintf(text, size, "%s", message.c_str());
  return message.size();
}

// Clears the last error and the sticky errors of all devices.
FORNAX_API void fornax_emulator_clear_error() {
  std::lock_guard<std::mutex> guard(fornax::mutex);
  std::fill(std::begin(fornax::states), std::end(fornax::states), fornax::kSuccess);
  fornax::sticky_error_message.clear();
  fornax::last_error_message.clear();
}

}  // extern "C"
