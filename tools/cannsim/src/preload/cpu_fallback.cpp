// Takes the place of at::native::cpu_fallback, which torch_npu calls for an operator without NPU kernel. `run` preloads
// this library, because torch's own comes before CANN's in the order in which symbols are looked up; it is loaded into
// every process that runs under the simulator, so it needs nothing, and finds the rest when it is called.
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>

// at::native::cpu_fallback(operator, stack, error_on_views), and with a dispatch key from torch 2.4 on
#define OLD "_ZN2at6native12cpu_fallbackERKN3c1014OperatorHandleEPSt6vectorINS1_6IValueESaIS6_EEb"
#define NEW OLD "NS1_11DispatchKeyE"

using Fallback = void (*)(const void *operator_handle, void *stack, bool error_on_views, uint16_t dispatch_key);
using Note = void (*)(const void *operator_handle);

static void *loaded(const char *library, const char *symbol) {
    void *handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    return handle ? dlsym(handle, symbol) : nullptr;
}

// The older function does not look at the register that holds the dispatch key.
static void noted(const char *symbol, const void *operator_handle, void *stack, bool error_on_views, uint16_t key) {
    static const auto note = (Note)loaded("libopapi.so", "cannsim_note_fallback");
    static const auto fallback = (Fallback)loaded("libtorch_cpu.so", symbol);
    if (note) note(operator_handle);
    if (!fallback) abort();
    fallback(operator_handle, stack, error_on_views, key);
}

extern "C" void cannsim_fallback_old(const void *, void *, bool) __asm__(OLD);
extern "C" void cannsim_fallback_old(const void *operator_handle, void *stack, bool error_on_views) {
    noted(OLD, operator_handle, stack, error_on_views, 0);
}

extern "C" void cannsim_fallback_new(const void *, void *, bool, uint16_t) __asm__(NEW);
extern "C" void cannsim_fallback_new(const void *operator_handle, void *stack, bool error_on_views, uint16_t key) {
    noted(NEW, operator_handle, stack, error_on_views, key);
}
