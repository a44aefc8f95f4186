// Finding the kernels of a preprocessed source.
#pragma once
#include <string>
#include <vector>

namespace fornax {

// Takes `__global__` and launch bounds out of a preprocessed source and appends the table of its kernels: the functions
// declared `extern "C" __global__ void NAME(…)`, and those that `expressions` name.
std::string register_kernels(std::string text, const std::vector<std::string>& expressions);

}  // namespace fornax
