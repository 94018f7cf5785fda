// The contract with CANN: reads the facts, judges calls, counts and reports; see contract.h.
#include "contract.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>

#include "simulator.h"

namespace cannsim {
namespace {

using Words = std::vector<std::string>;
const Words RELEASES = {"8.1.RC1", "8.5.0"};  // in their order

Words split(const std::string &text) {
    std::istringstream stream(text);
    Words words;
    for (std::string word; stream >> word;) words.push_back(word);
    return words;
}
bool has(const Words &words, const std::string &word) { return std::find(words.begin(), words.end(), word) != words.end(); }
std::string join(const Words &words) {
    std::string text;
    for (const auto &word : words) text += (text.empty() ? "" : " ") + word;
    return text;
}
std::string shown(double value) {
    std::ostringstream stream;
    stream << value;
    return stream.str();
}

std::string type_name(int acl_type) {
    static const std::map<int, const char *> names = {
        {0, "FLOAT"}, {1, "FLOAT16"}, {2, "INT8"}, {3, "INT32"}, {4, "UINT8"}, {6, "INT16"}, {7, "UINT16"}, {8, "UINT32"},
        {9, "INT64"}, {10, "UINT64"}, {11, "DOUBLE"}, {12, "BOOL"}, {16, "COMPLEX64"}, {17, "COMPLEX128"}, {27, "BFLOAT16"}};
    auto found = names.find(acl_type);
    return found == names.end() ? "aclDataType " + std::to_string(acl_type) : found->second;
}

// ---- facts ----
struct Parameter {
    std::string name, kind, ranks;
    bool contiguous = false;
    Words types;
};
struct Kernels {
    std::string name, chooser;  // chooser: the parameter whose dtype chooses the AI Core kernel
    Words types;
};
struct Facts {
    std::string document, since;
    std::vector<Kernels> ai_core;
    Words undocumented, tolerated, rules;
    std::vector<Parameter> parameters;
};

void read_line(Facts &facts, const std::string &key, const std::string &value) {
    Words words = split(value);
    if (key == "document") facts.document = value;
    else if (key == "since") facts.since = value;
    else if (key == "undocumented") facts.undocumented = words;
    else if (key == "tolerated") facts.tolerated = words;
    else if (key == "note") return;
    else if (key.rfind("ai_core", 0) == 0)
        facts.ai_core.push_back({words[0], words[1], {words.begin() + 2, words.end()}});
    else if (key.rfind("rule", 0) == 0) facts.rules.push_back(value);
    else {
        Parameter parameter{key, words[0], "any"};
        size_t next = 1;
        if (words[0].rfind("tensor", 0) == 0) {
            parameter.ranks = words[next++];
            while (next < words.size() && (words[next] == "strided" || words[next] == "contiguous"))
                parameter.contiguous = words[next++] == "contiguous";
        }
        parameter.types = {words.begin() + next, words.end()};
        facts.parameters.push_back(parameter);
    }
}

// TOML of tables, comments and `key = "value"` lines.
std::map<std::string, Facts> read_facts() {
    std::map<std::string, Facts> all;
    const char *home = getenv("CANNSIM");
    std::ifstream file(std::string(home ? home : ".") + "/contract/aclnn.toml");
    Facts *current = nullptr;
    for (std::string line; std::getline(file, line);) {
        const size_t equals = line.find(" = \"");
        if (line[0] == '[') current = &all[line.substr(1, line.find(']') - 1)];
        else if (current && equals != std::string::npos)
            read_line(*current, line.substr(0, equals), line.substr(equals + 4, line.rfind('"') - equals - 4));
    }
    return all;
}
const std::map<std::string, Facts> &facts() {
    static const auto &all = *new std::map<std::string, Facts>(read_facts());
    return all;
}

// ---- judgement of one call ----
int64_t elements(const aclTensor &tensor) {
    int64_t count = 1;
    for (int64_t size : tensor.sizes) count *= size;
    return count;
}
bool strided(const aclTensor &tensor) {
    int64_t expected = 1;
    for (size_t i = tensor.sizes.size(); i-- > 0;) {
        if (tensor.sizes[i] != 1 && tensor.strides[i] != expected) return true;
        expected *= tensor.sizes[i];
    }
    return false;
}
// Operands that CANN makes contiguous before (or after) the work. A copy takes strides as they are, and so do matrix
// products where the last two axes are swapped.
uint64_t strided_operands(const std::string &function, const std::vector<Argument> &arguments) {
    static const Words products = {"aclnnMm", "aclnnMatmul", "aclnnBatchMatMul", "aclnnAddmm", "aclnnBaddbmm"};
    if (function == "aclnnInplaceCopy") return 0;
    uint64_t count = 0;
    for (const auto &argument : arguments)
        for (const aclTensor *tensor : argument.tensors) {
            if (!tensor || !elements(*tensor) || !strided(*tensor)) continue;
            aclTensor swapped = *tensor;
            const size_t rank = swapped.sizes.size();
            if (rank >= 2 && has(products, function)) {
                std::swap(swapped.sizes[rank - 1], swapped.sizes[rank - 2]);
                std::swap(swapped.strides[rank - 1], swapped.strides[rank - 2]);
            }
            count += strided(swapped);
        }
    return count;
}
bool allows_rank(const std::string &ranks, int rank) {
    if (ranks == "any") return true;
    if (ranks.size() == 3 && ranks[1] == '-') return rank >= ranks[0] - '0' && rank <= ranks[2] - '0';
    return ranks.find(std::to_string(rank)) != std::string::npos;
}

struct Call {
    const Facts &facts;
    const std::vector<Argument> &arguments;

    const Argument *find(const std::string &name) const {
        for (size_t i = 0; i < facts.parameters.size(); i++)
            if (facts.parameters[i].name == name) return &arguments[i];
        return nullptr;
    }
    // Sizes of a tensor, or the numbers of an array; nothing for an absent one.
    std::optional<std::vector<double>> sizes(const std::string &name) const {
        const Argument *argument = find(name);
        if (!argument) return {};
        if (argument->tensors.empty()) return argument->numbers;
        if (!argument->tensors[0]) return {};
        return std::vector<double>(argument->tensors[0]->sizes.begin(), argument->tensors[0]->sizes.end());
    }
    // "8", "groups", "query[3]", "self.rank", "mask.elements"
    std::optional<double> value(const std::string &word) const {
        if (isdigit(word[0])) return atof(word.c_str());
        const size_t end = word.find_first_of("[.");
        const auto found = sizes(word.substr(0, end));
        if (!found) return {};
        if (word.find(".rank") != std::string::npos) return found->size();
        if (word.find(".elements") != std::string::npos) {
            double count = 1;
            for (double size : *found) count *= size;
            return count;
        }
        const size_t index = end == std::string::npos ? 0 : atoi(word.c_str() + end + 1);
        return index < found->size() ? std::optional<double>((*found)[index]) : std::nullopt;
    }
    // words[from, to): values joined by * and /
    std::optional<double> product(const Words &words, size_t from, size_t to) const {
        auto result = value(words[from]);
        for (size_t i = from + 1; result && i + 1 < to; i += 2) {
            auto next = value(words[i + 1]);
            if (!next) return {};
            result = words[i] == "*" ? *result * *next : *result / *next;
        }
        return result;
    }
    std::string text(const std::string &name) const {
        const Argument *argument = find(name);
        if (!argument) return "";
        return argument->numbers.empty() ? argument->text : shown(argument->numbers[0]);
    }
    std::string shape_text(const std::string &name) const {
        std::string result;
        const auto values = sizes(name);
        for (double size : *values) result += (result.empty() ? "" : ",") + shown(size);
        return "[" + result + "]";
    }

    // "" when the rule holds, else the value that breaks it.
    std::string broken(const std::string &rule) const {
        Words words = split(rule);
        const size_t colon = std::find_if(words.begin(), words.end(), [](auto &word) { return word.back() == ':'; }) - words.begin();
        if (colon < words.size()) {
            for (size_t i = 0; i <= colon; i++) {
                std::string condition = words[i];
                if (condition.back() == ':') condition.pop_back();
                const size_t equals = condition.find('=');
                if (text(condition.substr(0, equals)) != condition.substr(equals + 1)) return "";
            }
            words.erase(words.begin(), words.begin() + colon + 1);
        }
        static const Words operators = {"in", "shape", "tail", "==", "<=", ">=", "<", ">", "%"};
        const size_t at = std::find_if(words.begin(), words.end(), [](auto &word) { return has(operators, word); }) - words.begin();
        const std::string &name = words[0], &op = words[at];
        if (op == "in") {
            const std::string seen = text(name);
            return has({words.begin() + at + 1, words.end()}, seen) ? "" : name + " is " + seen;
        }
        if (op == "shape" || op == "tail") {
            const auto seen = sizes(name);
            if (!seen) return "";
            if (op == "tail") {
                const auto whole = sizes(words[at + 1]);
                const bool holds = !whole || (seen->size() <= whole->size() &&
                                              std::equal(seen->begin(), seen->end(), whole->end() - seen->size()));
                return holds ? "" : name + " is " + shape_text(name) + ", " + words[at + 1] + " " + shape_text(words[at + 1]);
            }
            for (size_t i = at + 1; i < words.size(); i += 2) {  // forms, with "|" between them
                std::vector<double> form;
                std::istringstream stream(words[i]);
                for (std::string word; std::getline(stream, word, ',');) form.push_back(value(word).value_or(-1));
                if (form == *seen) return "";
            }
            return name + " is " + shape_text(name);
        }
        const auto left = product(words, 0, at), right = product(words, at + 1, words.size());
        if (!left || !right) return "";
        const bool holds = op == "==" ? *left == *right : op == "<=" ? *left <= *right : op == ">=" ? *left >= *right
                         : op == "<" ? *left < *right : op == ">" ? *left > *right
                         : *right != 0 && (int64_t)*left % (int64_t)*right == 0;
        return holds ? "" : join({words.begin(), words.begin() + at}) + " is " + shown(*left);
    }

    std::string outside() const {
        if (arguments.size() != facts.parameters.size())
            return "the call has " + std::to_string(arguments.size()) + " arguments, the facts " +
                   std::to_string(facts.parameters.size());
        for (size_t i = 0; i < arguments.size(); i++) {
            const Parameter &parameter = facts.parameters[i];
            auto wrong = [&](const std::string &seen, const std::string &allowed) {
                return parameter.name + " " + seen + ", allowed: " + allowed;
            };
            for (const aclTensor *tensor : arguments[i].tensors) {
                // an empty tensor of a list stands for an absent one, of any dtype
                if (!tensor || (parameter.kind == "tensors" && !elements(*tensor))) continue;
                const std::string type = type_name(tensor->type);
                if (!parameter.types.empty() && !has(parameter.types, type)) return wrong("is " + type, join(parameter.types));
                if (!allows_rank(parameter.ranks, tensor->sizes.size()))
                    return wrong("has rank " + std::to_string(tensor->sizes.size()), parameter.ranks);
                if (parameter.contiguous && elements(*tensor) && strided(*tensor)) return wrong("is strided", "contiguous");
            }
            for (int type : arguments[i].scalar_types)
                if (!parameter.types.empty() && !has(parameter.types, type_name(type)))
                    return wrong("is " + type_name(type), join(parameter.types));
        }
        for (const auto &rule : facts.rules) {
            const std::string seen = broken(rule);
            if (!seen.empty()) return seen + ", allowed: " + rule;
        }
        return "";
    }

    // The kernels that there are not for a tensor's dtype; that dtype.
    const Kernels *without_kernel(std::string &type) const {
        for (const Kernels &kernels : facts.ai_core)
            if (const Argument *argument = find(kernels.chooser))
                for (const aclTensor *tensor : argument->tensors)
                    if (tensor && elements(*tensor) && !has(kernels.types, type = type_name(tensor->type))) return &kernels;
        return nullptr;
    }
    bool undocumented(const std::string &release) const {
        if (facts.undocumented.empty() || facts.undocumented[0] != release) return false;
        for (const auto &argument : arguments)
            for (const aclTensor *tensor : argument.tensors)
                if (tensor && has(facts.undocumented, type_name(tensor->type))) return true;
        return false;
    }
};

// ---- counts and reports ----
enum { CALLS, STRIDED, OUTSIDE, AI_CPU, UNDOCUMENTED, UNKNOWN, COUNTS };
const char *const NAMES[COUNTS] = {"calls", "strided", "outside", "ai_cpu", "undocumented", "unknown"};
struct Tally {
    uint64_t counts[COUNTS] = {};
    std::string first;  // what was wrong first
};

std::mutex &mutex = *new std::mutex;
auto &tallies = *new std::map<std::string, std::map<std::string, Tally>>;  // by release and function
std::string &mode = *new std::string, &release = *new std::string;

std::string json() {
    std::string text = "{";
    for (const auto &[of, functions] : tallies) {
        text += (text.size() > 1 ? ", \"" : "\"") + of + "\": {";
        std::string inner;
        for (const auto &[name, tally] : functions) {
            inner += (inner.empty() ? "\"" : ", \"") + name + "\": {";
            for (int i = 0; i < COUNTS; i++) inner += "\"" + std::string(NAMES[i]) + "\": " + std::to_string(tally.counts[i]) + ", ";
            inner += "\"first\": \"" + tally.first + "\"}";
        }
        text += inner + "}";
    }
    return text + "}";
}

void report() {
    std::lock_guard<std::mutex> lock(mutex);
    if (const char *path = getenv("CANNSIM_CONTRACT_JSON")) std::ofstream(path, std::ios::app) << json() + "\n";
    if (mode != "report") return;
    std::ostringstream table;
    uint64_t totals[COUNTS] = {};
    const auto row = [&](const uint64_t *counts, const std::string &name) {
        for (int i = 0; i < COUNTS; i++) {
            table.width(13);
            table << counts[i];
        }
        table << "  " << name << "\n";
    };
    table << "[cannsim] calls judged by the contract of CANN " << release << "\n";
    for (const char *name : NAMES) {
        table.width(13);
        table << name;
    }
    table << "  function\n";
    for (const auto &[name, tally] : tallies[release]) {
        for (int i = 0; i < COUNTS; i++) totals[i] += tally.counts[i];
        row(tally.counts, name + (tally.first.empty() ? "" : ": " + tally.first));
    }
    row(totals, std::to_string(tallies[release].size()) + " functions");
    fputs(table.str().c_str(), stderr);
}

void begin() {
    static std::once_flag once;
    std::call_once(once, [] {
        const char *wanted = getenv("CANNSIM_CONTRACT"), *cann = getenv("CANNSIM_CANN");
        mode = wanted ? wanted : "off";
        release = cann ? cann : RELEASES.back();
        if (!has({"off", "report", "strict"}, mode) || !has(RELEASES, release)) {
            fprintf(stderr, "error: CANNSIM_CONTRACT=%s CANNSIM_CANN=%s: off, report or strict, and %s\n", mode.c_str(),
                    release.c_str(), join(RELEASES).c_str());
            exit(2);
        }
        if (facts().empty() && mode != "off") {
            fprintf(stderr, "error: no facts in %s/contract/aclnn.toml\n", getenv("CANNSIM"));
            exit(2);
        }
        if (mode != "off") atexit(report);
    });
}

thread_local std::vector<Argument> held;

bool judging() {
    begin();
    return mode != "off";
}

}  // namespace

void hold_arguments(std::vector<Argument> arguments) { held = std::move(arguments); }

void judge_unknown(const std::string &function, uint64_t strided) {
    if (!judging()) return;
    std::lock_guard<std::mutex> lock(mutex);
    for (const auto &of : RELEASES) {
        tallies[of][function].counts[CALLS]++;
        tallies[of][function].counts[STRIDED] += strided;
        tallies[of][function].counts[UNKNOWN]++;
    }
}

std::string judge(const std::string &function) {
    const uint64_t strided = strided_operands(function, held);
    statistics.strided += strided;
    if (!judging()) return "";
    const auto found = facts().find(function);
    if (found == facts().end()) {
        judge_unknown(function, strided);
        return "";
    }
    const Facts &known = found->second;
    const Call call{known, held};
    const std::string outside = call.outside();
    std::string type, error;
    const Kernels *ai_cpu = call.without_kernel(type);
    std::lock_guard<std::mutex> lock(mutex);
    for (const auto &of : RELEASES) {
        Tally &tally = tallies[of][function];
        tally.counts[CALLS]++;
        tally.counts[STRIDED] += strided;
        if (call.undocumented(of)) tally.counts[UNDOCUMENTED]++;
        std::string wrong;
        int kind = OUTSIDE;
        if (known.since == RELEASES.back() && of != RELEASES.back())
            wrong = "is not in CANN " + of + ", since: " + known.since;
        else if (!outside.empty()) wrong = outside;
        else if (ai_cpu) {
            kind = AI_CPU;
            wrong = ai_cpu->chooser + " is " + type + " and goes to the AI CPU; " + ai_cpu->name +
                    " has AI Core kernels for: " + join(ai_cpu->types);
        }
        if (wrong.empty()) continue;
        tally.counts[kind]++;
        if (tally.first.empty()) tally.first = wrong;
        if (of == release && mode == "strict" && !(kind == AI_CPU && has(known.tolerated, type)))
            error = wrong + " (" + known.document + ")";
    }
    return error;
}

}  // namespace cannsim

// For the tests (ctypes): the counts since the last call as JSON, then another mode and release where given.
extern "C" const char *cannsim_contract(const char *mode, const char *release) {
    static thread_local std::string text;
    cannsim::begin();
    std::lock_guard<std::mutex> lock(cannsim::mutex);
    text = cannsim::json();
    cannsim::tallies.clear();
    if (mode) cannsim::mode = mode;
    if (release) cannsim::release = release;
    return text.c_str();
}
