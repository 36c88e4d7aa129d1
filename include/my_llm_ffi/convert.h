// Values between C++ and the library, and callbacks into C++. Written by hand, as call.h.
#pragma once
#include <functional>
#include <map>
#include <utility>
#include <variant>

#include "my_llm_ffi/call.h"

namespace my_llm_ffi {

/// A reference to an object of the library; copies refer to the same one.
class Handle {
 public:
  explicit Handle(tvm::ffi::ObjectRef object) : object_(std::move(object)) {}
  const tvm::ffi::ObjectRef& ref() const { return object_; }

 private:
  tvm::ffi::ObjectRef object_;
};

/// What a call in a plan is given: a tensor of the plan, nothing, a number, a bool or text.
class PlanArgument {
 public:
  // NOLINTBEGIN(google-explicit-constructor): a list of arguments is written as in a call
  PlanArgument(std::nullptr_t = nullptr) {}
  PlanArgument(const Handle& value) : value_(value.ref()) {}
  PlanArgument(const std::string& text) : value_(tvm::ffi::String(text)) {}
  PlanArgument(const char* text) : value_(tvm::ffi::String(text)) {}
  template <typename T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>
  PlanArgument(T number) : value_(number) {}
  // NOLINTEND(google-explicit-constructor)
  const tvm::ffi::Any& value() const { return value_; }

 private:
  tvm::ffi::Any value_;
};

/// Log-probabilities of one token, and (token, log-probability) of the best, best first.
struct TokenLogprobs {
  double logprob = 0;
  std::vector<std::pair<int64_t, double>> best{};
};

namespace detail {

using tvm::ffi::Any;
using tvm::ffi::AnyView;

// ---- from the library ---------------------------------------------------------------------------

template <typename T, typename = void>
struct Taker {
  static T Take(const Any& value) { return value.cast<T>(); }
};

/// A T out of what the library returned; TypeError where it is something else.
template <typename T>
T Take(const Any& value) {
  return Taker<T>::Take(value);
}

template <>
struct Taker<Any> {
  static Any Take(const Any& value) { return value; }
};

template <>
struct Taker<std::string> {
  static std::string Take(const Any& value) {
    if (const auto bytes = value.as<tvm::ffi::Bytes>()) return {bytes->data(), bytes->size()};
    const auto text = value.cast<tvm::ffi::String>();
    return {text.data(), text.size()};
  }
};

template <typename T>
struct Taker<T, std::enable_if_t<std::is_enum_v<T>>> {
  static T Take(const Any& value) { return static_cast<T>(value.cast<int64_t>()); }
};

template <typename T>
struct Taker<T, std::enable_if_t<std::is_base_of_v<Handle, T>>> {
  static T Take(const Any& value) {
    const std::string key = value.GetTypeKey();
    if (key != T::kTypeKey) {
      throw Error("TypeError", "expected " + std::string(T::kTypeKey) + ", got " + key, "");
    }
    return T(value.cast<tvm::ffi::ObjectRef>());
  }
};

template <typename T>
struct Taker<T, std::void_t<decltype(T::FromValues)>> {
  static T Take(const Any& value) { return T::FromValues(value.cast<Values>()); }
};

template <typename T>
struct Taker<std::optional<T>> {
  static std::optional<T> Take(const Any& value) {
    if (value == nullptr) return std::nullopt;
    return detail::Take<T>(value);
  }
};

template <typename T>
struct Taker<std::vector<T>> {
  static std::vector<T> Take(const Any& value) {
    std::vector<T> items;
    if constexpr (std::is_integral_v<T>) {
      if (const auto shape = value.as<tvm::ffi::Shape>()) return {shape->begin(), shape->end()};
    }
    for (const Any& item : value.cast<tvm::ffi::Array<Any>>()) {
      items.push_back(detail::Take<T>(item));
    }
    return items;
  }
};

template <typename A, typename B>
struct Taker<std::pair<A, B>> {
  static std::pair<A, B> Take(const Any& value) {
    const auto pair = value.cast<tvm::ffi::Tuple<Any, Any>>();
    return {detail::Take<A>(pair.template get<0>()), detail::Take<B>(pair.template get<1>())};
  }
};

template <>
struct Taker<TokenLogprobs> {
  static TokenLogprobs Take(const Any& value) {
    const auto parts = value.cast<tvm::ffi::Tuple<double, Any, Any>>();
    const auto ids = detail::Take<std::vector<int64_t>>(parts.get<1>());
    const auto logprobs = detail::Take<std::vector<double>>(parts.get<2>());
    TokenLogprobs taken{parts.get<0>(), {}};
    for (size_t i = 0; i < ids.size(); ++i) taken.best.emplace_back(ids[i], logprobs.at(i));
    return taken;
  }
};

template <typename K, typename V>
struct Taker<std::map<K, V>> {
  static std::map<K, V> Take(const Any& value) {
    std::map<K, V> items;
    for (const auto& [key, item] : value.cast<tvm::ffi::Map<Any, Any>>()) {
      items.emplace(detail::Take<K>(key), detail::Take<V>(item));
    }
    return items;
  }
};

/// Reads a field of an object, found by its name.
using Getter = tvm::ffi::reflection::FieldGetter;
template <typename T>
T TakeField(const Getter& getter, const Handle& object) {
  if (!object.ref().defined()) throw Error("TypeError", "this object was moved from", "");
  return Take<T>(getter(object.ref()));
}

/// A named value; what the library does not know any more keeps its default.
template <typename T>
void Get(const Values& values, const char* name, T& out) {
  const auto found = values.find(name);
  if (found != values.end()) out = Take<T>((*found).second);
}

// ---- to the library -----------------------------------------------------------------------------

template <typename T, typename = void>
struct Passer {
  static Any Pass(const T& value) { return value; }
};

/// What the library takes for a T.
template <typename T>
Any Pass(const T& value) {
  return Passer<T>::Pass(value);
}

template <>
struct Passer<std::string> {
  static Any Pass(const std::string& text) { return tvm::ffi::String(text); }
};

template <typename T>
struct Passer<T, std::enable_if_t<std::is_enum_v<T>>> {
  static Any Pass(T value) { return static_cast<int64_t>(value); }
};

template <typename T>
struct Passer<T, std::enable_if_t<std::is_base_of_v<Handle, T>>> {
  static Any Pass(const Handle& handle) { return handle.ref(); }
};

template <typename T>
struct Passer<std::optional<T>> {
  static Any Pass(const std::optional<T>& value) { return value ? detail::Pass(*value) : Any(); }
};

template <typename T>
struct Passer<std::vector<T>> {
  static Any Pass(const std::vector<T>& items) {
    tvm::ffi::Array<Any> array;
    for (const T& item : items) array.push_back(detail::Pass(item));
    return array;
  }
};

template <>
struct Passer<PlanArgument> {
  static Any Pass(const PlanArgument& argument) { return argument.value(); }
};

template <typename A, typename B>
struct Passer<std::pair<A, B>> {
  static Any Pass(const std::pair<A, B>& pair) {
    return tvm::ffi::Array<Any>{detail::Pass(pair.first), detail::Pass(pair.second)};
  }
};

template <typename... T>
struct Passer<std::variant<T...>> {
  static Any Pass(const std::variant<T...>& value) {
    return std::visit([](const auto& item) { return detail::Pass(item); }, value);
  }
};

template <typename K, typename V>
struct Passer<std::map<K, V>> {
  static Any Pass(const std::map<K, V>& items) {
    tvm::ffi::Map<Any, Any> map;
    for (const auto& [key, value] : items) map.Set(detail::Pass(key), detail::Pass(value));
    return map;
  }
};

/// Bytes where the library wants no text.
inline Any PassBytes(const std::string& bytes) { return tvm::ffi::Bytes(bytes); }
inline Any PassBytes(const std::vector<std::string>& items) {
  tvm::ffi::Array<Any> array;
  for (const std::string& item : items) array.push_back(tvm::ffi::Bytes(item));
  return array;
}
inline Any PassShape(const std::vector<int64_t>& shape) { return tvm::ffi::Shape(shape); }

/// Leaves out what was not given.
inline void Put(Values& values, const char* name, const Any& value) {
  if (value != nullptr) values.Set(name, value);
}

// ---- callbacks ----------------------------------------------------------------------------------

template <typename R, typename... A, size_t... I>
Any CallWith(const std::function<R(A...)>& fn, const TVMFFIAny* args, std::index_sequence<I...>) {
  const auto* views = reinterpret_cast<const AnyView*>(args);
  (void)views;
  if constexpr (std::is_void_v<R>) {
    fn(Take<std::decay_t<A>>(Any(views[I]))...);
    return Any();
  } else {
    return Pass(fn(Take<std::decay_t<A>>(Any(views[I]))...));
  }
}

/// A function object that is entered by the C ABI: what C++ throws in it reaches the library as an
/// error, whichever compilers were used.
template <typename R, typename... A>
tvm::ffi::Function ToFunction(std::function<R(A...)> fn) {
  using Fn = std::function<R(A...)>;
  const auto call = [](void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) -> int {
    try {
      if (count != sizeof...(A)) throw Error("TypeError", "a callback got other arguments", "");
      *reinterpret_cast<Any*>(result) =
          CallWith(*static_cast<Fn*>(self), args, std::index_sequence_for<A...>());
      return 0;
    } catch (const Error& error) {
      tvm::ffi::detail::SetSafeCallRaised(error);
    } catch (const std::exception& error) {
      tvm::ffi::detail::SetSafeCallRaised(Error("RuntimeError", error.what(), ""));
    } catch (...) {
      tvm::ffi::detail::SetSafeCallRaised(
          Error("RuntimeError", "a callback threw what is no std::exception", ""));
    }
    return -1;
  };
  return tvm::ffi::Function::FromExternC(new Fn(std::move(fn)), call,
                                         [](void* self) { delete static_cast<Fn*>(self); });
}

template <typename R, typename... A>
struct Passer<std::function<R(A...)>> {
  static Any Pass(const std::function<R(A...)>& fn) { return fn ? Any(ToFunction(fn)) : Any(); }
};

}  // namespace detail
}  // namespace my_llm_ffi
