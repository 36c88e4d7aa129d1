// A program without Python: loads libmy_llm_ffi_tensorrt.so into the genuine registry and runs its
// plugins on the host, from fields that Python plugins wrote. Counterparts: driver.cc, which it is
// linked with, and test_cpp_creators.py, which runs it, under sanitizers too where asked.
//
//   program DISPATCH LIBRARY FIELDS     FIELDS: of a LookUp with fp32_output, a line each:
//                                       name type length bytes-in-hex
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <new>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "driver.h"

#define EXPECT(condition)                                                                          \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      std::fprintf(stderr, "%s:%d: expected %s; last error: %s\n", __FILE__, __LINE__, #condition, \
                   last_error());                                                                  \
      std::exit(1);                                                                                \
    }                                                                                              \
  } while (false)

namespace {

thread_local int64_t allocations = 0;

constexpr int32_t kFloat = 0, kInt32 = 3, kBf16 = 7;
const char* (*last_error)() = [] { return ""; };

/// What the plugins log.
struct Logger : nvinfer1::ILogger {
  std::mutex mutex;
  std::vector<std::string> errors;
  void log(Severity severity, const char* message) noexcept override {
    const std::lock_guard<std::mutex> lock(mutex);
    if (severity == Severity::kERROR) errors.emplace_back(message);
  }
};

struct Finder : nvinfer1::ILoggerFinder {
  Logger logger;
  nvinfer1::ILogger* findLogger() override { return &logger; }
};

struct Field {
  std::string name, bytes;
  int32_t type, length;
};

std::vector<Field> ReadFields(const char* path) {
  std::vector<Field> fields;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    Field field{};
    std::string hex;
    words >> field.name >> field.type >> field.length >> hex;
    for (size_t i = 0; i + 1 < hex.size(); i += 2) {
      field.bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    fields.push_back(field);
  }
  return fields;
}

void* Create(void* registry, const char* name, const std::vector<Field>& fields) {
  std::vector<const char*> names;
  std::vector<int32_t> types, lengths;
  std::vector<const void*> data;
  for (const Field& field : fields) {
    names.push_back(field.name.c_str());
    types.push_back(field.type);
    lengths.push_back(field.length);
    data.push_back(field.bytes.data());
  }
  return mlf_drive_create(registry, name, "1", "my_llm_ffi", 1, static_cast<int32_t>(fields.size()),
                          names.data(), types.data(), lengths.data(), data.data());
}

/// index [3], table [4, 2] in bfloat16, out [3, 2] in float32.
struct LookUpCase {
  int32_t index[3];
  uint16_t table[8];
  float out[6]{};
  int32_t in_types[2] = {kInt32, kBf16}, in_ndims[2] = {1, 2}, out_type = kFloat, out_ndim = 2;
  int64_t in_sizes[3] = {3, 4, 2}, out_sizes[2] = {3, 2};

  explicit LookUpCase(int32_t first) : index{first, 3, 0} {
    for (int i = 0; i < 8; ++i) {
      const float value = static_cast<float>(i);
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      table[i] = static_cast<uint16_t>(bits >> 16);
    }
  }
  Tensors Inputs() const { return {2, in_types, in_ndims, in_sizes}; }
  Tensors Outputs() const { return {1, &out_type, &out_ndim, out_sizes}; }

  int32_t Run(void* plugin, int32_t times) {
    const void* in[] = {index, table};
    void* outputs[] = {out};
    const Tensors i = Inputs(), o = Outputs();
    return mlf_drive_enqueue(plugin, &i, &o, in, outputs, nullptr, nullptr, times);
  }
  bool Right() const {
    for (int i = 0; i < 6; ++i) {
      if (out[i] != static_cast<float>(2 * index[i / 2] + i % 2)) return false;
    }
    return true;
  }
};

void TestLookUp(void* registry, const std::vector<Field>& fields, Logger& logger) {
  void* plugin = Create(registry, "LookUp", fields);
  EXPECT(plugin != nullptr);
  void* context = mlf_drive_attach(plugin);
  mlf_drive_destroy(plugin);  // a context does not need what it was made of
  LookUpCase good(2), bad(7);
  const Tensors in = good.Inputs(), out = good.Outputs();
  EXPECT(mlf_drive_shape_change(context, &in, &out) == 0);
  EXPECT(good.Run(context, 3) == 0 && good.Right());
  EXPECT(logger.errors.empty());
  EXPECT(bad.Run(context, 1) == -1);
  EXPECT(std::strstr(last_error(), "LookUp.enqueue: IndexError: embedding_lookup: ") != nullptr ||
         std::strstr(last_error(), "LookUp.enqueue: ValueError: embedding_lookup: ") != nullptr);
  EXPECT(logger.errors.size() == 1 && logger.errors[0] == last_error());
  EXPECT(good.Run(context, 1) == 0);  // as if nothing had been
  good.out_sizes[0] = 2;
  const Tensors small = good.Outputs();
  EXPECT(mlf_drive_shape_change(context, &in, &small) == -1);
  EXPECT(std::strstr(last_error(),
                     "LookUp.onShapeChange: ValueError: LookUp: output 0 is float32 "
                     "[2, 2] in the engine, inference for these inputs gives "
                     "float32 [3, 2]") != nullptr);
  mlf_drive_destroy(context);
}

/// residual += x, then rms_norm, with the new residual in memory of its own.
void TestAliased(void* registry) {
  void* plugin = Create(registry, "AddRmsNorm", {});
  EXPECT(plugin != nullptr);
  const float x[2] = {1, 2}, before[2] = {2, 2}, weight[2] = {1, 2};
  float residual[2] = {-1, -1}, out[2] = {-1, -1};
  const int32_t types[3] = {kFloat, kFloat, kFloat}, in_ndims[3] = {2, 2, 1}, out_ndims[2] = {2, 2};
  const int64_t in_sizes[5] = {1, 2, 1, 2, 2}, out_sizes[4] = {1, 2, 1, 2};
  const Tensors in{3, types, in_ndims, in_sizes}, outs{2, types, out_ndims, out_sizes};
  const void* inputs[] = {x, before, weight};
  void* outputs[] = {residual, out};
  EXPECT(mlf_drive_shape_change(plugin, &in, &outs) == 0);
  EXPECT(mlf_drive_enqueue(plugin, &in, &outs, inputs, outputs, nullptr, nullptr, 2) == 0);
  EXPECT(residual[0] == 3 && residual[1] == 4 && before[0] == 2);
  const float scale = 1 / std::sqrt(12.5f);
  EXPECT(std::abs(out[0] - 3 * scale) < 1e-6f && std::abs(out[1] - 8 * scale) < 1e-6f);
  mlf_drive_destroy(plugin);
}

/// What an enqueue takes of memory does not grow with how many there are: none.
void TestNothingIsAllocated(void* registry, const std::vector<Field>& fields) {
  void* plugin = Create(registry, "LookUp", fields);
  LookUpCase one(1);
  EXPECT(one.Run(plugin, 1) == 0);
  int64_t taken[2];
  for (const int times : {1, 100}) {
    const int64_t before = allocations;
    EXPECT(one.Run(plugin, times) == 0);
    taken[times > 1] = allocations - before;
  }
  EXPECT(taken[0] > 0 && taken[0] == taken[1]);  // those of the driver, so that they are counted
  mlf_drive_destroy(plugin);
}

void TestRefusals(void* registry, std::vector<Field> fields) {
  fields.push_back(fields.back());
  EXPECT(Create(registry, "LookUp", fields) == nullptr);
  EXPECT(std::strstr(last_error(), "LookUp.createPlugin: ValueError: LookUp: ") != nullptr);
  EXPECT(std::strstr(last_error(), "is there twice") != nullptr);
  fields.back() = {"epsilon", "12345678", 2, 1};
  EXPECT(Create(registry, "LookUp", fields) == nullptr);
  EXPECT(std::strstr(last_error(),
                     "LookUp: there is no field \"epsilon\", expected "
                     "use_torch_tensor, fp32_output") != nullptr);
}

/// What no writer of fields means, and a wrong program may give.
void TestFieldsWithoutData(nvinfer1::IPluginRegistry& registry) {
  using nvinfer1::PluginField;
  using nvinfer1::PluginFieldType;
  auto* creator =
      static_cast<nvinfer1::IPluginCreatorV3One*>(registry.getCreator("Rope", "1", "my_llm_ffi"));
  const auto create = [creator](const nvinfer1::PluginFieldCollection* fields) {
    return creator->createPlugin("", fields, nvinfer1::TensorRTPhase::kBUILD);
  };
  const PluginField wrong[] = {{"base", nullptr, PluginFieldType::kFLOAT64, 1},
                               {"scaling", nullptr, PluginFieldType::kCHAR, 4},
                               {"scaling", "none", PluginFieldType::kCHAR, -1}};
  for (const PluginField& field : wrong) {
    const nvinfer1::PluginFieldCollection one{1, &field};
    EXPECT(create(&one) == nullptr && std::strstr(last_error(), " has no data") != nullptr);
  }
  const PluginField nameless{nullptr, "none", PluginFieldType::kCHAR, 4};
  const nvinfer1::PluginFieldCollection one{1, &nameless}, missing{2, nullptr}, less{-1, nullptr};
  EXPECT(create(&one) == nullptr && std::strstr(last_error(), "no field \"\"") != nullptr);
  EXPECT(create(&missing) == nullptr);
  EXPECT(std::strstr(last_error(), "Rope: 2 fields are given, and none is there") != nullptr);
  for (const nvinfer1::PluginFieldCollection* none : {&less, decltype(&less){nullptr}}) {
    nvinfer1::IPluginV3* plugin = create(none);
    EXPECT(plugin != nullptr);
    delete plugin;
  }
}

/// Contexts of one plugin, each in a thread, and the plugin itself in all of them.
void TestThreads(void* registry, const std::vector<Field>& fields) {
  void* plugin = Create(registry, "LookUp", fields);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 50; ++round) {
        void* copy = mlf_drive_clone(plugin);
        void* context = mlf_drive_attach(copy);
        mlf_drive_destroy(copy);
        LookUpCase own(t), shared(3 - t), bad(9);
        wrong += own.Run(context, 4) != 0 || !own.Right();
        wrong += shared.Run(plugin, 4) != 0 || !shared.Right();
        wrong += bad.Run(context, 1) != -1 || std::strstr(last_error(), "LookUp") == nullptr;
        mlf_drive_destroy(context);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT(wrong == 0);
  mlf_drive_destroy(plugin);
}

template <typename Fn>
Fn Symbol(void* library, const char* name) {
  return library == nullptr ? nullptr : reinterpret_cast<Fn>(dlsym(library, name));
}

}  // namespace

// The program's own, which its libraries call too.
void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

int main(int count, char** arguments) {
  if (count != 4) return 2;
  void* dispatch = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
  const auto get = Symbol<nvinfer1::IPluginRegistry* (*)()>(dispatch, "getPluginRegistry");
  EXPECT(get != nullptr);
  nvinfer1::IPluginRegistry* registry = get();
  nvinfer1::IPluginRegistry::PluginLibraryHandle loaded = registry->loadLibrary(arguments[2]);
  EXPECT(loaded != nullptr);
  void* library = dlopen(arguments[2], RTLD_NOW);
  last_error = Symbol<const char* (*)()>(library, "my_llm_ffi_tensorrt_last_error");
  Symbol<void (*)(int32_t)>(library, "my_llm_ffi_tensorrt_host_memory")(1);
  static Finder finder;
  Symbol<void (*)(nvinfer1::ILoggerFinder*)>(library, "setLoggerFinder")(&finder);
  const std::vector<Field> fields = ReadFields(arguments[3]);
  EXPECT(fields.size() == 3);
  TestLookUp(registry, fields, finder.logger);
  TestAliased(registry);
  TestNothingIsAllocated(registry, fields);
  TestRefusals(registry, fields);
  TestFieldsWithoutData(*registry);
  TestThreads(registry, fields);
  void* plugin = Create(registry, "LookUp", fields);
  registry->deregisterLibrary(loaded);
  EXPECT(Create(registry, "LookUp", fields) == nullptr);
  LookUpCase after(1);  // a plugin outlives the registration of its creator
  EXPECT(after.Run(plugin, 1) == 0 && after.Right());
  mlf_drive_destroy(plugin);
  std::puts("all is well");
  return 0;
}
