// Programs as files. Counterpart: plan_file.h, which draws the format.
#include "plan/plan_file.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/dtype.h"
#include "base/file_writer.h"
#include "base/interrupt.h"
#include "base/quote.h"
#include "io/byte_reader.h"
#include "io/mmap.h"

namespace mlf {
namespace {

using Kind = PlanTensor::Kind;

constexpr char kMagic[] = "MLF_PLAN";
constexpr size_t kMagicBytes = sizeof kMagic - 1;
constexpr uint32_t kVersion = 1;
constexpr int64_t kHeaderBytes = 64, kAlignment = 64;
constexpr uint64_t kMaxText = 1 << 16;
constexpr int64_t kPiece = 8 << 20;  // written at once

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Fowler, Noll, Vo: damage, not malice, is what it finds; everything is checked all the same.
uint64_t Fnv1a(const uint8_t* data, int64_t n) {
  uint64_t hash = 0xcbf29ce484222325;
  for (int64_t i = 0; i < n; ++i) hash = (hash ^ data[i]) * 0x100000001b3;
  return hash;
}

// ---- reading ------------------------------------------------------------------------------------

struct Sections {
  int64_t description_end, constants, constants_bytes;
};

class Reader {
 public:
  Reader(std::shared_ptr<const MappedFile> file, const Permission& permission)
      : file_(std::move(file)),
        permission_(permission),
        sections_(ReadHeader()),
        in_(file_->path(), file_->data(), sections_.description_end) {
    for (int64_t i = 0; i < kHeaderBytes; i += 8) in_.Read<uint64_t>("header");
  }

  Program Read() {
    InterruptPoller poller;
    for (int64_t n = Count("the number of tensors", 18), i = 0; i < n; ++i) {
      in_.set_subject("tensor " + std::to_string(i));
      Refusing([&] { ReadTensor(); });
      poller.Poll();
    }
    in_.set_subject("");
    for (int64_t n = Count("the number of calls", 16), i = 0; i < n; ++i) {
      in_.set_subject("step " + std::to_string(i));
      Refusing([&] { ReadCall(); });
      poller.Poll();
    }
    in_.set_subject("");
    for (int64_t n = Count("the number of outputs", 16), i = 0; i < n; ++i) {
      in_.set_subject("output " + std::to_string(i));
      Refusing([&] { ReadOutput(); });
    }
    in_.set_subject("");
    Expect("bytes after the outputs", in_.remaining(), 0);
    Expect("bytes of the constants", sections_.constants_bytes, constants_bytes_);
    Refusing([&] { program_.CheckComplete(); });
    return std::move(program_);
  }

 private:
  Sections ReadHeader() {
    ByteReader header(file_->path(), file_->data(), file_->size());
    const auto expect = [&](const char* what, uint64_t expected) {
      const int64_t at = header.position();
      const auto found = header.Read<uint64_t>(what);
      if (found != expected)
        header.Fail(at, std::string(what) + " is " + std::to_string(found) + ", expected " +
                            std::to_string(expected));
    };
    if (file_->size() < static_cast<int64_t>(kMagicBytes) ||
        std::memcmp(file_->data(), kMagic, kMagicBytes) != 0)
      header.Fail(0, "the file is no plan");
    header.Read<uint64_t>("magic");
    const auto version = header.Read<uint32_t>("version");
    if (version != kVersion)
      header.Fail(
          8, "version is " + std::to_string(version) + ", expected " + std::to_string(kVersion),
          "NotImplementedError");
    if (header.Read<uint32_t>("flags") != 0) header.Fail(12, "flags are set, expected 0");
    expect("the size of the file", file_->size());
    expect("the place of the description", kHeaderBytes);
    const int64_t bytes = header.ReadCount("the size of the description", 1);
    if (bytes > file_->size() - kHeaderBytes)
      header.Fail(32, "the description does not fit the file");
    const int64_t end = kHeaderBytes + bytes, constants = Aligned(end);
    expect("the checksum of the description", Fnv1a(file_->data() + kHeaderBytes, bytes));
    expect("the place of the constants", constants);
    if (constants > file_->size()) header.Fail(48, "the constants do not fit the file");
    expect("the size of the constants", file_->size() - constants);
    return {end, constants, file_->size() - constants};
  }

  /// Calls fn(); refusals of the program get the place where the reader stands.
  template <typename Fn>
  void Refusing(Fn fn) {
    const int64_t begin = in_.position();
    try {
      fn();
    } catch (const ffi::Error& error) {
      const std::string message = error.message();
      if (std::string_view(error.kind()) != "ValueError" || !message.starts_with("plan: ")) throw;
      in_.set_subject("");
      in_.Fail(begin, message);
    }
  }

  void Expect(const char* what, int64_t found, int64_t expected) {
    if (found == expected) return;
    in_.Fail(in_.position(), std::string(what) + ": " + std::to_string(found) + ", expected " +
                                 std::to_string(expected));
  }

  int64_t Count(const char* what, int64_t min_bytes) { return in_.ReadCount(what, min_bytes); }
  std::string Text(const char* what) { return std::string(in_.ReadString(what, kMaxText)); }

  int32_t Index(const char* what) {
    const int64_t at = in_.position();
    const auto index = in_.Read<uint64_t>(what);
    if (index >= program_.tensors().size())
      in_.Fail(at, std::string(what) + " is tensor " + std::to_string(index) +
                       ", expected one of the " + std::to_string(program_.tensors().size()) +
                       " before");
    return static_cast<int32_t>(index);
  }

  void ReadTensor() {
    const int64_t at = in_.position();
    const auto kind = in_.Read<uint8_t>("kind");
    if (kind > static_cast<uint8_t>(Kind::kView))
      in_.Fail(at, "kind is " + std::to_string(kind) + ", expected 0 to 4");
    const std::string name = Text("name");
    DLDataType dtype{0, 0, 1};
    dtype.code = in_.Read<uint8_t>("dtype code");
    dtype.bits = in_.Read<uint8_t>("dtype bits");
    std::vector<std::string> shape;
    for (int64_t n = Count("rank", 8); n > 0; --n) shape.push_back(Text("size"));
    AddTensor(static_cast<Kind>(kind), at, name, dtype, shape);
  }

  void AddTensor(Kind kind, int64_t at, const std::string& name, DLDataType dtype,
                 const std::vector<std::string>& shape) {
    const bool named = kind != Kind::kBuffer && kind != Kind::kView;
    if (!named && !name.empty()) in_.Fail(at + 1, "a buffer or view has a name, expected none");
    if (kind == Kind::kInput) program_.AddInput(name, dtype, shape);
    if (kind == Kind::kParameter) program_.AddParameter(name, dtype, shape);
    if (kind == Kind::kBuffer) program_.AddBuffer(dtype, shape);
    if (kind == Kind::kConstant) program_.AddConstant(name, dtype, shape, ReadConstant());
    if (kind != Kind::kView) return;
    const int32_t source = Index("source");
    if (program_.tensors()[source].dtype != dtype)
      in_.Fail(at, "a view is " + DtypeName(dtype) + ", its source " +
                       DtypeName(program_.tensors()[source].dtype));
    program_.AddView(source, shape, Text("offset"));
  }

  Program::Constant ReadConstant() {
    const int64_t at = in_.position();
    const auto offset = in_.Read<uint64_t>("offset"), bytes = in_.Read<uint64_t>("bytes");
    if (offset != static_cast<uint64_t>(Aligned(constants_bytes_)))
      in_.Fail(at, "offset is " + std::to_string(offset) + ", expected " +
                       std::to_string(Aligned(constants_bytes_)));
    const auto all = static_cast<uint64_t>(sections_.constants_bytes);
    if (offset > all || bytes > all - offset)
      in_.Fail(at, "the " + std::to_string(bytes) + " bytes from " + std::to_string(offset) +
                       " on are not within the " + std::to_string(all) + " bytes of constants");
    constants_bytes_ = static_cast<int64_t>(offset + bytes);
    return {file_, file_->data() + sections_.constants + offset, static_cast<int64_t>(bytes)};
  }

  void ReadCall() {
    const std::string function = Text("function");
    std::vector<PlanArgument> arguments;
    for (int64_t n = Count("the number of arguments", 1); n > 0; --n) {
      arguments.push_back(ReadArgument());
    }
    program_.AddCall(function, std::move(arguments), permission_);
  }

  PlanArgument ReadArgument() {
    const int64_t at = in_.position();
    switch (const auto kind = in_.Read<uint8_t>("kind of an argument")) {
      case 0:
        return std::monostate();
      case 1:
        return PlanTensorIndex{Index("argument")};
      case 2:
        return in_.Read<int64_t>("argument");
      case 3:
        return in_.Read<double>("argument");
      case 4:
        return in_.ReadBool("argument");
      case 5:
        return Text("argument");
      default:
        in_.Fail(at, "kind of an argument is " + std::to_string(kind) + ", expected 0 to 5");
    }
  }

  void ReadOutput() {
    const std::string name = Text("name");
    program_.AddOutput(name, Index("tensor"));
  }

  std::shared_ptr<const MappedFile> file_;
  const Permission& permission_;
  Sections sections_;
  ByteReader in_;
  Program program_{};
  int64_t constants_bytes_ = 0;  // of those read so far
};

// ---- writing ------------------------------------------------------------------------------------

class Description {
 public:
  explicit Description(const Program& program) {
    Value<uint64_t>(program.tensors().size());
    for (const PlanTensor& t : program.tensors()) Tensor(t);
    Value<uint64_t>(program.calls().size());
    for (const PlanCall& call : program.calls()) {
      Text(call.name);
      Value<uint64_t>(call.arguments.size());
      for (const PlanArgument& argument : call.arguments) Argument(argument);
    }
    Value<uint64_t>(program.outputs().size());
    for (const PlanOutput& output : program.outputs()) {
      Text(output.name);
      Value<uint64_t>(output.tensor);
    }
  }

  const std::string& bytes() const { return bytes_; }
  int64_t constants_bytes() const { return constants_bytes_; }

 private:
  template <typename T>
  void Value(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void Text(const std::string& text) {
    Value<uint64_t>(text.size());
    bytes_ += text;
  }

  void Tensor(const PlanTensor& t) {
    Value(static_cast<uint8_t>(t.kind));
    Text(t.name);
    Value<uint8_t>(t.dtype.code);
    Value<uint8_t>(t.dtype.bits);
    Value<uint64_t>(t.shape.size());
    for (const SizeExpression& size : t.shape) Text(size.text());
    if (t.kind == Kind::kConstant) {
      Value<uint64_t>(Aligned(constants_bytes_));
      Value<uint64_t>(t.bytes);
      constants_bytes_ = Aligned(constants_bytes_) + t.bytes;
    } else if (t.kind == Kind::kView) {
      Value<uint64_t>(t.source);
      Text(t.offset.text());
    }
  }

  void Argument(const PlanArgument& argument) {
    Value(static_cast<uint8_t>(argument.index()));
    if (const auto* tensor = std::get_if<PlanTensorIndex>(&argument))
      Value<uint64_t>(tensor->index);
    if (const auto* integer = std::get_if<int64_t>(&argument)) Value(*integer);
    if (const auto* number = std::get_if<double>(&argument)) Value(*number);
    if (const auto* flag = std::get_if<bool>(&argument)) Value<uint8_t>(*flag ? 1 : 0);
    if (const auto* text = std::get_if<std::string>(&argument)) Text(*text);
  }

  std::string bytes_{};
  int64_t constants_bytes_ = 0;
};

void Pad(FileWriter& out) {
  static constexpr char kZeros[kAlignment] = {};
  out.Bytes(kZeros, Aligned(out.position()) - out.position());
}

void WriteConstant(FileWriter& out, const PlanTensor& t) {
  Pad(out);
  InterruptPoller poller;
  for (int64_t done = 0; done < t.bytes; done += kPiece) {
    out.Bytes(t.data + done, std::min(kPiece, t.bytes - done));
    poller.Poll();
  }
}

}  // namespace

Program ReadPlanFile(const std::string& path, const Permission& permission) {
  return Reader(std::make_shared<const MappedFile>(path), permission).Read();
}

void WritePlanFile(const std::string& path, const Program& program) {
  const Description description(program);
  const std::string& bytes = description.bytes();
  const int64_t size = static_cast<int64_t>(bytes.size()), constants = Aligned(kHeaderBytes + size);
  FileWriter out("Plan.save", "the plan", path);
  out.Bytes(kMagic, kMagicBytes);
  out.Value(kVersion);
  out.Value<uint32_t>(0);
  out.Value<uint64_t>(constants + description.constants_bytes());
  out.Value<uint64_t>(kHeaderBytes);
  out.Value<uint64_t>(size);
  out.Value<uint64_t>(Fnv1a(reinterpret_cast<const uint8_t*>(bytes.data()), size));
  out.Value<uint64_t>(constants);
  out.Value<uint64_t>(description.constants_bytes());
  out.Bytes(bytes.data(), bytes.size());
  Pad(out);
  for (const PlanTensor& t : program.tensors()) {
    if (t.kind == Kind::kConstant) WriteConstant(out, t);
  }
  out.Finish();
}

}  // namespace mlf
