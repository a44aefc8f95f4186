// Hub of a communicator: a thread of the process that made the unique id. The ranks connect to it, in whichever processes they are.
#pragma once
#include <string>

namespace nccl {

// Listens under a new name and starts the hub. Empty if no socket can be made.
std::string start_hub();

}  // namespace nccl
