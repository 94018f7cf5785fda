// The older operator interface (libacl_op_compiler): an operator is a name with descriptors, buffers and attributes.
// torch_npu still calls it for a few operators that have no aclnn function; legacy operators are found by name in the
// table that libopapi's static initialisers fill (aclnn/legacy.cpp).
#include "legacy_operators.h"

#include <cstring>
#include <map>

#include "acl/acl_op_compiler.h"
#include "contract.h"
#include "simulator.h"

static std::map<std::string, LegacyOperator> &table() {
    static auto &operators = *new std::map<std::string, LegacyOperator>;
    return operators;
}

void register_legacy_operator(const char *name, LegacyOperator body) { table()[name] = body; }

static aclError execute(const char *name, int input_count, const aclTensorDesc *const input_descriptors[],
                        const aclDataBuffer *const inputs[], int output_count,
                        const aclTensorDesc *const output_descriptors[], aclDataBuffer *const outputs[],
                        const aclopAttr *attributes) {
    if (int error = cannsim::refuse_while_capturing(name)) return error;
    cannsim::trace(name);
    cannsim::judge_unknown(std::string("aclop ") + name);
    auto found = table().find(name);
    if (found == table().end()) {
        cannsim::set_error("cannsim: the operator %s (aclop) is not simulated", name);
        return ACL_ERROR_OP_NOT_FOUND;
    }
    LegacyCall call{attributes};
    for (int i = 0; i < input_count; i++) call.inputs.push_back({input_descriptors[i], inputs[i]});
    for (int i = 0; i < output_count; i++) call.outputs.push_back({output_descriptors[i], outputs[i]});
    cannsim::statistics.calls++;
    return found->second(call) ? ACL_SUCCESS : ACL_ERROR_OP_NOT_FOUND;
}

extern "C" {

aclDataBuffer *aclCreateDataBuffer(void *data, size_t bytes) { return new aclDataBuffer{data, bytes}; }
aclError aclDestroyDataBuffer(const aclDataBuffer *buffer) {
    delete buffer;
    return ACL_SUCCESS;
}

aclTensorDesc *aclCreateTensorDesc(aclDataType type, int dimensions, const int64_t *sizes, aclFormat format) {
    return new aclTensorDesc{type, format, {sizes, sizes + dimensions}};
}
void aclDestroyTensorDesc(const aclTensorDesc *descriptor) { delete descriptor; }
aclDataType aclGetTensorDescType(const aclTensorDesc *descriptor) { return (aclDataType)descriptor->type; }
aclFormat aclGetTensorDescFormat(const aclTensorDesc *descriptor) { return (aclFormat)descriptor->format; }
size_t aclGetTensorDescNumDims(const aclTensorDesc *descriptor) { return descriptor->sizes.size(); }
aclError aclGetTensorDescDimV2(const aclTensorDesc *descriptor, size_t index, int64_t *size) {
    *size = descriptor->sizes[index];
    return ACL_SUCCESS;
}

aclopAttr *aclopCreateAttr() { return new aclopAttr; }
void aclopDestroyAttr(const aclopAttr *attributes) { delete attributes; }
aclError aclopSetAttrFloat(aclopAttr *attributes, const char *name, float value) {
    attributes->floats[name] = value;
    return ACL_SUCCESS;
}
aclError aclopSetAttrInt(aclopAttr *attributes, const char *name, int64_t value) {
    attributes->integers[name] = value;
    return ACL_SUCCESS;
}

aclError aclopCompileAndExecute(const char *name, int input_count, const aclTensorDesc *const input_descriptors[],
                                const aclDataBuffer *const inputs[], int output_count,
                                const aclTensorDesc *const output_descriptors[], aclDataBuffer *const outputs[],
                                const aclopAttr *attributes, aclopEngineType, aclopCompileType, const char *,
                                aclrtStream) {
    return execute(name, input_count, input_descriptors, inputs, output_count, output_descriptors, outputs, attributes);
}
aclError aclopCompileAndExecuteV2(const char *name, int input_count, aclTensorDesc *input_descriptors[],
                                  aclDataBuffer *inputs[], int output_count, aclTensorDesc *output_descriptors[],
                                  aclDataBuffer *outputs[], aclopAttr *attributes, aclopEngineType, aclopCompileType,
                                  const char *, aclrtStream) {
    return execute(name, input_count, input_descriptors, inputs, output_count, output_descriptors, outputs, attributes);
}

aclError aclSetCompileopt(aclCompileOpt, const char *) { return ACL_SUCCESS; }
// torch_npu asks whether operators are compiled at run time by default; on an Atlas A2 they are not.
static const char JIT_COMPILE[] = "disable";
size_t aclGetCompileoptSize(aclCompileOpt) { return sizeof JIT_COMPILE; }
aclError aclGetCompileopt(aclCompileOpt option, char *value, size_t length) {
    memset(value, 0, length);
    if (option == ACL_OP_JIT_COMPILE) strncpy(value, JIT_COMPILE, length);
    return ACL_SUCCESS;
}

}
