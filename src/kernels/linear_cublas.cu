// Float weights times many tokens on CUDA, by cuBLASLt found at run time. Counterparts:
// linear_cublas.h (its declarations), linear.cu (chooses this), linear_floats.cu (few tokens).
//
// cuBLAS sees column-major matrices, so a row-major one is its transpose: out[tokens, rows] is a
// matrix of rows by tokens, the product of the transposed weight (cols by rows) and x (cols by
// tokens). The bias is one number for each of its rows.
#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>

#include "kernels/linear_cublas.h"
#include "kernels/linear_cuda.h"
#include "kernels/linear_launch.h"

namespace mlf::cuda_linear {
namespace {

// ---- the library --------------------------------------------------------------------------------

// The newest first; what a driver can run is the same for all of a major version.
constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
// From the folder of this library, my_llm_ffi/lib in site-packages.
constexpr const char* kPipFolders[] = {"/../../nvidia/cu13/lib/", "/../../nvidia/cu12/lib/",
                                       "/../../nvidia/cublas/lib/", "/../../torch/lib/"};
constexpr const char* kSystemFolders[] = {"", "/usr/local/cuda/lib64/"};

std::string OwnFolder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&FindCublas), &info) == 0) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

/// Looks for libraries in turn, and notes for what.
class CublasSearch {
 public:
  /// True once a library with all functions has been found; nothing is looked for after that.
  bool Try(const std::string& path, int flags = 0) {
    if (found_ != nullptr) return true;
    if (flags == 0) looked_for_ += (looked_for_.empty() ? "" : ", ") + path;
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | flags);
    if (library == nullptr) return false;
    auto cublas = std::make_unique<Cublas>();
    cublas->path = path;
    bool all = true;
    const auto load = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      all = all && function != nullptr;
    };
#define MLF_CUBLAS_LOAD(name, parameters) load(cublas->name, "cublasLt" #name);
    MLF_CUBLAS_FUNCTIONS(MLF_CUBLAS_LOAD)
#undef MLF_CUBLAS_LOAD
    if (all) {
      found_ = std::move(cublas);
    } else {
      looked_for_ += " (which lacks a function)";
      dlclose(library);
    }
    return all;
  }

  void TryFolders(const std::string& before, const char* const* folders, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      for (const char* name : kNames) Try(before + folders[i] + name);
    }
  }

  std::unique_ptr<Cublas> found_;
  std::string looked_for_;
};

std::unique_ptr<Cublas> SearchCublas(std::string* looked_for) {
  CublasSearch search;
  if (const char* path = std::getenv("MY_LLM_FFI_CUBLASLT"); path != nullptr && *path != '\0') {
    search.Try(path);  // and nothing else: who names one wants that one
  } else {
    for (const char* name : kNames) search.Try(name, RTLD_NOLOAD);
    search.TryFolders(OwnFolder(), kPipFolders, std::size(kPipFolders));
    search.TryFolders("", kSystemFolders, std::size(kSystemFolders));
  }
  *looked_for = search.looked_for_;
  return std::move(search.found_);
}

}  // namespace

const Cublas* FindCublas(std::string* looked_for) {
  static std::mutex mutex;
  static const Cublas* found = nullptr;  // never let go: its handles live as long as the process
  const std::lock_guard lock(mutex);
  if (found == nullptr) found = SearchCublas(looked_for).release();
  return found;
}

namespace {

// ---- one product --------------------------------------------------------------------------------

int CublasType(DLDataType dtype) {  // cudaDataType_t
  if (dtype == kF32) return 0;
  return dtype == kF16 ? 2 : 14;
}

DLDataType WeightDtype(const Product& p) {
  if (p.format == Format::kF16) return kF16;
  return p.format == Format::kBF16 ? kBF16 : kF32;
}

void Fail(const Cublas& cublas, const Product& p, const char* function, int status) {
  TVM_FFI_THROW(RuntimeError) << "linear.cuda: cublasLt" << function << " of " << cublas.path
                              << " returned status " << status << ": x [" << p.tokens << ", "
                              << p.cols << "] " << DtypeName(p.x.dtype) << ", weight [" << p.rows
                              << ", " << p.cols << "] " << DtypeName(WeightDtype(p)) << ", out "
                              << DtypeName(p.out.dtype);
}

/// Calls a function of the library: Call(&Cublas::Create, "Create", &handle).
class Caller {
 public:
  Caller(const Cublas& cublas, const Product& p) : cublas_(cublas), p_(p) {}
  template <typename Fn, typename... A>
  void operator()(Fn Cublas::* function, const char* name, A... arguments) const {
    const CublasStatus status = (cublas_.*function)(arguments...);
    if (status != 0) Fail(cublas_, p_, name, status);
  }

 private:
  const Cublas& cublas_;
  const Product& p_;
};

#define MLF_CUBLAS(name, ...) call_(&Cublas::name, #name, __VA_ARGS__)

/// A handle is made once for each device, at the first call there, and may be used by any thread.
CublasObject HandleOf(const Cublas& cublas, const Product& p, int device) {
  static std::mutex mutex;
  static std::map<int, CublasObject> handles;
  const std::lock_guard lock(mutex);
  CublasObject& handle = handles[device];
  if (handle == nullptr) Caller(cublas, p)(&Cublas::Create, "Create", &handle);
  return handle;
}

/// The largest power of two, up to 256, that an address is a multiple of.
uint32_t AlignmentOf(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p) | 256;
  return static_cast<uint32_t>(address & -address);
}

/// What a choice of algorithm depends on.
using ChoiceKey = std::array<int64_t, 9>;

/// Algorithms that have been chosen: choosing takes tens of microseconds.
class Choices {
 public:
  bool Find(const ChoiceKey& key, CublasAlgo* algo) {
    const std::lock_guard lock(mutex_);
    const auto at = chosen_.find(key);
    if (at == chosen_.end()) return false;
    *algo = at->second;
    return true;
  }
  void Keep(const ChoiceKey& key, const CublasAlgo& algo) {
    const std::lock_guard lock(mutex_);
    if (chosen_.size() >= kMost) chosen_.clear();
    chosen_[key] = algo;
  }

 private:
  static constexpr size_t kMost = 4096;
  std::mutex mutex_;
  std::map<ChoiceKey, CublasAlgo> chosen_;
};

/// Descriptors of one product; they hold no memory of the device.
class CublasMatmul {
 public:
  CublasMatmul(const Cublas& cublas, const Product& p) : cublas_(cublas), p_(p), call_(cublas, p) {
    const int kF32Type = CublasType(kF32);
    MLF_CUBLAS(MatmulDescCreate, &desc_, kCublasCompute32F, kF32Type);
    Describe(kCublasDescTransA, kCublasTranspose);
    if (p.bias.data != nullptr) {
      Describe(kCublasDescEpilogue, kCublasEpilogueBias);
      Describe(kCublasDescBias, static_cast<const void*>(p.bias.data));
    }
    Layout(&weight_, WeightDtype(p), p.cols, p.rows);
    Layout(&x_, p.x.dtype, p.cols, p.tokens);
    Layout(&out_, p.out.dtype, p.rows, p.tokens);
  }
  CublasMatmul(const CublasMatmul&) = delete;
  CublasMatmul& operator=(const CublasMatmul&) = delete;
  ~CublasMatmul() {
    for (CublasObject layout : {weight_, x_, out_}) {
      if (layout != nullptr) cublas_.MatrixLayoutDestroy(layout);
    }
    if (preference_ != nullptr) cublas_.MatmulPreferenceDestroy(preference_);
    if (desc_ != nullptr) cublas_.MatmulDescDestroy(desc_);
  }

  /// False where the library has no algorithm for this without memory of its own.
  bool Choose(CublasObject handle, CublasAlgo* algo) {
    MLF_CUBLAS(MatmulPreferenceCreate, &preference_);
    Prefer(kCublasPreferWorkspace, uint64_t{0});
    Prefer(kCublasPreferAlignA, AlignmentOf(p_.weight));
    Prefer(kCublasPreferAlignB, AlignmentOf(p_.x.data));
    Prefer(kCublasPreferAlignC, AlignmentOf(p_.out.data));
    Prefer(kCublasPreferAlignD, AlignmentOf(p_.out.data));
    CublasHeuristic best{};
    int found = 0;
    const CublasStatus status = cublas_.MatmulAlgoGetHeuristic(handle, desc_, weight_, x_, out_,
                                                               out_, preference_, 1, &best, &found);
    *algo = best.algo;
    return status == 0 && found > 0 && best.state == 0;
  }

  void Run(CublasObject handle, const CublasAlgo& algo, cudaStream_t stream) {
    const float one = 1.f, zero = 0.f;
    MLF_CUBLAS(Matmul, handle, desc_, &one, p_.weight, weight_, p_.x.data, x_, &zero, p_.out.data,
               out_, p_.out.data, out_, &algo, nullptr, size_t{0}, stream);
  }

 private:
  template <typename T>
  void Describe(int attribute, T value) {
    MLF_CUBLAS(MatmulDescSetAttribute, desc_, attribute, &value, sizeof value);
  }
  template <typename T>
  void Prefer(int attribute, T value) {
    MLF_CUBLAS(MatmulPreferenceSetAttribute, preference_, attribute, &value, sizeof value);
  }
  void Layout(CublasObject* layout, DLDataType dtype, int64_t rows, int64_t cols) {
    MLF_CUBLAS(MatrixLayoutCreate, layout, CublasType(dtype), static_cast<uint64_t>(rows),
               static_cast<uint64_t>(cols), rows);
  }

  const Cublas& cublas_;
  const Product& p_;
  Caller call_;
  CublasObject desc_ = nullptr, weight_ = nullptr, x_ = nullptr, out_ = nullptr,
               preference_ = nullptr;
};

}  // namespace

bool CublasTakes(const Product& p) {
  return p.x.dtype == WeightDtype(p) && (p.out.dtype == p.x.dtype || p.out.dtype == kF32);
}

void CublasProduct(const CudaCall& call, const Product& p) {
  std::string looked_for;
  const Cublas* cublas = FindCublas(&looked_for);
  if (cublas == nullptr) {
    TVM_FFI_THROW(NotImplementedError)
        << "linear.cuda: x has " << p.tokens << " rows, and more than " << kFloatTokens
        << " rows times a weight of floats take cuBLASLt, which was not found: looked for "
        << looked_for
        << ". It comes with torch, or with pip install nvidia-cublas; or name it in the "
           "environment variable MY_LLM_FFI_CUBLASLT";
  }
  const int device = call.device().device_id;
  const ChoiceKey key{device,
                      CublasType(p.x.dtype),
                      CublasType(p.out.dtype),
                      p.tokens,
                      p.rows,
                      p.cols,
                      p.bias.data == nullptr ? 0 : AlignmentOf(p.bias.data),
                      AlignmentOf(p.weight) << 16 | AlignmentOf(p.x.data),
                      AlignmentOf(p.out.data)};
  static Choices choices;
  CublasObject handle = HandleOf(*cublas, p, device);
  CublasMatmul matmul(*cublas, p);
  CublasAlgo algo{};
  if (!choices.Find(key, &algo)) {
    if (!matmul.Choose(handle, &algo)) return FloatRows(call, p);
    choices.Keep(key, algo);
  }
  matmul.Run(handle, algo, call.stream());
}

}  // namespace mlf::cuda_linear
