// A parity case: one call of an op, in the file format of tests/parity. Counterpart: driver.cc.
#pragma once
#include <my_llm_ffi/my_llm_ffi.h>

#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

/// Tensors in the order of the ABI (inputs, then outputs) and options.
class Case {
 public:
  struct Tensor {
    bool present = false;
    DLDataType dtype{};
    std::vector<int64_t> shape{};
    std::vector<char> data{};
  };
  using Value = std::variant<std::monostate, int64_t, double, bool, std::string>;

  static Case ReadFile(const char* path) {
    std::ifstream in(path, std::ios::binary);
    Case c;
    std::string magic(kMagic.size(), 0);
    in.read(magic.data(), static_cast<std::streamsize>(magic.size()));
    if (magic != kMagic) throw my_llm_ffi::Error("ValueError", "no parity case", "");
    c.op_ = ReadText(in);
    c.tensors_.resize(ReadNumber<uint32_t>(in));
    for (Tensor& t : c.tensors_) ReadTensor(in, t);
    c.options_.resize(ReadNumber<uint32_t>(in));
    for (Value& value : c.options_) value = ReadValue(in);
    if (!in) throw my_llm_ffi::Error("ValueError", std::string("no parity case: ") + path, "");
    return c;
  }

  void WriteFile(const char* path) const {
    std::ofstream out(path, std::ios::binary);
    out << kMagic;
    WriteText(out, op_);
    WriteNumber<uint32_t>(out, tensors_.size());
    for (const Tensor& t : tensors_) WriteTensor(out, t);
    WriteNumber<uint32_t>(out, options_.size());
    for (const Value& value : options_) WriteValue(out, value);
  }

  const std::string& op() const { return op_; }

  my_llm_ffi::CpuView Given(size_t i) const {
    const Tensor& t = tensors_.at(i);
    if (!t.present) throw my_llm_ffi::Error("TypeError", "a tensor that C++ must be given", "");
    return View(t);
  }
  my_llm_ffi::OptionalTensor Optional(size_t i) const {
    const Tensor& t = tensors_.at(i);
    if (!t.present) return std::nullopt;
    views_.push_back(std::make_unique<my_llm_ffi::CpuView>(View(t)));
    return my_llm_ffi::TensorView(*views_.back());
  }

  template <typename T>
  T Option(size_t i) const {
    T value{};
    Read(i, value);
    return value;
  }
  template <typename T>
  void Read(size_t i, std::optional<T>& out) const {
    if (std::holds_alternative<std::monostate>(options_.at(i))) {
      out = std::nullopt;
    } else {
      Read(i, out.emplace());
    }
  }
  template <typename T>
  void Read(size_t i, T& out) const {
    const Value& value = options_.at(i);
    if constexpr (std::is_enum_v<T>) {
      out = my_llm_ffi::parse<T>(std::get<std::string>(value));
    } else if constexpr (std::is_same_v<T, double>) {
      const auto* number = std::get_if<int64_t>(&value);
      out = number != nullptr ? static_cast<double>(*number) : std::get<double>(value);
    } else {
      out = std::get<T>(value);
    }
  }

 private:
  inline static const std::string kMagic = "MLFCASE1";

  static my_llm_ffi::CpuView View(const Tensor& t) {
    static char none;
    char* data = t.data.empty() ? &none : const_cast<char*>(t.data.data());
    return my_llm_ffi::CpuView(data, t.dtype, t.shape);
  }

  template <typename T>
  static T ReadNumber(std::istream& in) {
    T value{};
    in.read(reinterpret_cast<char*>(&value), sizeof value);
    return value;
  }
  static std::string ReadText(std::istream& in) {
    std::string text(ReadNumber<uint32_t>(in), '\0');
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    return text;
  }
  static void ReadTensor(std::istream& in, Tensor& t) {
    t.present = ReadNumber<uint8_t>(in) != 0;
    if (!t.present) return;
    t.dtype.code = ReadNumber<uint8_t>(in);
    t.dtype.bits = ReadNumber<uint8_t>(in);
    t.dtype.lanes = 1;
    t.shape.resize(ReadNumber<uint32_t>(in));
    for (int64_t& size : t.shape) size = ReadNumber<int64_t>(in);
    t.data.resize(ReadNumber<uint64_t>(in));
    in.read(t.data.data(), static_cast<std::streamsize>(t.data.size()));
  }
  static Value ReadValue(std::istream& in) {
    switch (ReadNumber<uint8_t>(in)) {
      case 1:
        return ReadNumber<int64_t>(in);
      case 2:
        return ReadNumber<double>(in);
      case 3:
        return ReadNumber<uint8_t>(in) != 0;
      case 4:
        return ReadText(in);
      default:
        return {};
    }
  }

  template <typename T>
  static void WriteNumber(std::ostream& out, T value) {
    out.write(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static void WriteText(std::ostream& out, const std::string& text) {
    WriteNumber<uint32_t>(out, text.size());
    out << text;
  }
  static void WriteTensor(std::ostream& out, const Tensor& t) {
    WriteNumber<uint8_t>(out, t.present);
    if (!t.present) return;
    WriteNumber(out, t.dtype.code);
    WriteNumber(out, t.dtype.bits);
    WriteNumber<uint32_t>(out, t.shape.size());
    for (const int64_t size : t.shape) WriteNumber(out, size);
    WriteNumber<uint64_t>(out, t.data.size());
    out.write(t.data.data(), static_cast<std::streamsize>(t.data.size()));
  }
  static void WriteValue(std::ostream& out, const Value& value) {
    WriteNumber<uint8_t>(out, value.index());
    if (const auto* number = std::get_if<int64_t>(&value)) WriteNumber(out, *number);
    if (const auto* number = std::get_if<double>(&value)) WriteNumber(out, *number);
    if (const auto* flag = std::get_if<bool>(&value)) WriteNumber<uint8_t>(out, *flag);
    if (const auto* text = std::get_if<std::string>(&value)) WriteText(out, *text);
  }

  std::string op_{};
  std::vector<Tensor> tensors_{};
  std::vector<Value> options_{};
  mutable std::vector<std::unique_ptr<my_llm_ffi::CpuView>> views_{};
};
