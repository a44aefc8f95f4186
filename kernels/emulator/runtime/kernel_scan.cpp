#include "kernel_scan.h"

#include <cctype>
#include <map>

namespace fornax {
namespace {

bool is_word(char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_'; }

size_t find_word(const std::string& text, const std::string& word, size_t from) {
  for (size_t at = from; (at = text.find(word, at)) != std::string::npos; at += word.size()) {
    bool starts = at == 0 || !is_word(text[at - 1]);
    bool ends = at + word.size() == text.size() || !is_word(text[at + word.size()]);
    if (starts && ends) return at;
  }
  return std::string::npos;
}

size_t matching_parenthesis(const std::string& text, size_t open) {
  int depth = 0;
  for (size_t at = open; at < text.size(); at++) {
    if (text[at] == '(') depth++;
    if (text[at] == ')' && --depth == 0) return at;
  }
  return std::string::npos;
}

void overwrite_with_spaces(std::string& text, size_t from, size_t to) {
  for (size_t at = from; at < to; at++) {
    if (text[at] != '\n') text[at] = ' ';
  }
}

// True if the declaration that ends before `at` begins with extern "C".
bool is_extern_c(const std::string& text, size_t at) {
  size_t start = text.find_last_of(";}", at);
  size_t found = text.find("extern \"C\"", start == std::string::npos ? 0 : start);
  return found != std::string::npos && found < at;
}

}  // namespace

std::string register_kernels(std::string text, const std::vector<std::string>& expressions) {
  static const std::string kGlobal = "__global__", kBounds = "__fornax_bounds__";
  std::map<std::string, std::string> kernels;  // name → launch bound; a kernel with two declarations is registered once
  for (size_t at = 0; (at = find_word(text, kGlobal, at)) != std::string::npos;) {
    bool named = is_extern_c(text, at);
    overwrite_with_spaces(text, at, at + kGlobal.size());
    std::string bound = "1024";
    // Words, launch bounds, white space and line markers up to the parameter list.
    std::string word, name;
    while (at < text.size()) {
      char c = text[at];
      if (is_word(c)) {
        size_t start = at;
        while (at < text.size() && is_word(text[at])) at++;
        word = text.substr(start, at - start);
        if (word != kBounds) {
          name = word;
          continue;
        }
        size_t open = text.find('(', at), close = open == std::string::npos ? open : matching_parenthesis(text, open);
        if (close == std::string::npos) break;
        bound = text.substr(open + 1, close - open - 1);
        overwrite_with_spaces(text, start, close + 1);
        at = close + 1;
      } else if (c == '#') {
        at = text.find('\n', at);
        if (at == std::string::npos) break;
      } else if (isspace(static_cast<unsigned char>(c))) {
        at++;
      } else {
        break;
      }
    }
    if (named && at < text.size() && text[at] == '(' && !name.empty()) {
      auto added = kernels.emplace(name, bound);
      if (!added.second && bound != "1024") added.first->second = bound;
    }
  }
  size_t entries = kernels.size() + expressions.size();
  text += "\nextern \"C\" __attribute__((visibility(\"default\"))) const fornax_device::Kernel* fornax_kernels(unsigned* count) {\n"
          "  static const fornax_device::Kernel table[] = {\n";
  for (const auto& kernel : kernels) {
    text += "    fornax_device::make_kernel<&" + kernel.first + ">(\"" + kernel.first + "\", (" + kernel.second + ")),\n";
  }
  for (const auto& expression : expressions) {
    std::string name = expression[0] == '&' ? expression.substr(1) : expression;
    text += "    fornax_device::make_kernel<&" + name + ">(\"" + name + "\", 1024),\n";
  }
  text += "    {}};\n  *count = " + std::to_string(entries) + ";\n  return table;\n}\n";
  return text;
}

}  // namespace fornax
