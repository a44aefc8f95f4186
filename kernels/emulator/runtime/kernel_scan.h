// Kernel declarations of a preprocessed source.
#pragma once
#include <string>
#include <vector>

namespace fornax {

// Removes `__global__` and launch bounds from a preprocessed source and appends a table of its kernels: the functions declared
// `extern "C" __global__ void NAME(…)`, and NVRTC's name expressions.
std::string register_kernels(std::string text, const std::vector<std::string>& expressions);

}  // namespace fornax
