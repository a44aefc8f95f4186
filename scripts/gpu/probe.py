"""Prints versions and device attributes as PyTorch sees them, as one JSON row."""
import json
import platform

import torch

row = {"row": "probe", "variant": "torch", "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(),
       "cuda": torch.version.cuda, "machine": platform.platform()}
if torch.cuda.is_available():
    properties = torch.cuda.get_device_properties(0)
    names = ["name", "major", "minor", "total_memory", "multi_processor_count", "L2_cache_size", "shared_memory_per_block_optin",
             "shared_memory_per_multiprocessor", "max_threads_per_multi_processor", "regs_per_multiprocessor"]
    row["device"] = {name: getattr(properties, name) for name in names if hasattr(properties, name)}
print(json.dumps(row))
