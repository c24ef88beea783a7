// Reads requests and writes replies, a line of JSON each; see executor.py.
//
// The lines themselves are read as google.protobuf.Struct, so no JSON library is needed.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <iostream>
#include <memory>
#include <string>

namespace {

namespace pb = google::protobuf;

std::string Unhex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

std::string Hex(const std::string& bytes) {
  static const char kDigits[] = "0123456789abcdef";
  std::string text;
  for (unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string Json(const pb::Message& message) {
  std::string text;
  if (!pb::util::MessageToJsonString(message, &text).ok()) {
    throw std::runtime_error("cannot be written as JSON");
  }
  return text;
}

std::string Error(const std::string& what) {
  pb::Struct reply;
  (*reply.mutable_fields())["error"].set_string_value(what);
  return Json(reply);
}

// The text of the last member of a request: a Struct would read -0.0 as 0.
std::string Value(const std::string& line, const std::string& key) {
  const std::string start = "\"" + key + "\": ";
  const size_t at = line.find(start) + start.size();
  return line.substr(at, line.rfind('}') - at);
}

std::string Answer(const std::string& line) {
  pb::Struct request;
  if (!pb::util::JsonStringToMessage(line, &request).ok()) {
    return Error("no JSON");
  }
  const auto& fields = request.fields();
  const std::string& name = fields.at("message").string_value();
  const pb::Descriptor* type = pb::DescriptorPool::generated_pool()->FindMessageTypeByName(name);
  if (type == nullptr) {
    return Error("no message " + name);
  }
  std::unique_ptr<pb::Message> message(
      pb::MessageFactory::generated_factory()->GetPrototype(type)->New());
  std::string json;
  if (fields.contains("hex")) {
    if (!message->ParseFromString(Unhex(fields.at("hex").string_value()))) {
      return Error("cannot be parsed");
    }
    json = "\"json\":" + Json(*message) + ",";
  } else {
    auto status = pb::util::JsonStringToMessage(Value(line, "json"), message.get());
    if (!status.ok()) {
      return Error(std::string(status.message()));
    }
  }
  return "{" + json + "\"hex\":\"" + Hex(message->SerializeAsString()) + "\"}";
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    try {
      std::cout << Answer(line) << "\n";
    } catch (const std::exception& error) {
      std::cout << Error(error.what()) << "\n";
    }
  }
}
