// Operators that torch_npu has no kernel for and hands to the CPU: counted, and an error in strict mode.
#include <ATen/core/dispatch/Dispatcher.h>

#include "../simulator.h"
#include "reference.h"

// Called by preload/cpu_fallback.cpp.
extern "C" void cannsim_note_fallback(const c10::OperatorHandle &operator_handle) {
    static const bool strict = cannsim::setting("CANNSIM_STRICT", 0);
    const std::string name = c10::toString(operator_handle.operator_name());
    cannsim::note_fallback(name.c_str());
    TORCH_CHECK(!strict, name, " has no NPU kernel and would fall back to the CPU, and CANNSIM_STRICT is set");
}
