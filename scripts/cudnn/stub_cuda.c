/* Stub of libcuda.so.1 with which cuDNN loads, runs its heuristics and builds plans on a machine without a driver. It has no
 * device, but module loading succeeds, so that kernels that cuDNN compiles at run time count as loaded. */

enum { SUCCESS = 0, NO_DEVICE = 100 };

/* Dummy handle of modules, functions and kernels. */
static void *const nothing = (void *)8;

#define NO_DEVICE_FOR(name) int name(void) { return NO_DEVICE; }

/* Symbols that cuDNN's libraries are linked against. */
NO_DEVICE_FOR(cuGetErrorString)
NO_DEVICE_FOR(cuTensorMapEncodeIm2col)
NO_DEVICE_FOR(cuTensorMapEncodeTiled)

int cuModuleLoadData(void **module, const void *image) {
    (void)image;
    *module = nothing;
    return SUCCESS;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module, (void)name;
    *function = nothing;
    return SUCCESS;
}

int cuModuleUnload(void *module) {
    (void)module;
    return SUCCESS;
}

/* Symbols that heuristics and plans look up by name. */
int cuLibraryLoadData(void **library, const void *code) {
    (void)code;
    *library = nothing;
    return SUCCESS;
}

int cuLibraryUnload(void *library) {
    (void)library;
    return SUCCESS;
}

int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    (void)library, (void)name;
    *kernel = nothing;
    return SUCCESS;
}

int cuKernelSetAttribute(int attribute, int value, void *kernel, int device) {
    (void)attribute, (void)value, (void)kernel, (void)device;
    return SUCCESS;
}

int cuKernelGetAttribute(int *value, int attribute, void *kernel, int device) {
    (void)attribute, (void)kernel, (void)device;
    *value = 0;
    return SUCCESS;
}

int cuKernelGetFunction(void **function, void *kernel) {
    (void)kernel;
    *function = nothing;
    return SUCCESS;
}

NO_DEVICE_FOR(cuGetErrorName)
NO_DEVICE_FOR(cuCtxGetCurrent)
NO_DEVICE_FOR(cuCtxGetLimit)
NO_DEVICE_FOR(cuCtxPopCurrent)
NO_DEVICE_FOR(cuCtxPushCurrent)
NO_DEVICE_FOR(cuStreamGetCtx)
NO_DEVICE_FOR(cuDriverGetVersion)
NO_DEVICE_FOR(cuLinkCreate)
NO_DEVICE_FOR(cuLinkAddData)
NO_DEVICE_FOR(cuLinkComplete)
NO_DEVICE_FOR(cuLinkDestroy)
NO_DEVICE_FOR(cuLaunchKernel)
NO_DEVICE_FOR(cuLaunchCooperativeKernel)
NO_DEVICE_FOR(cuLaunchKernelEx)
NO_DEVICE_FOR(cuDeviceGetCount)
NO_DEVICE_FOR(cuDeviceGet)
NO_DEVICE_FOR(cuLibraryLoadFromFile)
NO_DEVICE_FOR(cuOccupancyMaxPotentialClusterSize)
