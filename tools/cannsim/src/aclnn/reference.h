// How an aclnn operator is written here: one line that computes it with ATen on the CPU, over the device's memory.
//
//     ACLNN(Add, (In self, In other, Number alpha, Out out), out = at::add(self, other, alpha))
//
// defines aclnnAddGetWorkspaceSize (which the dynamic linker resolves to a function with these parameters) and aclnnAdd. The parameters are those of the real function, without the two that
// every one has at the end (workspace size, executor), each as one of the wrappers below. A wrapper is one pointer, so it
// travels as that pointer does in the C calling conventions of x86_64 and aarch64; plain int64_t, bool, double, float,
// int8_t and const char * are themselves.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Functions.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <functional>
#include <string>
#include <vector>

#include "../contract.h"
#include "../objects.h"

namespace cannsim {

at::ScalarType scalar_type(int acl_type);
at::Tensor tensor_over(const aclTensor *tensor);  // a CPU tensor over the same memory; undefined for nullptr
at::Scalar number(const aclScalar *scalar);
at::Tensor unpack_bits(const at::Tensor &bytes, int64_t count);  // bool, lowest bit of each byte first

// A tensor that is read: *self. Where the caller may have passed none, it turns into an optional by itself.
struct In {
    const aclTensor *object;
    operator c10::optional<at::Tensor>() const {
        return object ? c10::optional<at::Tensor>(tensor_over(object)) : c10::nullopt;
    }
    at::Tensor operator*() const { return tensor_over(object); }
    explicit operator bool() const { return object != nullptr; }
};

// A tensor that is written. Assignment casts to its type and broadcasts to its shape; without a tensor it does nothing.
struct Out {
    aclTensor *object;
    at::Tensor operator*() const { return tensor_over(object); }
    explicit operator bool() const { return object != nullptr; }
    void operator=(const at::Tensor &value) const {
        if (!object || !value.defined()) return;
        at::Tensor target = tensor_over(object);
        if (target.numel() == value.numel() && target.sizes() != value.sizes())
            target.copy_(value.reshape(target.sizes()));
        else
            target.copy_(value);
    }
    // For a result whose shape depends on the data: the caller made room for the largest and asks for the shape later.
    void shrink_to(const at::Tensor &value) const;
};

struct Number {
    const aclScalar *object;
    operator c10::optional<at::Scalar>() const {
        return object ? c10::optional<at::Scalar>(number(object)) : c10::nullopt;
    }
    at::Scalar operator*() const { return number(object); }
    explicit operator bool() const { return object != nullptr; }
};

struct Integers {
    const aclIntArray *object;
    operator at::IntArrayRef() const {
        return object ? at::IntArrayRef(object->values) : at::IntArrayRef();
    }
    at::IntArrayRef operator*() const { return *this; }
};

struct Floats {
    const aclFloatArray *object;
};

struct Flags {
    const aclBoolArray *object;
    bool operator[](size_t index) const { return object->values[index] != 0; }
};

struct Ins {
    const aclTensorList *object;
    std::vector<at::Tensor> operator*() const {
        std::vector<at::Tensor> tensors;
        for (const auto *tensor : object->values) tensors.push_back(tensor_over(tensor));
        return tensors;
    }
};

struct Outs {
    const aclTensorList *object;
    void operator=(const std::vector<at::Tensor> &values) const {
        for (size_t i = 0; i < values.size(); i++) Out{object->values[i]} = values[i];
    }
};

struct Numbers {
    const aclScalarList *object;
    std::vector<at::Scalar> operator*() const {
        std::vector<at::Scalar> scalars;
        for (const auto *scalar : object->values) scalars.push_back(number(scalar));
        return scalars;
    }
};

// An aclDataType, passed as an int.
struct Type {
    int value;
    operator at::ScalarType() const { return scalar_type(value); }
};

// What the contract is told of an argument.
template <class List>
Argument list_of_numbers(const List *list) {
    return {{}, list ? std::vector<double>(list->values.begin(), list->values.end()) : std::vector<double>()};
}
inline Argument describe(In in) { return {{in.object}}; }
inline Argument describe(Out out) { return {{out.object}}; }
inline Argument describe(Ins in) { return {{in.object->values.begin(), in.object->values.end()}}; }
inline Argument describe(Outs out) { return {{out.object->values.begin(), out.object->values.end()}}; }
inline Argument describe(Number number) {
    if (!number) return {};
    return {{}, {}, {number.object->type}};
}
inline Argument describe(Numbers numbers) {
    Argument argument;
    for (const auto *scalar : numbers.object->values) argument.scalar_types.push_back(scalar->type);
    return argument;
}
inline Argument describe(Integers list) { return list_of_numbers(list.object); }
inline Argument describe(Floats list) { return list_of_numbers(list.object); }
inline Argument describe(Flags list) { return list_of_numbers(list.object); }
inline Argument describe(Type type) { return {{}, {(double)type.value}}; }
inline Argument describe(const char *text) { return {{}, {}, {}, text}; }
inline Argument describe(double number) { return {{}, {number}}; }
inline Argument describe(const void *) { return {}; }  // workspace size and executor

// The first phase as torch_npu calls it: lets the contract see the arguments, whatever they are, on their way to PLAN.
template <auto PLAN>
struct Entry;
template <class... Arguments, int (*PLAN)(Arguments...)>
struct Entry<PLAN> {
    static int call(Arguments... arguments) {
        std::vector<Argument> described{describe(arguments)...};
        described.resize(described.size() - 2);
        hold_arguments(std::move(described));
        return PLAN(arguments...);
    }
};

// The two phases of an aclnn function. plan() checks the tensors that the caller has just made and keeps the body;
// execute() runs it, perhaps on another thread (TASK_QUEUE_ENABLE), and turns an exception into an error code.
int plan(const char *name, uint64_t *workspace_bytes, void **executor, std::function<void()> body);
int execute(void *executor);

}  // namespace cannsim

#define CANNSIM_LIST(...) __VA_ARGS__
#define CANNSIM_OPERATOR(NAME, PARAMETERS, CAPTURE, ...)                                                           \
    static int plan_##NAME(CANNSIM_LIST PARAMETERS, uint64_t *workspace_bytes, void **executor) {                  \
        return cannsim::plan("aclnn" #NAME, workspace_bytes, executor, CAPTURE() mutable { __VA_ARGS__; });        \
    }                                                                                                              \
    extern "C" void *entry_of_aclnn##NAME() { return (void *)cannsim::Entry<plan_##NAME>::call; }                  \
    extern "C" int aclnn##NAME##GetWorkspaceSize() __attribute__((ifunc("entry_of_aclnn" #NAME)));                 \
    extern "C" int aclnn##NAME(void *, uint64_t, void *executor, void *) { return cannsim::execute(executor); }
#define ACLNN(NAME, PARAMETERS, ...) CANNSIM_OPERATOR(NAME, PARAMETERS, [=], __VA_ARGS__)
// For a function with one text parameter: TEXT is kept as a std::string of the same name, because the caller's text may
// be gone when the body runs. Its parameter is called TEXT##_text.
#define ACLNN_TEXT(NAME, PARAMETERS, TEXT, ...) \
    CANNSIM_OPERATOR(NAME, PARAMETERS, CANNSIM_LIST([=, TEXT = std::string(TEXT##_text)]), __VA_ARGS__)

using at::Scalar;
using at::Tensor;
using cannsim::Flags;
using cannsim::Floats;
using cannsim::In;
using cannsim::Ins;
using cannsim::Integers;
using cannsim::Number;
using cannsim::Numbers;
using cannsim::Out;
using cannsim::Outs;
using cannsim::Type;
