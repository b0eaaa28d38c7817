// The safetensors reader against each kind of bad file, and the writer against the reader. reference_test.py holds
// both against the reference.
#include "io/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cstring>
#include <iterator>
#include <optional>
#include <thread>

#include "base/hash.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::StartsWith;

// A file with this header and so many bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  file += header;
  for (std::size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

SafetensorsFile open_bytes(const std::string& bytes) {
  const TemporaryFolder folder;
  return SafetensorsFile(folder.put("x.safetensors", bytes));
}

SafetensorsFile open_header(const std::string& header, std::size_t data_bytes = 0) {
  return open_bytes(file_of(header, data_bytes));
}

std::string entry(const std::string& name, const std::string& type, const std::string& shape,
                  const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, type, shape, offsets);
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const TemporaryFolder folder;
  const std::string header = R"({"__metadata__":{"format":"pt"},)" + entry("b", "F32", "[1,2]", "[0,8]") + "," +
                             entry("a", "I16", "[]", "[8,10]") + "," + entry("empty", "U8", "[0,7]", "[10,10]") + "}  ";
  const SafetensorsFile file(folder.put("x.safetensors", file_of(header, 10)));
  EXPECT_THAT(file.metadata(), ElementsAre(Pair("format", "pt")));
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors().begin()->first, "a");
  const TensorInfo* a = file.find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->type, ElementType::kI16);
  EXPECT_THAT(a->shape, IsEmpty());
  EXPECT_EQ(a->element_count(), 1);
  EXPECT_EQ(a->offset, 8 + header.size() + 8);
  std::int16_t value = 0;
  file.read(*a, &value);
  EXPECT_EQ(value, 0x0908);
  EXPECT_EQ(file.find("b")->element_count(), 2);
  EXPECT_EQ(file.find("empty")->element_count(), 0);
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST(Safetensors, ReadsAFileWithoutTensors) { EXPECT_THAT(open_header("{}").tensors(), IsEmpty()); }

TEST(Safetensors, RefusesAFileOfLessThanEightBytes) {
  EXPECT_BAD_INPUT(open_bytes("1234567"), HasSubstr("x.safetensors: holds 7 bytes, too few"));
  EXPECT_BAD_INPUT(open_bytes(""), HasSubstr("holds 0 bytes"));
}

TEST(Safetensors, RefusesAHeaderLongerThanTheFile) {
  EXPECT_BAD_INPUT(open_bytes(file_of("{}", 0).substr(0, 9)), HasSubstr("claims a header of 2 bytes, and 1 follow"));
}

TEST(Safetensors, RefusesAHeaderBeyondTheLimit) {
  EXPECT_BAD_INPUT(open_bytes(std::string(16, '\xff')), HasSubstr("claims a header of 18446744073709551615 bytes"));
  EXPECT_BAD_INPUT(open_bytes(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10)), HasSubstr("at most 100000000"));
}

TEST(Safetensors, RefusesAHeaderThatIsNoJson) {
  EXPECT_BAD_INPUT(open_header("{\"a\":"), HasSubstr("the header is not valid JSON at its byte"));
  EXPECT_BAD_INPUT(open_header("{}}"), HasSubstr("not valid JSON"));
  EXPECT_BAD_INPUT(open_header("{\"\xff\":1}"), HasSubstr("not valid JSON"));
  EXPECT_BAD_INPUT(open_header(""), HasSubstr("does not begin with '{'"));
  EXPECT_BAD_INPUT(open_header(" {}"), HasSubstr("does not begin with '{'"));
}

TEST(Safetensors, RefusesAHeaderThatIsNoObject) {
  EXPECT_BAD_INPUT(open_header("[]"), HasSubstr("does not begin with '{'"));
  EXPECT_BAD_INPUT(open_header("{\"a\":[]}"), HasSubstr("tensor 'a': must be an object, not a list"));
  EXPECT_BAD_INPUT(open_header("{\"a\":null}"), HasSubstr("tensor 'a': must be an object, not null"));
  EXPECT_BAD_INPUT(open_header("{\"a\":1}"), HasSubstr("tensor 'a': must be an object, not 1"));
}

TEST(Safetensors, RefusesDeepNesting) {
  EXPECT_BAD_INPUT(open_header("{\"a\":" + std::string(1000000, '[')), HasSubstr("must be an object"));
  std::string nested = "{";
  for (int i = 0; i < 1000; ++i) nested += "\"a\":{";
  EXPECT_BAD_INPUT(open_header(nested), HasSubstr("unknown field"));
  EXPECT_BAD_INPUT(open_header(R"({"a":{"shape":[[1]]}})"), HasSubstr("shape must be a list of integers"));
  EXPECT_BAD_INPUT(open_header(R"({"a":{"shape":{"x":1}}})"), HasSubstr("shape must be a list of integers"));
}

TEST(Safetensors, RefusesANameThatOccursTwice) {
  EXPECT_BAD_INPUT(
      open_header("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("a", "U8", "[1]", "[1,2]") + "}", 2),
      HasSubstr("x.safetensors: tensor 'a': occurs twice"));
  EXPECT_BAD_INPUT(open_header(R"({"__metadata__":{},"__metadata__":{}})"), HasSubstr("__metadata__: occurs twice"));
}

TEST(Safetensors, RefusesFieldsThatAreUnknownTwiceOrMissing) {
  EXPECT_BAD_INPUT(open_header(R"({"a":{"dtype":"U8","shape":[0]}})"), HasSubstr("data_offsets is missing"));
  EXPECT_BAD_INPUT(open_header(R"({"a":{"dtype":"U8","data_offsets":[0,0]}})"), HasSubstr("shape is missing"));
  EXPECT_BAD_INPUT(open_header(R"({"a":{"shape":[0],"data_offsets":[0,0]}})"), HasSubstr("dtype is missing"));
  EXPECT_BAD_INPUT(open_header(R"({"a":{"dtype":"U8","dtype":"U8"}})"), HasSubstr("field 'dtype' occurs twice"));
  EXPECT_BAD_INPUT(open_header(R"({"a":{"stride":[1]}})"), HasSubstr("unknown field 'stride'"));
  EXPECT_BAD_INPUT(open_header(R"({"a":{"dtype":8}})"), HasSubstr("dtype must be a string, not 8"));
  EXPECT_BAD_INPUT(open_header(R"({"a":{"shape":"8"}})"), HasSubstr("shape must be a list of integers, not \"8\""));
}

TEST(Safetensors, NamesATypeThatIsNotSupported) {
  for (const char* type : {"F8_E5M2", "F4", "U16", "U32", "U64", "C64", "float32", ""}) {
    const std::string header = fmt::format("{{{}}}", entry("a", type, "[0]", "[0,0]"));
    EXPECT_BAD_INPUT(open_header(header),
                     HasSubstr(fmt::format("tensor 'a': dtype {} is not supported; convert", type)));
  }
}

TEST(Safetensors, RefusesBadDimensions) {
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[-1]", "[0,1]") + "}"), HasSubstr("shape holds -1"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[1.5]", "[0,1]") + "}"), HasSubstr("shape holds 1.5"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[1e3]", "[0,1]") + "}"), HasSubstr("shape holds 1e3"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[9223372036854775808]", "[0,1]") + "}"),
                   HasSubstr("shape holds 9223372036854775808, which is too big"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[99999999999999999999]", "[0,1]") + "}"),
                   HasSubstr("shape holds 99999999999999999999"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[\"1\"]", "[0,1]") + "}"), HasSubstr("holds \"1\""));
  std::string many = "1";
  for (int i = 0; i < 64; ++i) many += ",1";
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[" + many + "]", "[0,1]") + "}"), HasSubstr("more than 64"));
}

TEST(Safetensors, RefusesAShapeWhoseProductOverflows) {
  // 2^32 * 2^32 is 0 in 64 bits, which would agree with an empty tensor.
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[4294967296,4294967296]", "[0,0]") + "}"),
                   HasSubstr("tensor 'a': the shape overflows"));
  // Only the product with the size of an element overflows.
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "F32", "[4611686018427387904]", "[0,0]") + "}"),
                   HasSubstr("the shape overflows"));
}

TEST(Safetensors, RefusesAShapeThatDisagreesWithItsBytes) {
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "F32", "[2,3]", "[0,20]") + "}", 20),
                   HasSubstr("tensor 'a': shape [2, 3] of F32 takes 24 bytes, and data_offsets give 20"));
}

TEST(Safetensors, RefusesBadOffsets) {
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[1]", "[1,0]") + "}", 1), HasSubstr("reversed: [1, 0]"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[1]", "[0]") + "}", 1), HasSubstr("holds 1 numbers, not 2"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[1]", "[0,1,2]") + "}", 1), HasSubstr("holds 3 numbers"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[1]", "[-1,0]") + "}", 1), HasSubstr("data_offsets holds -1"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[1]", "[0.5,1]") + "}", 1), HasSubstr("data_offsets holds 0.5"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[1]", "[0,null]") + "}", 1), HasSubstr("holds null"));
}

TEST(Safetensors, RefusesOffsetsBeyondTheFile) {
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[9]", "[0,9]") + "}", 8),
                   HasSubstr("tensor 'a': data_offsets [0, 9] reach beyond the 8 bytes of data in the file"));
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[1]", "[18446744073709551614,18446744073709551615]") + "}", 8),
                   HasSubstr("reach beyond"));
}

TEST(Safetensors, RefusesTensorsThatOverlap) {
  EXPECT_BAD_INPUT(
      open_header("{" + entry("a", "U8", "[4]", "[0,4]") + "," + entry("b", "U8", "[4]", "[3,7]") + "}", 7),
      HasSubstr("tensor 'b': its data overlaps that of tensor 'a'"));
  EXPECT_BAD_INPUT(
      open_header("{" + entry("a", "U8", "[4]", "[0,4]") + "," + entry("b", "U8", "[4]", "[0,4]") + "}", 4),
      HasSubstr("overlaps"));
}

TEST(Safetensors, RefusesHoles) {
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[4]", "[2,6]") + "}", 6),
                   HasSubstr("tensor 'a': a hole of 2 bytes lies in front"));
  EXPECT_BAD_INPUT(
      open_header("{" + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[4,6]") + "}", 6),
      HasSubstr("tensor 'b': a hole of 2 bytes"));
}

TEST(Safetensors, RefusesTrailingBytes) {
  EXPECT_BAD_INPUT(open_header("{" + entry("a", "U8", "[4]", "[0,4]") + "}", 5), HasSubstr("1 bytes after the last"));
  EXPECT_BAD_INPUT(open_header("{}", 3), HasSubstr("3 bytes after the last"));
}

TEST(Safetensors, RefusesMetadataOtherThanStrings) {
  EXPECT_BAD_INPUT(open_header(R"({"__metadata__":{"a":1}})"), HasSubstr("__metadata__: 'a' must be a string, not 1"));
  EXPECT_BAD_INPUT(open_header(R"({"__metadata__":{"a":{}}})"), HasSubstr("'a' must be a string, not an object"));
  EXPECT_BAD_INPUT(open_header(R"({"__metadata__":{"a":"b","a":"c"}})"), HasSubstr("'a' occurs twice"));
  EXPECT_BAD_INPUT(open_header(R"({"__metadata__":"a"})"), HasSubstr("__metadata__: must be an object"));
}

TEST(Safetensors, KeepsNamesOnOneLine) {
  EXPECT_BAD_INPUT(open_header(R"({"a\nb":1})"), HasSubstr(R"(tensor 'a\x0ab')"));
  EXPECT_BAD_INPUT(open_header(R"({"a\u0000b":{}})"), HasSubstr("null character"));
}

TEST(Safetensors, ServesThreadsAtOnce) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/x.safetensors";
  std::vector<std::int32_t> a(100000), b(100000);
  for (int i = 0; i < 100000; ++i) a[i] = i, b[i] = -i;
  write_safetensors(path, {{"a", ElementType::kI32, {100000}, a.data()}, {"b", ElementType::kI32, {100000}, b.data()}});
  const SafetensorsFile file(path);
  const auto check = [&file](const char* name, const std::vector<std::int32_t>& expected) {
    for (int i = 0; i < 50; ++i) {
      std::vector<std::int32_t> read(expected.size());
      file.read(*file.find(name), read.data());
      EXPECT_TRUE(read == expected);
    }
  };
  std::thread other(check, "b", std::cref(b));
  check("a", a);
  other.join();
}

TEST(WriteSafetensors, WritesTheReferencesBytes) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/x.safetensors";
  const std::string bytes = "abcdefgh";
  const WrittenFile written = write_safetensors(path,
                                                {{"z", ElementType::kU8, {3}, bytes.data()},
                                                 {"c", ElementType::kF32, {}, bytes.data()},
                                                 {"b", ElementType::kI64, {1, 1}, bytes.data()},
                                                 {"a", ElementType::kF32, {0, 4}, nullptr}},
                                                {{"format", "pt"}});
  std::string header = R"({"__metadata__":{"format":"pt"},)" + entry("b", "I64", "[1,1]", "[0,8]") + "," +
                       entry("a", "F32", "[0,4]", "[8,8]") + "," + entry("c", "F32", "[]", "[8,12]") + "," +
                       entry("z", "U8", "[3]", "[12,15]") + "}";
  while (header.size() % 8 != 0) header += ' ';
  const std::string content = content_of(path);
  EXPECT_EQ(content, file_of(header, 0) + "abcdefgh" + "abcd" + "abc");
  EXPECT_EQ(written.bytes, content.size());
  EXPECT_EQ(written.digest, hash_file(path));
}

TEST(WriteSafetensors, RoundTripsEveryTypeAligned) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/x.safetensors";
  std::string data(3 * 8, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(37 * i);
  std::vector<TensorView> views;
  for (const ElementType type :
       {ElementType::kBool, ElementType::kU8, ElementType::kI8, ElementType::kI16, ElementType::kF16,
        ElementType::kBF16, ElementType::kI32, ElementType::kF32, ElementType::kF64, ElementType::kI64}) {
    views.push_back({fmt::format("t.{}", safetensors_dtype(type)), type, {3, 1}, data.data()});
  }
  write_safetensors(path, views);
  const SafetensorsFile file(path);
  ASSERT_EQ(file.tensors().size(), views.size());
  for (const TensorView& view : views) {
    const TensorInfo* info = file.find(view.name);
    ASSERT_NE(info, nullptr);
    EXPECT_EQ(info->type, view.type);
    EXPECT_EQ(info->shape, view.shape);
    EXPECT_EQ(info->offset % size_of(info->type), 0u);
    std::string read(info->bytes, '\0');
    file.read(*info, read.data());
    EXPECT_EQ(read, data.substr(0, info->bytes));
  }
}

TEST(WriteSafetensors, DoesNotDependOnTheOrderGiven) {
  const TemporaryFolder folder;
  const std::string bytes = "abcdefgh";
  const TensorView a{"a", ElementType::kI32, {1}, bytes.data()}, b{"b", ElementType::kU8, {8}, bytes.data()};
  EXPECT_EQ(write_safetensors(folder.path() + "/1", {a, b}).digest,
            write_safetensors(folder.path() + "/2", {b, a}).digest);
}

TEST(WriteSafetensors, KeepsOddNamesAndMetadata) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/x.safetensors";
  const std::string name = "quote\" back\\slash new\nline ü";
  write_safetensors(path, {{name, ElementType::kU8, {1}, "x"}}, {{"k\"", "v\n"}});
  const SafetensorsFile file(path);
  EXPECT_NE(file.find(name), nullptr);
  EXPECT_THAT(file.metadata(), ElementsAre(Pair("k\"", "v\n")));
}

TEST(WriteSafetensors, CallsDuplicatesOurBug) {
  const TemporaryFolder folder;
  const TensorView a{"a", ElementType::kU8, {1}, "x"};
  EXPECT_THROW(write_safetensors(folder.path() + "/x", {a, a}), std::logic_error);
  EXPECT_THAT(folder.names(), IsEmpty());
}

// Written out from the format's own source, safetensors 0.6, src/tensor.rs: Dtype's names, and its bitsize().
TEST(SafetensorsDtype, NamesEveryType) {
  const struct {
    ElementType type;
    const char* name;
    std::size_t bytes;
  } kSpecification[] = {
      {ElementType::kBool, "BOOL", 1},      {ElementType::kU8, "U8", 1},   {ElementType::kI8, "I8", 1},
      {ElementType::kF8E4M3, "F8_E4M3", 1}, {ElementType::kI16, "I16", 2}, {ElementType::kF16, "F16", 2},
      {ElementType::kBF16, "BF16", 2},      {ElementType::kI32, "I32", 4}, {ElementType::kF32, "F32", 4},
      {ElementType::kF64, "F64", 8},        {ElementType::kI64, "I64", 8},
  };
  for (const auto& [type, name, bytes] : kSpecification) {
    EXPECT_EQ(safetensors_dtype(type), name);
    EXPECT_EQ(parse_safetensors_dtype(name), type) << name;
    EXPECT_EQ(size_of(type), bytes) << name;
  }
  EXPECT_EQ(std::size(kSpecification), static_cast<std::size_t>(ElementType::kF8E4M3) + 1);  // the last one
  EXPECT_EQ(parse_safetensors_dtype("F8_E5M2"), std::nullopt);
}

}  // namespace
}  // namespace roundtable
