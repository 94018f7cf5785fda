// How a simulated operator of the older interface (aclop) is registered and called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

struct aclDataBuffer {
    void *data;
    size_t bytes;
};
struct aclTensorDesc {
    int type;    // aclDataType
    int format;  // aclFormat
    std::vector<int64_t> sizes;
};
struct aclopAttr {
    std::map<std::string, float> floats;
    std::map<std::string, int64_t> integers;
};

struct LegacyTensor {
    const aclTensorDesc *descriptor;
    const aclDataBuffer *buffer;
};
struct LegacyCall {
    const aclopAttr *attributes;
    std::vector<LegacyTensor> inputs, outputs;
};

using LegacyOperator = bool (*)(const LegacyCall &);  // false after set_error when it cannot be done
void register_legacy_operator(const char *name, LegacyOperator body);
