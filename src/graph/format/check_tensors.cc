// Coverage of parameters by strided views, exactly and without a table of all elements.
//
// A parameter of N elements is read as rows of M elements, where M is the widest stride of any view. A view with that
// stride is the same small view in each of its rows; the others lie in one row or are runs of whole rows and parts. So
// the rows fall into intervals with the same small views, and each interval asks the same question of M elements.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "graph/format/checks.h"
#include "graph/format/strict_json.h"

namespace roundtable {
namespace {

struct Dimension {
  std::int64_t size, stride;
};

// Elements at offset + sum(i * stride), 0 <= i < size. Dimensions go from the widest stride to the narrowest; sizes are
// at least 2, and no two dimensions are one.
struct Box {
  std::int64_t offset = 0;
  std::vector<Dimension> dimensions;

  std::int64_t stride() const { return dimensions.empty() ? 0 : dimensions.front().stride; }
  std::int64_t end() const {  // one past the last element
    std::int64_t end = offset + 1;
    for (const auto& [size, stride] : dimensions) end += (size - 1) * stride;
    return end;
  }
  std::int64_t elements() const {
    std::int64_t n = 1;
    for (const auto& [size, stride] : dimensions) n *= size;
    return n;
  }
  bool is_run() const { return dimensions.size() <= 1 && stride() <= 1; }
};

Box box_of(const DiskTensor& tensor) {
  std::vector<Dimension> sorted;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (tensor.shape[i] > 1) sorted.push_back({tensor.shape[i], tensor.stride[i]});
  }
  std::sort(sorted.begin(), sorted.end(), [](const Dimension& a, const Dimension& b) { return a.stride > b.stride; });
  Box box{tensor.offset, {}};
  for (const Dimension& next : sorted) {
    if (!box.dimensions.empty() && box.dimensions.back().stride == next.size * next.stride) {
      box.dimensions.back() = {box.dimensions.back().size * next.size, next.stride};
    } else {
      box.dimensions.push_back(next);
    }
  }
  return box;
}

// What lies in rows [first, last), the same in each.
struct Rows {
  std::int64_t first, last;
  Box box;
};

class Tiling {
 public:
  // Whether the boxes cover [0, n), each element once.
  bool covers(const std::vector<Box>& boxes, std::int64_t n) {
    std::int64_t elements = 0;
    std::int64_t row = 0;
    for (const Box& box : boxes) {
      elements += box.elements();  // less than 2^48 each, and each costs work
      row = std::max(row, box.stride());
      if (++work_ > kMostWork || elements > n || box.end() > n) return false;
    }
    if (elements != n) return false;
    return row <= 1 ? runs_cover(boxes, n) : rows_cover(boxes, row, n);
  }

 private:
  static constexpr std::int64_t kMostWork = std::int64_t{1} << 25;  // a hostile file asks for more

  static bool runs_cover(std::vector<Box> runs, std::int64_t n) {
    std::sort(runs.begin(), runs.end(), [](const Box& a, const Box& b) { return a.offset < b.offset; });
    std::int64_t end = 0;
    for (const Box& run : runs) {
      if (run.offset != end || !run.is_run()) return false;
      end = run.end();
    }
    return end == n;
  }

  // Splits a box at the ends of rows. False where no row holds a part of it as a box.
  static bool split(const Box& box, std::int64_t row, std::vector<Rows>& rows) {
    const std::int64_t first = box.offset / row;
    if (box.stride() == row) {
      Box inner{box.offset % row, {box.dimensions.begin() + 1, box.dimensions.end()}};
      if (inner.end() > row) return false;
      rows.push_back({first, first + box.dimensions.front().size, std::move(inner)});
      return true;
    }
    const std::int64_t end = box.end();
    if ((end - 1) / row == first) {
      rows.push_back({first, first + 1, {box.offset % row, box.dimensions}});
      return true;
    }
    if (!box.is_run()) return false;
    const auto run = [](std::int64_t offset, std::int64_t size) {
      return size == 1 ? Box{offset, {}} : Box{offset, {{size, 1}}};
    };
    const std::int64_t head = box.offset % row;
    if (head > 0) rows.push_back({first, first + 1, run(head, row - head)});
    const std::int64_t whole = first + (head > 0 ? 1 : 0);
    if (end / row > whole) rows.push_back({whole, end / row, run(0, row)});
    if (end % row > 0) rows.push_back({end / row, end / row + 1, run(0, end % row)});
    return true;
  }

  bool rows_cover(const std::vector<Box>& boxes, std::int64_t row, std::int64_t n) {
    std::vector<Rows> all;
    for (const Box& box : boxes) {
      if (!split(box, row, all)) return false;
    }
    // Where an interval of equal rows begins: the places at which any Rows begin or end.
    std::map<std::int64_t, std::vector<std::size_t>> begins;
    for (std::size_t i = 0; i < all.size(); ++i) {
      begins[all[i].first].push_back(i);
      begins[all[i].last];
    }
    std::int64_t at = 0;
    std::vector<std::size_t> active;
    for (const auto& [first, starting] : begins) {
      if (!interval_covers(all, active, row, std::min(row, n - at * row), at, first)) return false;
      at = first;
      std::erase_if(active, [&](std::size_t i) { return all[i].last <= at; });
      active.insert(active.end(), starting.begin(), starting.end());
    }
    return at * row >= n && active.empty();
  }

  // The rows [at, next) hold the same boxes; the last row of all may be shorter.
  bool interval_covers(const std::vector<Rows>& all, const std::vector<std::size_t>& active, std::int64_t row,
                       std::int64_t width, std::int64_t at, std::int64_t next) {
    if (at == next) return true;
    if (width < row && next - at > 1) return false;
    std::vector<Box> boxes;
    for (const std::size_t i : active) boxes.push_back(all[i].box);
    return covers(boxes, width);
  }

  std::int64_t work_ = 0;
};

void check_entry(const GraphPart& part, std::size_t i, std::int64_t elements) {
  const DiskTensor& tensor = part.tensors[i];
  // 2^40 numbers of a stride below 2^49, 8 times: more than 64 bits.
  unsigned __int128 last = static_cast<unsigned __int128>(tensor.offset);
  for (std::size_t d = 0; d < tensor.shape.size(); ++d) {
    if (tensor.shape[d] == 0) return;  // nothing lies anywhere
    last += static_cast<unsigned __int128>(tensor.shape[d] - 1) * static_cast<unsigned __int128>(tensor.stride[d]);
  }
  if (last >= static_cast<unsigned __int128>(elements)) {
    throw bad_input(
        fmt::format("{}.tensors[{}]", part.place, i),
        fmt::format("{} reaches beyond the {} elements of {}", shown(tensor.disk), elements, shown(tensor.param)),
        kExportAgain);
  }
}

}  // namespace

void check_tensors(const GraphPart& part) {
  std::map<std::string, std::vector<Box>> boxes;
  for (const auto& [name, spec] : part.parameters) boxes[name];
  for (std::size_t i = 0; i < part.tensors.size(); ++i) {
    const DiskTensor& tensor = part.tensors[i];
    const auto found = part.parameters.find(tensor.param);
    if (found == part.parameters.end()) {
      throw bad_input(fmt::format("{}.tensors[{}]", part.place, i),
                      fmt::format("{} is not one of the part's parameters", shown(tensor.param)), kExportAgain);
    }
    check_entry(part, i, element_count(found->second.shape));
    if (element_count(tensor.shape) > 0) boxes[tensor.param].push_back(box_of(tensor));
  }
  for (const auto& [name, of_parameter] : boxes) {
    if (Tiling().covers(of_parameter, element_count(part.parameters.at(name).shape))) continue;
    throw bad_input(fmt::format("{}.parameters['{}']", part.place, name),
                    "the tensors on disk do not cover it, each element once", kExportAgain);
  }
}

}  // namespace roundtable
