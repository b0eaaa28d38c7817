// What a graph folder may hold at most, see ../FORMAT.md.
#pragma once

#include <cstddef>
#include <cstdint>

namespace roundtable {

inline constexpr std::size_t kMaxKinds = 4096;
inline constexpr std::size_t kMaxBlocks = 65536;
inline constexpr std::size_t kMaxNodes = 262144;  // of a part, and as many values
inline constexpr std::size_t kMaxParameters = 65536;
inline constexpr std::size_t kMaxTensors = 1048576;
inline constexpr std::size_t kMaxDimensions = 8;
inline constexpr std::int64_t kMaxSize = std::int64_t{1} << 40;
inline constexpr std::int64_t kMaxElements = std::int64_t{1} << 48;
inline constexpr std::size_t kMaxArguments = 64;
inline constexpr std::size_t kMaxListLength = 4096;
inline constexpr std::size_t kMaxResults = 65536;
inline constexpr std::size_t kMaxNameBytes = 512;
inline constexpr std::uint64_t kMaxConstantBytes = std::uint64_t{4} << 30;

}  // namespace roundtable
