/* A libcuda.so.1 for machines without a GPU: every call answers CUDA_ERROR_STUB_LIBRARY.

   The libraries of torch and of SGLang's kernels are linked against the driver, which only a
   machine with a GPU has; without it they do not even load. With this one they load, find no
   device, and an install can be proved as far as that goes. The names are those that the releases'
   libraries leave undefined; tests/engines_cuda says if another is missing. */

#define STUB(name) \
  int name(void) { return 34; }

STUB(cuInit)
STUB(cuDriverGetVersion)
STUB(cuGetProcAddress)
STUB(cuGetProcAddress_v2)
STUB(cuGetExportTable)
STUB(cuDeviceGet)
STUB(cuDeviceGetCount)
STUB(cuDeviceGetName)
STUB(cuDeviceGetAttribute)
STUB(cuDeviceGetDevResource)
STUB(cuDevicePrimaryCtxGetState)
STUB(cuDevicePrimaryCtxRetain)
STUB(cuDevResourceGenerateDesc)
STUB(cuDevSmResourceSplitByCount)
STUB(cuCtxFromGreenCtx)
STUB(cuCtxGetCurrent)
STUB(cuCtxGetDevice)
STUB(cuCtxGetId)
STUB(cuCtxPopCurrent_v2)
STUB(cuCtxPushCurrent_v2)
STUB(cuCtxSetCurrent)
STUB(cuFuncGetAttribute)
STUB(cuFuncSetAttribute)
STUB(cuFuncSetCacheConfig)
STUB(cuGreenCtxCreate)
STUB(cuGreenCtxDestroy)
STUB(cuGreenCtxGetDevResource)
STUB(cuLaunchCooperativeKernel)
STUB(cuLaunchKernel)
STUB(cuLaunchKernelEx)
STUB(cuLinkAddData_v2)
STUB(cuLinkComplete)
STUB(cuLinkCreate_v2)
STUB(cuMemAddressFree)
STUB(cuMemAddressReserve)
STUB(cuMemCreate)
STUB(cuMemGetAddressRange_v2)
STUB(cuMemGetAllocationGranularity)
STUB(cuMemMap)
STUB(cuMemRelease)
STUB(cuMemRetainAllocationHandle)
STUB(cuMemSetAccess)
STUB(cuMemUnmap)
STUB(cuModuleGetFunction)
STUB(cuModuleLoad)
STUB(cuModuleLoadData)
STUB(cuModuleLoadDataEx)
STUB(cuModuleUnload)
STUB(cuOccupancyMaxActiveBlocksPerMultiprocessor)
STUB(cuPointerGetAttribute)
STUB(cuStreamCreate)
STUB(cuTensorMapEncodeTiled)

static int says(const char **text) {
  *text = "no CUDA driver: this is qlaunch's stub of libcuda.so.1";
  return 0;
}

int cuGetErrorName(int error, const char **text) {
  (void)error;
  return says(text);
}

int cuGetErrorString(int error, const char **text) {
  (void)error;
  return says(text);
}
