// Source lines of addresses in compiled kernels, by addr2line, which is installed with g++'s assembler. macOS has none: there the line
// is unknown.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "checker.h"

namespace fornax {

std::string source_line(uintptr_t return_address) {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(return_address - 1), &info) || !info.dli_fname) return "an unknown line";
  char command[4608];
  snprintf(command, sizeof(command), "addr2line -i -e '%s' %#lx 2>/dev/null", info.dli_fname,
           static_cast<unsigned long>(return_address - 1 - uintptr_t(info.dli_fbase)));
  FILE* pipe = popen(command, "r");
  if (!pipe) return "an unknown line";
  std::vector<std::string> lines;
  char line[4096];
  while (fgets(line, sizeof(line), pipe)) {
    line[strcspn(line, " \n")] = 0;  // drops " (discriminator 2)"
    std::string text = strncmp(line, "./", 2) == 0 ? line + 2 : line;
    if (text.find("emulated_") == std::string::npos && (lines.empty() || lines.back() != text)) lines.push_back(text);
  }
  pclose(pipe);
  if (lines.empty()) return "an unknown line";
  std::string text = lines[0];
  for (size_t i = 1; i < lines.size(); i++) text += " (called from " + lines[i] + ")";
  return text;
}

}  // namespace fornax
