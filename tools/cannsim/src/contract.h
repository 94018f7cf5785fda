// Judges a call of an aclnn function by what CANN says that it takes (../contract/aclnn.toml); settings are in README.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "objects.h"

namespace cannsim {

// One argument of a call: tensors (a null one is absent), or numbers, or text.
struct Argument {
    std::vector<const aclTensor *> tensors;
    std::vector<double> numbers;
    std::vector<int> scalar_types;  // aclDataType of each aclScalar
    std::string text;
};

// Keeps the arguments of the call that this thread plans next.
void hold_arguments(std::vector<Argument> arguments);

// Counts the call that was held. Returns what is wrong with it where that is an error, else "".
std::string judge(const std::string &function);

// Counts a call for which there can be no facts.
void judge_unknown(const std::string &function, uint64_t strided = 0);

}  // namespace cannsim
