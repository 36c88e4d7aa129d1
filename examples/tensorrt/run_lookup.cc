// Loads the engine of build_lookup.py with no Python in the process, runs it, compares.
//
//   g++ -std=c++17 -isystem $TENSORRT_INCLUDE_DIR -I../../src/tensorrt/no_cuda run_lookup.cc -ldl
//   python build_lookup.py --dtype float32 && ./a.out libmy_llm_ffi_tensorrt.so lookup.engine
//
// Needs TensorRT's headers to build, TensorRT's libraries and a GPU to run; it links with neither,
// and finds them when it starts. With CUDA installed, use its headers instead of no_cuda.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

/// What a machine lacks, or what went wrong, in one line.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Library {
 public:
  Library(const std::string& name, const char* what) : handle_(dlopen(name.c_str(), RTLD_NOW)) {
    if (handle_ == nullptr) throw Failure(std::string("needs ") + what + ": no " + name);
  }
  template <typename Function>
  Function* Find(const char* name) const {
    void* found = dlsym(handle_, name);
    if (found == nullptr) throw Failure(std::string("needs a library with ") + name);
    return reinterpret_cast<Function*>(found);
  }

 private:
  void* handle_;  // for as long as the process lives
};

/// Memory and streams of the first GPU, by NVIDIA's driver.
class Gpu {
 public:
  Gpu() {
    int device = 0, count = 0;
    void* context = nullptr;
    if (Call<unsigned>("cuInit", 0) != 0 || Call("cuDeviceGetCount", &count) != 0 || count == 0)
      throw Failure("needs an NVIDIA GPU: the driver finds none");
    Check(Call("cuDeviceGet", &device, 0), "cuDeviceGet");
    Check(Call("cuDevicePrimaryCtxRetain", &context, device), "cuDevicePrimaryCtxRetain");
    Check(Call("cuCtxSetCurrent", context), "cuCtxSetCurrent");
    Check(Call<void**, unsigned>("cuStreamCreate", &stream_, 0), "cuStreamCreate");
  }

  cudaStream_t stream() const { return static_cast<cudaStream_t>(stream_); }

  /// Memory that lives as long as the process does.
  template <typename T>
  uint64_t Upload(const std::vector<T>& values) const {
    uint64_t address = 0;
    const size_t bytes = values.size() * sizeof(T);
    Check(Call("cuMemAlloc_v2", &address, bytes), "cuMemAlloc");
    const void* from = values.data();
    Check(Call("cuMemcpyHtoD_v2", address, from, bytes), "cuMemcpyHtoD");
    return address;
  }
  void Download(std::vector<float>& values, uint64_t address) const {
    void* to = values.data();
    Check(Call("cuStreamSynchronize", stream_), "cuStreamSynchronize");
    Check(Call("cuMemcpyDtoH_v2", to, address, values.size() * sizeof(float)), "cuMemcpyDtoH");
  }

 private:
  template <typename... A>
  int Call(const char* name, A... arguments) const {
    return driver_.Find<int(A...)>(name)(arguments...);
  }
  static void Check(int status, const char* call) {
    if (status != 0) throw Failure(std::string(call) + " failed: " + std::to_string(status));
  }

  Library driver_{"libcuda.so.1", "an NVIDIA GPU"};
  void* stream_ = nullptr;
};

struct Logger : nvinfer1::ILogger {
  void log(Severity severity, const char* text) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", text);
  }
};

std::vector<char> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Failure("needs " + path + ": run build_lookup.py --dtype float32 first");
  return {std::istreambuf_iterator<char>(file), {}};
}

template <typename T>
std::unique_ptr<T> Made(T* object, const char* what) {
  if (object == nullptr) throw Failure(std::string("TensorRT made no ") + what + "; see its log");
  return std::unique_ptr<T>(object);
}

/// Rows of a table by their numbers, by the engine; compared with the table's own.
void RunLookup(const Gpu& gpu, nvinfer1::ICudaEngine& engine, int32_t n) {
  if (engine.getTensorDataType("table") != nvinfer1::DataType::kFLOAT)
    throw Failure("needs an engine of build_lookup.py --dtype float32");
  const auto context = Made(engine.createExecutionContext(), "execution context");
  const nvinfer1::Dims dims = engine.getTensorShape("table");
  const int64_t rows = dims.d[0], width = dims.d[1];
  std::vector<float> table(rows * width), out(n * width, -1.f);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i);
  std::vector<int32_t> index(n);
  for (int32_t i = 0; i < n; ++i) index[i] = static_cast<int32_t>((i * 7919 + 3) % rows);
  const uint64_t at_table = gpu.Upload(table), at_index = gpu.Upload(index),
                 at_out = gpu.Upload(out);
  const auto bind = [&](const char* name, uint64_t address) {
    if (!context->setTensorAddress(name, reinterpret_cast<void*>(address)))
      throw Failure(std::string("the engine has no ") + name);
  };
  if (!context->setInputShape("index", nvinfer1::Dims{1, {n}}))
    throw Failure("the engine takes no index of " + std::to_string(n));
  bind("table", at_table);
  bind("index", at_index);
  bind("out", at_out);
  if (!context->enqueueV3(gpu.stream())) throw Failure("TensorRT did not execute; see its log");
  gpu.Download(out, at_out);
  for (int32_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      if (out[i * width + j] != table[index[i] * width + j])
        throw Failure("row " + std::to_string(i) + " differs from the table's");
    }
  }
  std::printf("%d rows: equal to the table's\n", n);
}

void Run(const std::string& plugins, const std::string& path) {
  const Gpu gpu;
  const Library tensorrt("libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR), "TensorRT");
  const std::vector<char> bytes = ReadFile(path);
  Logger logger;
  const auto create = tensorrt.Find<void*(void*, int32_t)>("createInferRuntime_INTERNAL");
  const auto runtime =
      Made(static_cast<nvinfer1::IRuntime*>(create(&logger, NV_TENSORRT_VERSION)), "runtime");
  if (runtime->getPluginRegistry().loadLibrary(plugins.c_str()) == nullptr)
    throw Failure("TensorRT does not load " + plugins + "; see its log");
  const auto engine = Made(runtime->deserializeCudaEngine(bytes.data(), bytes.size()), "engine");
  for (int32_t n : {1, 17, 64, 1000}) RunLookup(gpu, *engine, n);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s LIBMY_LLM_FFI_TENSORRT ENGINE\n", arguments[0]);
    return 2;
  }
  try {
    Run(arguments[1], arguments[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_lookup.cc %s\n", error.what());
    return 1;
  }
  return 0;
}
