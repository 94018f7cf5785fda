// The opaque objects of CANN's operator interface (aclTensor and its kin), as this simulator fills them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct aclTensor {
    int type;  // aclDataType
    std::vector<int64_t> sizes, strides;
    int64_t offset;  // elements from the start of `data`
    void *data;
};

struct aclScalar {
    int type;            // aclDataType
    uint8_t value[16];
};

struct aclIntArray {
    std::vector<int64_t> values;
};
struct aclBoolArray {
    std::vector<uint8_t> values;
};
struct aclFloatArray {
    std::vector<float> values;
};
struct aclTensorList {
    std::vector<aclTensor *> values;
};
struct aclScalarList {
    std::vector<aclScalar *> values;
};

// What the tensors that were created since the last operator on this thread show to be wrong or slow. torch_npu
// creates an operator's tensors right before it calls the operator's GetWorkspaceSize.
struct TensorFindings {
    bool float64 = false;
    std::string problem;  // empty, or: a pointer to host memory or to another device
};
TensorFindings take_tensor_findings();
