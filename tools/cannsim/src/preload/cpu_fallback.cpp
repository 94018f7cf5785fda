// Takes the place of at::native::cpu_fallback, which torch_npu calls for an operator without NPU kernel. `run` preloads
// this library, because torch's own comes before CANN's in the order in which symbols are looked up; it is loaded into
// every process that runs under the simulator, so it needs nothing, and finds the rest when it is called.
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>

#define MANGLED "_ZN2at6native12cpu_fallbackERKN3c1014OperatorHandleEPSt6vectorINS1_6IValueESaIS6_EEbNS1_11DispatchKeyE"

using Fallback = void (*)(const void *operator_handle, void *stack, bool error_on_views, uint16_t dispatch_key);
using Note = void (*)(const void *operator_handle);

static void *loaded(const char *library, const char *symbol) {
    void *handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    return handle ? dlsym(handle, symbol) : nullptr;
}

extern "C" void cannsim_cpu_fallback_shim(const void *, void *, bool, uint16_t) __asm__(MANGLED);
extern "C" void cannsim_cpu_fallback_shim(const void *operator_handle, void *stack, bool error_on_views,
                                          uint16_t dispatch_key) {
    static const auto note = (Note)loaded("libopapi.so", "cannsim_note_fallback");
    static const auto fallback = (Fallback)loaded("libtorch_cpu.so", MANGLED);
    if (note) note(operator_handle);
    if (!fallback) abort();
    fallback(operator_handle, stack, error_on_views, dispatch_key);
}
