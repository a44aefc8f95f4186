// NVRTC's interface over g++. Its CUBIN and PTX are images for the emulated driver.
#include <dlfcn.h>

#include <cstring>
#include <map>
#include <set>

#include "../runtime/internal.h"

#define NVRTC_API extern "C" FORNAX_API Status

namespace {

enum Status : int {
  kOk = 0,
  kInvalidInput = 3,
  kInvalidProgram = 4,
  kInvalidOption = 5,
  kCompilation = 6,
  kBuiltinOperationFailure = 7,
  kNoNameExpressionsAfterCompilation = 8,
  kNoLoweredNamesBeforeCompilation = 9,
  kNameExpressionNotValid = 10,
};

struct Program {
  fornax::ProgramSource source;
  std::string log, image;
  bool compiled = false;
};

const char* kStatusNames[] = {
    "NVRTC_SUCCESS", "NVRTC_ERROR_OUT_OF_MEMORY", "NVRTC_ERROR_PROGRAM_CREATION_FAILURE", "NVRTC_ERROR_INVALID_INPUT",
    "NVRTC_ERROR_INVALID_PROGRAM", "NVRTC_ERROR_INVALID_OPTION", "NVRTC_ERROR_COMPILATION",
    "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE", "NVRTC_ERROR_NO_NAME_EXPRESSIONS_AFTER_COMPILATION",
    "NVRTC_ERROR_NO_LOWERED_NAMES_BEFORE_COMPILATION", "NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID", "NVRTC_ERROR_INTERNAL_ERROR",
};

// True for NVRTC's options, by the part before '='; this stand-in implements or ignores them.
bool is_known(const std::string& option) {
  static const std::set<std::string> known = {
      "--gpu-architecture", "-arch", "--std", "-std", "--fmad", "-fmad", "--use_fast_math", "-use_fast_math", "--ftz", "-ftz",
      "--prec-div", "-prec-div", "--prec-sqrt", "-prec-sqrt", "--maxrregcount", "-maxrregcount", "--generate-line-info",
      "-lineinfo", "--device-debug", "-G", "--extra-device-vectorization", "--device-as-default-execution-space",
      "-default-device", "--relocatable-device-code", "-rdc", "--disable-warnings", "-w", "--restrict", "-restrict",
      "--define-macro", "--include-path", "-D", "-I", "-U", "--ptxas-options", "-Xptxas", "--resource-usage", "-res-usage",
      "--split-compile", "--no-cache", "--minimal", "--dopt", "-dopt",
  };
  if (option.rfind("-D", 0) == 0 || option.rfind("-I", 0) == 0 || option.rfind("-U", 0) == 0) return true;
  return known.count(option.substr(0, option.find('='))) > 0;
}

#if defined(__APPLE__)
constexpr char kBuiltins[] = "libnvrtc-builtins.dylib";
#else
constexpr char kBuiltins[] = "libnvrtc-builtins.so";
#endif

// NVRTC opens its builtins by their name, which succeeds on the loader's path and if they are loaded. Here no path has them.
bool has_builtins() { return dlopen(kBuiltins, RTLD_LAZY | RTLD_NOLOAD) != nullptr; }

Status text_size(const std::string& text, size_t* size) {
  *size = text.size() + 1;
  return kOk;
}

Status copy_text(const std::string& text, char* to) {
  memcpy(to, text.c_str(), text.size() + 1);
  return kOk;
}

}  // namespace

NVRTC_API nvrtcVersion(int* major, int* minor) {
  *major = fornax::library_cuda_version() / 1000;
  *minor = fornax::library_cuda_version() % 1000 / 10;
  return kOk;
}

extern "C" FORNAX_API const char* nvrtcGetErrorString(int status) {
  return status >= 0 && status < int(sizeof(kStatusNames) / sizeof(*kStatusNames)) ? kStatusNames[status]
                                                                                   : "NVRTC_ERROR unknown";
}

NVRTC_API nvrtcGetNumSupportedArchs(int* count) {
  *count = 1;
  return kOk;
}
NVRTC_API nvrtcGetSupportedArchs(int* architectures) {
  *architectures = 90;
  return kOk;
}

NVRTC_API nvrtcCreateProgram(Program** program, const char* text, const char* name, int count, const char* const* headers,
                             const char* const* names) {
  if (!text || count < 0) return kInvalidInput;
  *program = new Program;
  fornax::ProgramSource& source = (*program)->source;
  source.text = text;
  source.name = name ? name : "default_program";
  for (int i = 0; i < count; i++) source.headers.emplace_back(names[i], headers[i]);
  return kOk;
}

NVRTC_API nvrtcDestroyProgram(Program** program) {
  delete *program;
  *program = nullptr;
  return kOk;
}

NVRTC_API nvrtcAddNameExpression(Program* program, const char* expression) {
  if (program->compiled) return kNoNameExpressionsAfterCompilation;
  program->source.expressions.push_back(expression);
  return kOk;
}

NVRTC_API nvrtcGetLoweredName(Program* program, const char* expression, const char** name) {
  if (!program->compiled) return kNoLoweredNamesBeforeCompilation;
  for (const std::string& known : program->source.expressions) {
    if (known != expression) continue;
    *name = known.c_str() + (known[0] == '&' ? 1 : 0);
    return kOk;
  }
  return kNameExpressionNotValid;
}

NVRTC_API nvrtcCompileProgram(Program* program, int count, const char* const* options) {
  if (!program) return kInvalidProgram;
  if (!has_builtins()) {
    program->log = std::string("nvrtc: error: failed to open ") + kBuiltins + ".";
    return kBuiltinOperationFailure;
  }
  program->source.options.assign(options, options + count);
  for (int i = 0; i < count; i++) {
    std::string option = options[i];
    bool is_value = i > 0 && (!strcmp(options[i - 1], "-D") || !strcmp(options[i - 1], "-I") || !strcmp(options[i - 1], "-U") ||
                              !strcmp(options[i - 1], "-arch") || !strcmp(options[i - 1], "--ptxas-options"));
    if (is_value || is_known(option)) continue;
    program->log = "nvrtc: error: unrecognized option " + option + " found";
    return kInvalidOption;
  }
  if (!fornax::load_object(program->source, &program->log)) return kCompilation;
  program->image = fornax::to_image(program->source);
  program->compiled = true;
  return kOk;
}

NVRTC_API nvrtcGetProgramLogSize(Program* program, size_t* size) { return text_size(program->log, size); }
NVRTC_API nvrtcGetProgramLog(Program* program, char* log) { return copy_text(program->log, log); }
NVRTC_API nvrtcGetCUBINSize(Program* program, size_t* size) { return text_size(program->image, size); }
NVRTC_API nvrtcGetCUBIN(Program* program, char* image) { return copy_text(program->image, image); }
NVRTC_API nvrtcGetPTXSize(Program* program, size_t* size) { return text_size(program->image, size); }
NVRTC_API nvrtcGetPTX(Program* program, char* image) { return copy_text(program->image, image); }
