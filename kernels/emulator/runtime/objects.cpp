// Compilation of CUDA sources by g++ (on macOS clang) into shared objects, cached under a hash of source, options, compiler and emulator.
#include <dlfcn.h>
#include <fcntl.h>
#if defined(__linux__)
#include <link.h>
#endif
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "internal.h"
#include "kernel_scan.h"

namespace fornax {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

bool write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  return bool(file.flush());
}

std::string shell_quoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// Two 64-bit FNV-1a hashes with different offset bases: a 128-bit name.
std::string hash(const std::string& text) {
  uint64_t a = 0xcbf29ce484222325ull, b = 0x9ae16a3b2f90404full;
  for (unsigned char c : text) {
    a = (a ^ c) * 0x100000001b3ull;
    b = (b ^ c) * 0x100000001b3ull;
    b ^= b >> 29;
  }
  char name[33];
  snprintf(name, sizeof(name), "%016llx%016llx", static_cast<unsigned long long>(a), static_cast<unsigned long long>(b));
  return name;
}

// Options of the platform's compiler, and of its linker for a kernel that finds the runtime in the process.
#if defined(__APPLE__)
constexpr char kPlatformFlags[] = "";
// A thread-local variable of the runtime must be known when the kernel is linked.
std::string link_flags() {
  Dl_info self;
  bool found = dladdr(reinterpret_cast<void*>(&link_flags), &self) != 0;
  return " -undefined dynamic_lookup" + (found ? " " + shell_quoted(self.dli_fname) : "");
}
#else
// No unique symbols: a template's shared memory must stay separate in two objects.
constexpr char kPlatformFlags[] = " -fno-gnu-unique";
std::string link_flags() { return " -lm"; }
#endif

// Instruction-set flags: hardware FMA and half-precision conversions make kernels several times faster.
const char* machine_flags() {
#if defined(__x86_64__) && !defined(__APPLE__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return " -mavx2 -mfma -mf16c";
  }
#endif
  return "";
}

// g++ flags equivalent to NVRTC options. Options of the GPU code generator have no equivalent and are ignored.
struct CompilerFlags {
  std::string preprocess, compile;
};

CompilerFlags translate(const std::vector<std::string>& options, bool checked) {
  CompilerFlags flags;
  bool contract = true;  // NVRTC's default
  for (size_t i = 0; i < options.size(); i++) {
    const std::string& option = options[i];
    bool takes_next = (option == "-D" || option == "-I" || option == "-U") && i + 1 < options.size();
    if (takes_next) {
      flags.preprocess += " " + option + shell_quoted(options[++i]);
    } else if (option.rfind("-D", 0) == 0 || option.rfind("-I", 0) == 0 || option.rfind("-U", 0) == 0) {
      flags.preprocess += " " + shell_quoted(option);
    } else if (option.rfind("--define-macro=", 0) == 0) {
      flags.preprocess += " " + shell_quoted("-D" + option.substr(15));
    } else if (option.rfind("--include-path=", 0) == 0) {
      flags.preprocess += " " + shell_quoted("-I" + option.substr(15));
    } else if (option == "--fmad=false" || option == "-fmad=false") {
      contract = false;
    }
  }
  // Compiling takes longer than running in most programs that are checked or counted. char is signed on a GPU, but not on every host.
  flags.compile = std::string(" -std=c++17") + (checked ? " -Og" : " -O1") +
                  (" -g1 -fPIC -w -fsigned-char -fvisibility=hidden -fno-exceptions -fno-strict-aliasing"
                              " -fno-math-errno -fno-trapping-math -ffp-contract=") +
                  (contract ? "fast" : "off") + kPlatformFlags + machine_flags() +
                  (checked ? " -fsanitize=thread,alignment -fsanitize-recover=alignment" : "");
  return flags;
}

struct CommandResult {
  int status;
  std::string output;
};

CommandResult run(const std::string& command) {
  FILE* pipe = popen(("( " + command + " ) 2>&1").c_str(), "r");
  if (!pipe) return {-1, "cannot start a shell"};
  std::string output;
  char buffer[4096];
  while (size_t count = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, count);
  int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
}

std::string folder_of(const std::string& path) {
  size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

// Runs the compiler in a temporary folder and renames the finished object into place.
bool compile_object(const ProgramSource& source, bool checked, const std::string& object, std::string* log) {
  std::string folder = object + ".XXXXXX";
  if (!mkdtemp(folder.data())) {
    *log = "cannot create a folder beside " + object + ": " + strerror(errno);
    return false;
  }
  auto finish = [&](bool built) {
    run("rm -rf " + shell_quoted(folder));
    return built;
  };
  for (const auto& header : source.headers) {
    std::string subfolder = folder_of(header.first);
    if (!subfolder.empty()) run("mkdir -p " + shell_quoted(folder + "/" + subfolder));
    write_file(folder + "/" + header.first, "#line 1 \"" + folder_of(source.name) + header.first + "\"\n" + header.second);
  }
  write_file(folder + "/source.cu", "#line 1 \"" + source.name + "\"\n" + source.text);
  CompilerFlags flags = translate(source.options, checked);
  const Settings& s = settings();
  std::string program = shell_quoted(s.compiler), compiler = "cd " + shell_quoted(folder) + " && " + program;
  std::string prelude = shell_quoted(s.include_folder + "/emulated_cuda.h");
  CommandResult preprocessed =
      run(compiler + " -E -x c++ -std=c++17 -include " + prelude + " -I. " + flags.preprocess + " source.cu -o source.ii");
  if (preprocessed.status != 0) {
    *log = preprocessed.output;
    return finish(false);
  }
  std::string text = read_file(folder + "/source.ii");
  write_file(folder + "/source.ii", register_kernels(text, source.expressions));
  // Compiled and linked separately: linking with the sanitizer's flag would add the sanitizer's runtime.
  CommandResult compiled = run(compiler + flags.compile + " -fdebug-prefix-map=" + shell_quoted(folder) +
                               "=. -c -x c++-cpp-output source.ii -o source.o && " + program +
                               " -shared source.o -o source.so" + link_flags());
  *log = compiled.output;
  if (compiled.status != 0) return finish(false);
  return finish(rename((folder + "/source.so").c_str(), object.c_str()) == 0);
}

#if defined(__linux__)
// Static shared memory is thread-local memory of the object.
size_t static_shared_bytes(const std::string& path) {
  struct Search {
    const std::string& path;
    size_t bytes;
  } search{path, 0};
  auto visit = [](dl_phdr_info* info, size_t, void* data) {
    Search& of = *static_cast<Search*>(data);
    if (of.path != info->dlpi_name) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
      if (info->dlpi_phdr[i].p_type == PT_TLS) of.bytes = info->dlpi_phdr[i].p_memsz;
    }
    return 1;
  };
  dl_iterate_phdr(visit, &search);
  return search.bytes;
}
#else
size_t static_shared_bytes(const std::string&) { return 0; }
#endif

}  // namespace

std::shared_ptr<SharedObject> load_object(const ProgramSource& source, std::string* log) {
  auto guard = lock();
  const bool checked = settings().checked || settings().counted;
  guard.unlock();
  return load_object(source, checked, log);
}

std::shared_ptr<SharedObject> load_object(const ProgramSource& source, bool checked, std::string* log) {
  static std::map<std::string, std::shared_ptr<SharedObject>> loaded;
  std::string path, folder;
  {
    auto guard = lock();
    const Settings& s = settings();
    // The include folder's name contains a hash of the emulator's sources and the compiler's version. It lies in the cache folder, whose
    // own path does not change the object.
    std::string include_folder = s.include_folder.substr(s.cache_folder.size());
    std::string key = to_image(source) + include_folder + translate(source.options, checked).compile;
    folder = s.cache_folder + "/emulated";
    path = folder + "/" + hash(key) + ".so";
    auto found = loaded.find(path);
    if (found != loaded.end()) return found->second;
  }
  run("mkdir -p " + shell_quoted(folder));
  // One process compiles while others wait.
  int handle = open((path + ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666);
  if (handle >= 0) flock(handle, LOCK_EX);
  bool exists = ::access(path.c_str(), R_OK) == 0;
  bool built = exists || compile_object(source, checked, path, log);
  if (handle >= 0) close(handle);
  if (!built) return nullptr;
  auto guard = lock();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    *log = dlerror();
    return nullptr;
  }
  auto kernels = reinterpret_cast<const fornax_device::Kernel* (*)(unsigned*)>(dlsym(library, "fornax_kernels"));
  auto object = std::make_shared<SharedObject>();
  object->path = path;
  object->checked = checked;
  object->static_shared = static_shared_bytes(path);
  object->kernels = kernels(&object->count);
  return loaded[path] = object;
}

namespace {
const char kMagic[] = "fornax emulated image 1\n";
}

// An image contains the source, not the object, so it stays valid in both modes and after the cache is cleared.
std::string to_image(const ProgramSource& source) {
  std::string body;
  auto put = [&](const std::string& text) { body += std::to_string(text.size()) + ":" + text; };
  auto put_all = [&](const std::vector<std::string>& list) {
    body += std::to_string(list.size()) + ":";
    for (const auto& text : list) put(text);
  };
  put(source.name);
  put(source.text);
  body += std::to_string(source.headers.size()) + ":";
  for (const auto& header : source.headers) {
    put(header.first);
    put(header.second);
  }
  put_all(source.options);
  put_all(source.expressions);
  return kMagic + body;
}

bool from_image(const void* image, ProgramSource* source) {
  const char* at = static_cast<const char*>(image);
  if (strncmp(at, kMagic, sizeof(kMagic) - 1) != 0) return false;
  at += sizeof(kMagic) - 1;
  auto number = [&] {
    char* end;
    size_t value = strtoull(at, &end, 10);
    at = end + 1;
    return value;
  };
  auto text = [&] {
    size_t size = number();
    at += size;
    return std::string(at - size, size);
  };
  source->name = text();
  source->text = text();
  for (size_t count = number(); count > 0; count--) {
    std::string name = text();
    source->headers.emplace_back(name, text());
  }
  for (size_t count = number(); count > 0; count--) source->options.push_back(text());
  for (size_t count = number(); count > 0; count--) source->expressions.push_back(text());
  return true;
}

}  // namespace fornax
