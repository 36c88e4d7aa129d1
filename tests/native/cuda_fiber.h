// A stack of its own to run a function on, entered and left at will. Counterpart: cuda_emulator.cc.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define MLF_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MLF_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define MLF_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MLF_TSAN 1
#endif
#endif
#ifdef MLF_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef MLF_TSAN
#include <sanitizer/tsan_interface.h>
#endif

// Keeps what a called function must keep on the stack, leaves the stack's top in *from and goes on
// where `to` was left. ucontext would do the same with two system calls.
extern "C" void mlf_switch_stack(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.local mlf_switch_stack
.type mlf_switch_stack, @function
mlf_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
)");
#elif defined(__aarch64__)
asm(R"(
.text
.local mlf_switch_stack
.type mlf_switch_stack, %function
mlf_switch_stack:
  sub sp, sp, #160
  stp x29, x30, [sp]
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x29, x30, [sp]
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#endif

namespace mlf::emulated {

/// One thread runs all of them. Unfinished ones may be destroyed; what their stacks own leaks.
class Fiber {
 public:
  /// `entry` begins at the first Enter() and must not return.
  explicit Fiber(void (*entry)()) : entry_(entry) {
    void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
      std::perror("no stack for a fiber");
      std::exit(1);
    }
    bottom_ = static_cast<char*>(memory);
    // A frame of mlf_switch_stack that returns to Begin: zeros but for that address.
    auto** slots = reinterpret_cast<void**>(bottom_ + kBytes);
#if defined(__x86_64__)
    slots[-2] = reinterpret_cast<void*>(&Begin);
    top_ = slots - 8;
#else
    slots[-19] = reinterpret_cast<void*>(&Begin);
    top_ = slots - 20;
#endif
#ifdef MLF_TSAN
    tsan_ = __tsan_create_fiber(0);
#endif
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
#ifdef MLF_ASAN
    __asan_unpoison_memory_region(bottom_, kBytes);
#endif
#ifdef MLF_TSAN
    __tsan_destroy_fiber(tsan_);
#endif
    munmap(bottom_, kBytes);
  }

  /// Runs the fiber until it leaves.
  void Enter() {
    inside_ = this;
#ifdef MLF_ASAN
    void* own_fake = nullptr;
    __sanitizer_start_switch_fiber(&own_fake, bottom_, kBytes);
#endif
#ifdef MLF_TSAN
    tsan_outside_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_, 0);
#endif
    mlf_switch_stack(&outside_, top_);
#ifdef MLF_ASAN
    __sanitizer_finish_switch_fiber(own_fake, nullptr, nullptr);
#endif
  }

  /// Back to where the fiber was entered; returns at the next Enter().
  static void Leave() {
    Fiber& self = *inside_;
#ifdef MLF_ASAN
    __sanitizer_start_switch_fiber(&self.fake_, self.outside_bottom_, self.outside_bytes_);
#endif
#ifdef MLF_TSAN
    __tsan_switch_to_fiber(self.tsan_outside_, 0);
#endif
    mlf_switch_stack(&self.top_, self.outside_);
    self.Arrive();
  }

 private:
  static constexpr size_t kBytes = 256 * 1024, kGuardBytes = 64 * 1024;  // pages of any kernel

  static void Begin() {
    Fiber& self = *inside_;
    self.Arrive();
    self.entry_();
  }

  void Arrive() {
#ifdef MLF_ASAN
    __sanitizer_finish_switch_fiber(fake_, &outside_bottom_, &outside_bytes_);
#endif
  }

  inline static Fiber* inside_ = nullptr;
  void (*entry_)();
  char* bottom_ = nullptr;
  void *top_ = nullptr, *outside_ = nullptr;
#ifdef MLF_ASAN
  void* fake_ = nullptr;
  const void* outside_bottom_ = nullptr;
  size_t outside_bytes_ = 0;
#endif
#ifdef MLF_TSAN
  void *tsan_ = nullptr, *tsan_outside_ = nullptr;
#endif
};

}  // namespace mlf::emulated
